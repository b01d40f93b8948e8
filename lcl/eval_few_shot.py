"""Entry point: classification from a few images of each class, beside random weights, raw pixels and shuffled labels."""

from pathlib import Path

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.evals.classification import evaluate_few_shot
from lcl.evals.few_shot import FewShotConfig
from lcl.evals.results import check_output, publish
from lcl.evals.settings import EvalConfig, open_cache, open_images, open_model


@config
class EvalFewShotConfig(EvalConfig):
    few_shot: FewShotConfig = FewShotConfig()


def main(settings: EvalFewShotConfig) -> None:
    set_up_logging()
    output = check_output(Path(settings.output), task="few-shot classification")
    model, images, cache = open_model(settings), open_images(settings), open_cache(settings, beside=output.parent)
    publish(evaluate_few_shot(model, images, cache, seed=settings.seed, controls=settings.controls, settings=settings.few_shot), output)


if __name__ == "__main__":
    run_command(EvalFewShotConfig, main, description=__doc__.splitlines()[0])
