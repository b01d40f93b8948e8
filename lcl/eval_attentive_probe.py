"""Entry point: attentive probe of a trained encoder's patch tokens, beside random weights, raw pixels and shuffled labels."""

from pathlib import Path

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.evals.attentive_probe import AttentiveProbeConfig
from lcl.evals.classification import evaluate_attentive
from lcl.evals.results import check_output, publish
from lcl.evals.settings import EvalConfig, open_cache, open_images, open_model


@config
class EvalAttentiveConfig(EvalConfig):
    probe: AttentiveProbeConfig = AttentiveProbeConfig()


def main(settings: EvalAttentiveConfig) -> None:
    set_up_logging()
    output = check_output(Path(settings.output), task="attentive probe")
    model, images, cache = open_model(settings), open_images(settings), open_cache(settings, beside=output.parent)
    publish(evaluate_attentive(model, images, cache, seed=settings.seed, controls=settings.controls, settings=settings.probe), output)


if __name__ == "__main__":
    run_command(EvalAttentiveConfig, main, description=__doc__.splitlines()[0])
