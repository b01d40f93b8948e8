"""Entry point: linear probe of a trained encoder, beside random weights, raw pixels and shuffled labels."""

from pathlib import Path

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.evals.classification import evaluate_linear
from lcl.evals.linear_probe import LinearProbeConfig
from lcl.evals.results import check_output, publish
from lcl.evals.settings import EvalConfig, open_cache, open_images, open_model


@config
class EvalLinearConfig(EvalConfig):
    probe: LinearProbeConfig = LinearProbeConfig()


def main(settings: EvalLinearConfig) -> None:
    set_up_logging()
    output = check_output(Path(settings.output), task="linear probe")
    model, images, cache = open_model(settings), open_images(settings), open_cache(settings, beside=output.parent)
    publish(evaluate_linear(model, images, cache, seed=settings.seed, controls=settings.controls, settings=settings.probe), output)


if __name__ == "__main__":
    run_command(EvalLinearConfig, main, description=__doc__.splitlines()[0])
