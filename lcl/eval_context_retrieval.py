"""Entry point: images of shards by the text and images before them, beside the same model with random weights."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.evals.context_retrieval import ContextRetrievalConfig, evaluate_context_retrieval
from lcl.evals.evaluated import Control, Device, EvaluatedModel
from lcl.evals.results import check_output, publish
from lcl.features import Weights


@config
class EvalContextRetrievalConfig:
    checkpoint: str
    """A run folder (its newest checkpoint) or one checkpoint (step-N)."""
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of shards, or selections of them, that the model was not trained on."""
    output: str
    """JSON file for the result; its predictions go beside it."""
    retrieval: ContextRetrievalConfig = ContextRetrievalConfig()
    weights: Weights = "model"
    """Weights of the last step, or their moving average."""
    controls: tuple[Control, ...] = ("random",)
    """What is measured beside it: the model at its random start, or () for nothing."""
    device: Device = "cpu"
    seed: int = 0


def main(settings: EvalContextRetrievalConfig) -> None:
    set_up_logging()
    output = check_output(Path(settings.output), task=f"context retrieval ({settings.retrieval.candidates})")
    model = EvaluatedModel.open(settings.checkpoint, weights=settings.weights, device=settings.device)
    publish(evaluate_context_retrieval(model, [Path(folder) for folder in settings.shards], seed=settings.seed, controls=settings.controls, settings=settings.retrieval), output)


if __name__ == "__main__":
    run_command(EvalContextRetrievalConfig, main, description=__doc__.splitlines()[0])
