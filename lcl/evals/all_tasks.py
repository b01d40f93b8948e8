"""All protocols on one image set, from one cache of features."""

import logging
from collections.abc import Iterator, Sequence

from lcl.core.config import config
from lcl.evals.attentive_probe import AttentiveProbeConfig
from lcl.evals.classification import evaluate_attentive, evaluate_few_shot, evaluate_knn, evaluate_linear, evaluate_zero_shot
from lcl.evals.evaluated import CONTROLS, Control, EvaluatedModel
from lcl.evals.feature_cache import FeatureCache
from lcl.evals.few_shot import FewShotConfig
from lcl.evals.image_sets import ImageSet
from lcl.evals.knn import KnnConfig
from lcl.evals.linear_probe import LinearProbeConfig
from lcl.evals.results import Result, Task
from lcl.evals.retrieval import evaluate_retrieval

log = logging.getLogger(__name__)


TASKS: dict[str, Task] = {  # by the names of their files
    "attentive_probe": "attentive probe", "linear_probe": "linear probe", "knn": "nearest neighbours", "few_shot": "few-shot classification", "zero_shot": "zero-shot classification",
    "retrieval": "image-text retrieval",
}  # fmt: skip


@config
class AllTasksConfig:
    attentive: AttentiveProbeConfig = AttentiveProbeConfig()
    linear: LinearProbeConfig = LinearProbeConfig()
    knn: KnnConfig = KnnConfig()
    few_shot: FewShotConfig = FewShotConfig()


def evaluate_all(
    model: EvaluatedModel, images: ImageSet, cache: FeatureCache, *, seed: int = 0, controls: Sequence[Control] = CONTROLS, settings: AllTasksConfig = AllTasksConfig()
) -> Iterator[tuple[str, Result]]:
    """A name for the file of each result, and the result, one after another; of an encoder alone those that need no text. Raises ValueError as the protocols do."""
    yield "attentive_probe", evaluate_attentive(model, images, cache, seed=seed, controls=controls, settings=settings.attentive)  # first: patch tokens bring the pooled vectors
    yield "linear_probe", evaluate_linear(model, images, cache, seed=seed, controls=controls, settings=settings.linear)
    yield "knn", evaluate_knn(model, images, cache, seed=seed, controls=controls, settings=settings.knn)
    yield "few_shot", evaluate_few_shot(model, images, cache, seed=seed, controls=controls, settings=settings.few_shot)
    if not model.has_text:
        log.info("left out: zero-shot classification and retrieval, for %s is an image encoder alone", model.path)
        return
    yield "zero_shot", evaluate_zero_shot(model, images, cache, seed=seed, controls=controls)
    if any(images.captions[place] for place in images.split("test")):
        yield "retrieval", evaluate_retrieval(model, images, cache, seed=seed, controls=controls)
