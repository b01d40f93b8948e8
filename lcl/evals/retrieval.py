"""Image-text retrieval in the contrastive space, both ways, with any number of captions for an image.

    pooled latents of images  <--cosine-->  text features of captions (at <soi>, lcl/evals/zero_shot.py)
"""

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from lcl.evals.classification import describe_set
from lcl.evals.evaluated import CONTROLS, Control, EvaluatedModel
from lcl.evals.feature_cache import FeatureCache, one_thread
from lcl.evals.image_sets import ImageSet, captioned_index
from lcl.evals.intervals import clustered_share, exact
from lcl.evals.results import Predictions, Result, Row, by_metric
from lcl.evals.zero_shot import text_features

TOP = (1, 5, 10)
CHUNK = 256       # queries whose similarities to all candidates exist at one time
TIE = 1e-6        # similarities that are nearer are equal: float32 rounds a product of unit vectors to less
TEXTS = 64        # at a time


@torch.no_grad()
def ranks(
    queries: Float[Tensor, "queries embed"], candidates: Float[Tensor, "candidates embed"], query_groups: Int[Tensor, " queries"], candidate_groups: Int[Tensor, " candidates"],
    *, chunk: int = CHUNK,
) -> tuple[Int[np.ndarray, " queries"], Int[np.ndarray, " queries"]]:
    """The rank (from 1) of each query's nearest right candidate, and the candidate that is nearest of all.

    A candidate is right if it is of the query's group. The rank is 1 + the number of wrong candidates whose cosine is as high or higher, in float32: ties
    count against the model, so a constant feature finds nothing. Every query needs a right candidate.
    """
    unit_queries, unit_candidates = (functional.normalize(vectors.float(), dim=-1) for vectors in (queries, candidates))
    found, nearest = [], []
    for part, groups in zip(unit_queries.split(chunk), query_groups.split(chunk), strict=True):
        similar = part @ unit_candidates.T
        right = groups[:, None] == candidate_groups[None]
        assert bool(right.any(dim=1).all())
        best = similar.masked_fill(~right, -math.inf).amax(dim=1, keepdim=True)
        found.append(1 + ((similar >= best - TIE) & ~right).sum(dim=1))
        nearest.append(similar.argmax(dim=1))
    return torch.cat(found).numpy(), torch.cat(nearest).numpy()


def chance_of(num_right: Int[np.ndarray, " queries"], num: int, *, k: int) -> float:
    """The mean probability that k of `num` candidates, drawn without repetition, hold one of the `num_right` right ones."""
    return float(np.mean([1 - math.comb(num - right, k) / math.comb(num, k) for right in num_right.tolist()]))


def evaluate_retrieval(model: EvaluatedModel, images: ImageSet, cache: FeatureCache, *, seed: int = 0, controls: Sequence[Control] = CONTROLS) -> Result:
    """R@1, R@5 and R@10 of the test images' captions by image and of the images by caption.

    Raises ValueError for an encoder alone, if the set has no test split, if no image of it has a caption, and as the cache.
    """
    model.require_text("image-text retrieval")
    began, test = time.perf_counter(), images.split("test")
    test = np.array([place for place in test if images.captions[place]], dtype=int)
    if len(test) < 2:
        raise ValueError(f"{images.name}: fewer than two of its test images have captions; WebDataset (.txt, .json) and Hugging Face datasets hold them (docs/evaluation.md)")
    captions = [caption for place in test for caption in images.captions[place]]
    image_of = np.repeat(np.arange(len(test)), [len(images.captions[place]) for place in test])
    ids = [images.ids[place] for place in test]
    caption_ids = [f"{images.ids[place]}#{number}" for place in test for number in range(len(images.captions[place]))]
    groups = torch.arange(len(test)), torch.from_numpy(image_of)
    rows, predictions = [], []
    subjects = model.encoders(controls, seed=seed)
    for subject in subjects:
        cache.ensure(subject, images, "pooled")
    with one_thread():
        for subject in subjects:
            pooled = torch.from_numpy(cache.get(subject, images, "pooled").values[test])
            lcl, tokenizer = subject.loaded
            texts = torch.cat([text_features(lcl, tokenizer, captions[at : at + TEXTS]).float().cpu() for at in range(0, len(captions), TEXTS)])
            for way, asked, offered, labels, names, clusters in (
                ("image to text", (pooled, groups[0]), (texts, groups[1]), ids, caption_ids, ids),
                ("text to image", (texts, groups[1]), (pooled, groups[0]), [ids[image] for image in image_of], ids, [ids[image] for image in image_of]),
            ):
                found, nearest = ranks(asked[0], offered[0], asked[1], offered[1])
                rows += recall_rows(subject.name, way, found, clusters, of="images")
                items = ids if way == "image to text" else caption_ids
                predictions.append(Predictions(subject.name, f"{way} R@1", items, labels, [names[place] for place in nearest], found == 1, found, clusters=clusters))
    counts = np.bincount(image_of)
    for way, right, num in (("image to text", counts, len(captions)), ("text to image", np.ones(len(captions), dtype=int), len(test))):
        rows += [Row("chance", f"{way} R@{k}", exact(chance_of(right, num, k=k), len(right))) for k in TOP if k <= num]
    protocol = {
        "features": "pooled latent, cosine in float32", "text_feature": "at <soi> in the place of <eot>",
        "right": "any positive among the first k", "ties": f"against the model, within {TIE:g}",
        "num_captions": len(captions), "num_images": len(test), "preprocessing": model.preprocessing(), "score": "rank of the nearest right candidate",
    }  # fmt: skip
    left = len(images.split("test")) - len(test)
    return Result(
        task="image-text retrieval", dataset=describe_set(images, "not used") | {"index_sha256": captioned_index(images, images.captions)}, model=model.record(), protocol=protocol, rows=by_metric(rows), predictions=predictions,
        seeds=[seed], seconds=time.perf_counter() - began, left_out=[f"{left} test images without a caption"] if left else [],
    )  # fmt: skip


def recall_rows(name: str, way: str, found: Int[np.ndarray, " queries"], clusters: Sequence[str], *, of: str) -> list[Row]:
    """R@k of ranks, with intervals by bootstrap over clusters."""
    return [Row(name, f"{way} R@{k}", clustered_share(found <= k, clusters, of=of)) for k in TOP]
