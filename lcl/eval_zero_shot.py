"""Entry point: zero-shot classification by a trained model, beside the same model with random weights."""

from pathlib import Path

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from lcl.evals.classification import evaluate_zero_shot
from lcl.evals.results import check_output, publish
from lcl.evals.settings import EvalConfig, open_cache, open_images, open_model


def main(settings: EvalConfig) -> None:
    set_up_logging()
    output = check_output(Path(settings.output), task="zero-shot classification")
    model, images, cache = open_model(settings), open_images(settings), open_cache(settings, beside=output.parent)
    publish(evaluate_zero_shot(model, images, cache, seed=settings.seed, controls=settings.controls), output)


if __name__ == "__main__":
    run_command(EvalConfig, main, description=__doc__.splitlines()[0])
