"""Entry point: classification by nearest neighbours, beside random weights, raw pixels and shuffled labels."""

from pathlib import Path

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.evals.classification import evaluate_knn
from lcl.evals.knn import KnnConfig
from lcl.evals.results import check_output, publish
from lcl.evals.settings import EvalConfig, open_cache, open_images, open_model


@config
class EvalKnnConfig(EvalConfig):
    knn: KnnConfig = KnnConfig()


def main(settings: EvalKnnConfig) -> None:
    set_up_logging()
    output = check_output(Path(settings.output), task="nearest neighbours")
    model, images, cache = open_model(settings), open_images(settings), open_cache(settings, beside=output.parent)
    publish(evaluate_knn(model, images, cache, seed=settings.seed, controls=settings.controls, settings=settings.knn), output)


if __name__ == "__main__":
    run_command(EvalKnnConfig, main, description=__doc__.splitlines()[0])
