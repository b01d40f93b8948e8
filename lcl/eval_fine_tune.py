"""Entry point: the whole encoder trained to classify, beside the same from random weights and shuffled labels."""

from pathlib import Path

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.evals.fine_tune import FineTuneConfig, evaluate_fine_tuned
from lcl.evals.results import check_output, publish
from lcl.evals.settings import EvalConfig, open_images, open_model


@config
class EvalFineTuneConfig(EvalConfig):
    fine_tune: FineTuneConfig = FineTuneConfig()


def main(settings: EvalFineTuneConfig) -> None:
    set_up_logging()
    output = check_output(Path(settings.output), task="fine-tuning")
    model, images = open_model(settings), open_images(settings)
    publish(evaluate_fine_tuned(model, images, seed=settings.seed, controls=settings.controls, settings=settings.fine_tune), output)


if __name__ == "__main__":
    run_command(EvalFineTuneConfig, main, description=__doc__.splitlines()[0])
