"""Entry point: a small decoder trained to describe images by frozen patch tokens, beside random weights, raw pixels and no image."""

from pathlib import Path

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.evals.captioning import CaptioningConfig, evaluate_captioning
from lcl.evals.results import check_output, publish
from lcl.evals.settings import EvalConfig, open_cache, open_images, open_model


@config
class EvalCaptioningConfig(EvalConfig):
    captioning: CaptioningConfig = CaptioningConfig()


def main(settings: EvalCaptioningConfig) -> None:
    set_up_logging()
    output = check_output(Path(settings.output), task="captioning")
    model, images, cache = open_model(settings), open_images(settings), open_cache(settings, beside=output.parent)
    publish(evaluate_captioning(model, images, cache, seed=settings.seed, controls=settings.controls, settings=settings.captioning), output)


if __name__ == "__main__":
    run_command(EvalCaptioningConfig, main, description=__doc__.splitlines()[0])
