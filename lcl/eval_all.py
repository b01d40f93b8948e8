"""Entry point: linear, attentive, nearest-neighbour, few-shot and zero-shot classification (and retrieval, where there are captions) from one cache."""

from pathlib import Path

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.evals.all_tasks import TASKS, AllTasksConfig, evaluate_all
from lcl.evals.results import check_output, publish
from lcl.evals.settings import EvalConfig, open_cache, open_images, open_model


@config
class EvalAllConfig(EvalConfig):
    output: str
    """Folder for the results, a JSON file and its predictions for each task; without --cache, features go to lcl-cache in it."""
    tasks: AllTasksConfig = AllTasksConfig()


def main(settings: EvalAllConfig) -> None:
    set_up_logging()
    folder = Path(settings.output)
    if folder.is_file():
        raise ValueError(f"--output {folder} is a file; give a folder for the results")
    for name, task in TASKS.items():
        check_output(folder / f"{name}.json", task=task)
    model, images, cache = open_model(settings), open_images(settings), open_cache(settings, beside=folder)
    for name, result in evaluate_all(model, images, cache, seed=settings.seed, controls=settings.controls, settings=settings.tasks):
        publish(result, folder / f"{name}.json")


if __name__ == "__main__":
    run_command(EvalAllConfig, main, description=__doc__.splitlines()[0])
