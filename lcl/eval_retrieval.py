"""Entry point: images by their captions and captions by their images, beside the same model with random weights."""

from pathlib import Path

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from lcl.evals.results import check_output, publish
from lcl.evals.retrieval import evaluate_retrieval
from lcl.evals.settings import EvalConfig, open_cache, open_images, open_model


def main(settings: EvalConfig) -> None:
    set_up_logging()
    output = check_output(Path(settings.output), task="image-text retrieval")
    model, images, cache = open_model(settings), open_images(settings), open_cache(settings, beside=output.parent)
    publish(evaluate_retrieval(model, images, cache, seed=settings.seed, controls=settings.controls), output)


if __name__ == "__main__":
    run_command(EvalConfig, main, description=__doc__.splitlines()[0])
