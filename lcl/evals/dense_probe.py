"""A linear probe on patch tokens: which class does each part of a scene show?

    scenes (lcl/evals/scenes.py) --frozen encoder--> a token a patch --logistic regression--> a class a patch --> a class a pixel
        beside the encoder's random twin, the pixels of each patch, shuffled labels, the most frequent class, and the best that whole patches can do

Patch tokens alone are read, so it shows what they know of their own place, as the linear protocol of segmentation does (Oquab et al. 2023,
arXiv:2304.07193, section 7.4).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from pydantic import Field

from lcl.core.config import config, to_dict
from lcl.core.logs import progress_bar
from lcl.evals.classification import SHUFFLED, describe_choice, describe_set, divide
from lcl.evals.evaluated import CONTROLS, Control, EvaluatedModel, ModelSubject, Vectors
from lcl.evals.examples import Examples
from lcl.evals.feature_cache import FeatureCache, one_thread
from lcl.evals.image_sets import ImageSet
from lcl.evals.intervals import RESAMPLES, Estimate, clustered_share, exact
from lcl.evals.linear_probe import LinearProbeConfig, linear_probe
from lcl.evals.results import TRAINED, Predictions, Result, Row, by_metric
from lcl.evals.scenes import BLOBS, DIM, NOISE, SceneConfig, Scenes, compose_scenes, from_raw, patch_labels, whole_pixels

MEAN_IOU, PATCH_ACCURACY = "mean IoU", "patch accuracy"
OVER = "scenes"


@config
class DenseProbeConfig:
    scenes: SceneConfig = SceneConfig()
    probe: LinearProbeConfig = LinearProbeConfig(strengths=(1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0), max_iterations=100)
    """The logistic regression on patch tokens; its strength has the best patch accuracy on the validation scenes."""
    max_patches: Annotated[int, Field(ge=1)] = 20_000
    """Patches of the training scenes, and of the validation scenes, that it is fitted on at most; drawn by the seed."""


@dataclass(frozen=True)
class Segmented:
    """Test scenes with the true class of each pixel and the one that each encoder gives it, for a gallery."""

    pixels: UInt8[np.ndarray, "scenes side side 3"]
    truth: Int[np.ndarray, "scenes side side"]
    predicted: dict[str, Int[np.ndarray, "scenes side side"]]
    classes: tuple[str, ...]


def evaluate_dense(
    model: EvaluatedModel, images: ImageSet, cache: FeatureCache, *, seed: int = 0, controls: Sequence[Control] = CONTROLS, settings: DenseProbeConfig = DenseProbeConfig(),
    num_shown: int = 8,
) -> tuple[Result, Segmented]:  # fmt: skip
    """Mean IoU over the pixels and accuracy over the patches of test scenes, and the first `num_shown` of them.

    Raises ValueError for a scene that is no whole number of patches, and as `divide`, `compose_scenes` and the cache.
    """
    began, divided = time.perf_counter(), divide(images, seed=seed)
    patch_px, side_px = model.settings.vision.tower().patch_px, _side_px(model, settings.scenes)
    places = {"train": divided.train, "validation": divided.validation, "test": divided.test}
    scenes = compose_scenes(images, places, side_px=side_px, settings=settings.scenes, seed=seed)
    num_classes, splits = len(scenes.classes), scenes.images.splits
    wanted = patch_labels(scenes.labels, patch_px=patch_px, num_classes=num_classes)
    truth, labels = scenes.labels[splits["test"]], wanted[splits["test"]]
    drawn = {name: _draw(splits[name], wanted[0].size, most=settings.max_patches, seed=(seed, number)) for number, name in enumerate(("train", "validation"))}
    rows: list[Row] = []
    predictions: list[Predictions] = []
    sweeps: dict[str, Any] = {}
    shown: dict[str, Int[np.ndarray, "scenes side side"]] = {}

    def take(name: str, found: Int[np.ndarray, "scenes rows columns"], detail: str = "") -> None:
        predicted = whole_pixels(found, patch_px=patch_px)
        rows.append(Row(name, MEAN_IOU, mean_iou(truth, predicted, num_classes=num_classes, seed=seed), detail))
        predictions.append(_predictions(name, scenes, labels, found))
        rows.append(Row(name, PATCH_ACCURACY, clustered_share((found == labels).ravel(), predictions[-1].clusters, of=OVER, seed=seed), detail))

    subjects = _subjects(model, controls, side_px=side_px, patch_px=patch_px, seed=seed)
    for subject in subjects:
        cache.ensure(subject, scenes.images, "tokens")
    with one_thread(), progress_bar("dense probe", total=len(subjects)) as bar:
        for subject in subjects:
            tokens = cache.get(subject, scenes.images, "tokens").values
            train, validation = (Examples(tokens[scene, patch].astype(np.float32), wanted.reshape(len(wanted), -1)[scene, patch]) for scene, patch in drawn.values())
            test = rearrange(tokens[splits["test"]], "scenes patches width -> (scenes patches) width").astype(np.float32)
            outcome = linear_probe(train, validation, test, num_classes=num_classes, settings=settings.probe)
            sweeps[subject.name] = {"chosen_on": f"patches of validation scenes ({divided.validation_is})", "chosen": dict(outcome.chosen), "tried": list(outcome.sweep)}
            detail = describe_choice(outcome)
            found = outcome.predicted.reshape(labels.shape)
            take(subject.name, found, detail)
            shown[subject.name] = whole_pixels(found[:num_shown], patch_px=patch_px)
            if subject.name == TRAINED and "shuffled" in controls:
                random, narrow = np.random.default_rng(seed), replace(settings.probe, strengths=(outcome.chosen["C"],))
                mixed = (part.with_labels(random.permutation(part.labels)) for part in (train, validation))
                take(SHUFFLED, linear_probe(*mixed, test, num_classes=num_classes, settings=narrow).predicted.reshape(labels.shape), f"{TRAINED}, {detail}")
            bar.advance()
    constant = np.full_like(labels, np.bincount(labels.ravel()).argmax())
    take("most frequent class", constant, f"always {scenes.classes[constant.flat[0]]}")
    rows.append(Row("true class of each patch", MEAN_IOU, mean_iou(truth, whole_pixels(labels, patch_px=patch_px), num_classes=num_classes, seed=seed), "the most that whole patches can reach"))
    rows.append(Row("chance", PATCH_ACCURACY, exact(1 / num_classes, labels.size), f"{num_classes} classes"))
    protocol = {
        "features": "patch tokens behind the tower's last norm, float16", "classifier": "standardised tokens, logistic regression (L-BFGS)", "patch_label": "majority of its pixels",
        "scene_px": side_px, "patch_px": patch_px, "background": {"class": scenes.classes[-1], "coarse_squares": BLOBS, "coarse_range": DIM, "noise_of_255": NOISE},
        "iou": "pixels of all test scenes together; mean over classes that are there or named", "settings": to_dict(settings),
    }  # fmt: skip
    dataset = describe_set(images, divided.validation_is) | {"name": scenes.images.name, "index_sha256": scenes.images.index_sha256, "images_sha256": images.index_sha256}
    result = Result(
        task="dense probe", dataset=dataset | {"splits": {name: len(part) for name, part in splits.items()}, "num_classes": num_classes}, model=model.record(), protocol=protocol,
        rows=by_metric(rows), predictions=predictions, seeds=[seed], seconds=time.perf_counter() - began, sweeps=sweeps,
    )  # fmt: skip
    pixels = np.stack([scenes.pixels(place) for place in splits["test"][:num_shown]])
    return result, Segmented(pixels, truth[:num_shown], shown, scenes.classes)


def class_counts(
    truth: Int[np.ndarray, "scenes height width"], predicted: Int[np.ndarray, "scenes height width"], *, num_classes: int
) -> tuple[Int[np.ndarray, "scenes classes"], Int[np.ndarray, "scenes classes"]]:
    """For each scene and class: pixels that are of it and named so, and pixels that are of it or named so."""
    both, either = np.zeros((2, len(truth), num_classes), dtype=np.int64)
    for scene, (true, named) in enumerate(zip(truth.reshape(len(truth), -1), predicted.reshape(len(truth), -1), strict=True)):
        both[scene] = np.bincount(true[true == named], minlength=num_classes)
        either[scene] = np.bincount(true, minlength=num_classes) + np.bincount(named, minlength=num_classes) - both[scene]
    return both, either


def mean_iou(truth: Int[np.ndarray, "scenes height width"], predicted: Int[np.ndarray, "scenes height width"], *, num_classes: int, seed: int = 0) -> Estimate:
    """The mean over classes of |both| / |either|, pixels of all scenes counted together (Everingham et al. 2010); percentile bootstrap over scenes.

    A class that no pixel is of or is named does not count.
    """
    both, either = class_counts(truth, predicted, num_classes=num_classes)

    def of(times: Int[np.ndarray, "draws scenes"]) -> Float[np.ndarray, " draws"]:
        union = times @ either
        there = union > 0
        return ((times @ both) / np.where(there, union, 1)).sum(axis=1) / there.sum(axis=1)

    num = len(truth)
    drawn = of(np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), size=RESAMPLES))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(of(np.ones((1, num), dtype=np.int64))[0]), float(low), float(high), f"bootstrap over {OVER}", num)


class SceneSubject:
    """An encoder as a subject whose images are scenes: seen whole, at their own size."""

    def __init__(self, subject: ModelSubject, *, side_px: int) -> None:
        self.name, self.fingerprint, self.parallel = subject.name, subject.fingerprint, subject.parallel
        self.prepare = partial(from_raw, side_px=side_px)
        self._subject = subject

    @torch.no_grad()
    def encode(self, prepared: Sequence[Any]) -> Vectors:
        encoder = self._subject.encoder
        pixels = torch.from_numpy(rearrange(np.stack(prepared), "scenes height width channels -> scenes channels height width").copy())
        features = encoder(pixels.to(encoder.pool_project.query_token.device).float() / 255)
        return Vectors(features.pooled.float().cpu().numpy(), features.tokens.float().cpu().numpy(), (features.tokens.shape[1],) * len(prepared))


class PatchPixels:
    """The control: all values of a patch, in [0, 1], in the place of its token."""

    parallel = True

    def __init__(self, *, side_px: int, patch_px: int) -> None:
        self.name, self.fingerprint, self._patch_px = "raw pixels of each patch", f"pixels of patches of {patch_px}", patch_px
        self.prepare = partial(from_raw, side_px=side_px)

    def encode(self, prepared: Sequence[Any]) -> Vectors:
        pixels = np.stack(prepared).astype(np.float32) / 255
        patches = rearrange(pixels, "scenes (rows ph) (columns pw) c -> scenes (rows columns) (ph pw c)", ph=self._patch_px, pw=self._patch_px)
        return Vectors(patches.mean(axis=1), patches, (patches.shape[1],) * len(patches))


def _subjects(model: EvaluatedModel, controls: Sequence[Control], *, side_px: int, patch_px: int, seed: int) -> list[SceneSubject | PatchPixels]:
    encoders = model.encoders(controls, seed=seed)
    pixels = [PatchPixels(side_px=side_px, patch_px=patch_px)] if "pixels" in controls else []
    return [*(SceneSubject(subject, side_px=side_px) for subject in encoders), *pixels]


def _side_px(model: EvaluatedModel, settings: SceneConfig) -> int:
    vision = model.settings.vision
    patch_px = vision.tower().patch_px
    side_px = settings.scene_px or 2 * vision.square_px
    if side_px % patch_px:
        raise ValueError(f"--dense.scenes.scene-px {side_px} is no whole number of the encoder's patches of {patch_px} px: give {-(-side_px // patch_px) * patch_px}")
    return side_px


def _draw(scenes: Int[np.ndarray, " n"], num_patches: int, *, most: int, seed: tuple[int, int]) -> tuple[Int[np.ndarray, " drawn"], Int[np.ndarray, " drawn"]]:
    """Scene and patch of at most `most` patches of these scenes."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(scenes) * num_patches)[:most])
    return scenes[drawn // num_patches], drawn % num_patches


def _predictions(name: str, scenes: Scenes, labels: Int[np.ndarray, "scenes rows columns"], found: Int[np.ndarray, "scenes rows columns"]) -> Predictions:
    _, rows, columns = labels.shape
    names = [scenes.images.ids[place] for place in scenes.images.splits["test"]]
    items = [f"{scene}#{row},{column}" for scene in names for row in range(rows) for column in range(columns)]
    true, named = ([scenes.classes[label] for label in values.flat] for values in (labels, found))
    right = (labels == found).ravel()
    return Predictions(name, PATCH_ACCURACY, items, true, named, right, right, clusters=[scene for scene in names for _ in range(rows * columns)])
