"""Composed scenes, their metrics by hand, and the dense probe on scenes that can and cannot be read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcl import eval_dense_probe
from lcl.core.files import read_json
from lcl.evals.compare import compare
from lcl.evals.dense_probe import DenseProbeConfig, class_counts, evaluate_dense, mean_iou
from lcl.evals.evaluated import EvaluatedModel
from lcl.evals.feature_cache import FeatureCache
from lcl.evals.image_sets import ImageSet, open_image_set
from lcl.evals.linear_probe import LinearProbeConfig
from lcl.evals.scenes import SceneConfig, compose, compose_scenes, patch_labels, whole_pixels
from tests.made_checkpoint import made_checkpoint, made_pictures, write_files

SMALL = SceneConfig(num_train=30, num_validation=8, num_test=12, smallest=0.4, largest=0.7)
SETTINGS = DenseProbeConfig(scenes=SMALL, probe=LinearProbeConfig(strengths=(0.1, 10.0), max_iterations=50))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("images") / "colours", made_pictures({"train": 6, "validation": 2, "test": 4}))


@pytest.fixture(scope="module")
def images(folder: Path) -> ImageSet:
    return open_image_set(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedModel:
    return EvaluatedModel.open(made_checkpoint(tmp_path_factory.mktemp("model") / "step-000007"))


def test_iou_by_hand() -> None:
    """Class 0: 2 both of 5 either; class 1: 1 of 4; class 2 is nowhere. Of two equal scenes the same."""
    truth = np.array([[[0, 0, 0], [1, 1, 1]]])
    named = np.array([[[0, 0, 1], [0, 0, 1]]])
    both, either = class_counts(truth, named, num_classes=3)
    assert both.tolist() == [[2, 1, 0]] and either.tolist() == [[5, 4, 0]]
    assert mean_iou(truth, named, num_classes=3).value == pytest.approx((2 / 5 + 1 / 4) / 2)
    two = mean_iou(truth.repeat(2, axis=0), named.repeat(2, axis=0), num_classes=3)
    assert two.value == pytest.approx(two.low) == pytest.approx(two.high) == pytest.approx(0.325) and two.n == 2
    assert mean_iou(truth, truth, num_classes=3).value == 1


def test_iou_counts_pixels_of_all_scenes_together() -> None:
    """A scene with all right and one with all wrong: 4 both of 12 either a class, not the mean of the scenes' own."""
    truth = np.array([[[0, 0, 0, 0], [1, 1, 1, 1]]] * 2)
    named = np.stack([truth[0], 1 - truth[1]])
    estimate = mean_iou(truth, named, num_classes=2)
    assert estimate.value == pytest.approx(4 / 12) and estimate.low == 0 and estimate.high == 1


def test_patches_take_the_majority_and_ties_the_smallest_class() -> None:
    labels = np.array([[[0, 2, 1, 1], [2, 2, 1, 2], [0, 0, 2, 2], [1, 1, 2, 2]]])
    found = patch_labels(labels, patch_px=2, num_classes=3)
    assert found.tolist() == [[[2, 1], [0, 2]]]
    assert whole_pixels(found, patch_px=2)[0].tolist() == [[2, 2, 1, 1], [2, 2, 1, 1], [0, 0, 2, 2], [0, 0, 2, 2]]
    assert np.array_equal(patch_labels(whole_pixels(found, patch_px=2), patch_px=2, num_classes=3), found)


def test_a_scene_shows_what_its_labels_say() -> None:
    objects = [(Image.new("RGB", (20, 10), colour), label) for colour, label in (((255, 0, 0), 0), ((0, 0, 255), 1))]
    for seed in range(5):
        scene = compose(objects, side_px=32, background=2, settings=SMALL, random=np.random.default_rng(seed))
        assert set(np.unique(scene.labels)) <= {0, 1, 2} and (scene.labels == 1).any()
        assert (scene.pixels[scene.labels == 1] == (0, 0, 255)).all() and (scene.pixels[scene.labels == 0] == (255, 0, 0)).all()
        height, width = (np.flatnonzero((scene.labels == 1).any(axis=axis)) for axis in (1, 0))
        assert np.ptp(width) + 1 == pytest.approx(2 * (np.ptp(height) + 1), abs=1), "in front, whole, at its own aspect"
        assert 0.4 * 32 - 1 <= np.ptp(width) + 1 <= 0.7 * 32 + 1
        assert scene.pixels[scene.labels == 2].std() > 5


def test_scenes_are_of_their_split_and_seed_alone(images: ImageSet) -> None:
    places = images.splits
    scenes = compose_scenes(images, places, side_px=32, settings=SMALL, seed=1)
    more = compose_scenes(images, places, side_px=32, settings=replace(SMALL, num_train=40), seed=1)
    other = compose_scenes(images, places, side_px=32, settings=SMALL, seed=2)
    assert len(scenes.images) == 50 and scenes.classes == ("blue", "green", "red", "background")
    assert all(np.array_equal(scenes.pixels(place), more.pixels(place)) for place in range(30))
    for split in ("validation", "test"):
        assert np.array_equal(scenes.labels[scenes.images.split(split)], more.labels[more.images.split(split)])
    assert not np.array_equal(scenes.pixels(0), other.pixels(0)) and scenes.images.index_sha256 != more.images.index_sha256
    fewer_train = {**places, "train": places["train"][:3]}
    again = compose_scenes(images, fewer_train, side_px=32, settings=SMALL, seed=1)
    assert np.array_equal(again.labels[30:], scenes.labels[30:]) and all(np.array_equal(again.pixels(place), scenes.pixels(place)) for place in range(30, 50))
    assert not np.array_equal(again.pixels(0), scenes.pixels(0)), "a test scene shows test images alone, a training scene training images"


def test_the_probe_reads_scenes_and_not_shuffled_labels(model: EvaluatedModel, images: ImageSet, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    result, segmented = evaluate_dense(model, images, cache, settings=SETTINGS, num_shown=3)
    models = [row.model for row in result.rows if row.metric == "mean IoU"]
    assert models == ["trained encoder", "shuffled labels", "random weights", "raw pixels of each patch", "most frequent class", "true class of each patch"]
    iou = {name: result.value(name, "mean IoU") for name in models}
    assert iou["true class of each patch"] > iou["trained encoder"] > iou["shuffled labels"] + 0.2 and iou["shuffled labels"] < 0.3
    accuracy = {name: result.value(name, "patch accuracy") for name in models[:5]}
    assert abs(accuracy["shuffled labels"] - accuracy["most frequent class"]) < 0.1 < accuracy["trained encoder"] - accuracy["most frequent class"]
    assert result.value("chance", "patch accuracy") == 1 / 4 and all(row.estimate.low <= row.estimate.value <= row.estimate.high for row in result.rows)
    assert segmented.pixels.shape == (3, 32, 32, 3) and set(segmented.predicted) == {"trained encoder", "random weights", "raw pixels of each patch"}
    trained = result.predictions[0]
    assert len(trained.items) == 12 * 64 and trained.items[0] == "test/scene-00000#0,0" and len(set(trained.clusters)) == 12
    again, _ = evaluate_dense(model, images, cache, settings=SETTINGS, controls=())
    assert again.value("trained encoder", "mean IoU") == iou["trained encoder"]


def test_scenes_that_do_not_fit_are_one_error(model: EvaluatedModel, images: ImageSet, tmp_path: Path) -> None:
    for scenes, message in (
        (replace(SMALL, scene_px=30), "--dense.scenes.scene-px 30 is no whole number of the encoder's patches of 4 px: give 32"),
        (replace(SMALL, min_objects=6), "--dense.scenes.min-objects 6 is more than"), (replace(SMALL, smallest=0.9), "--dense.scenes.smallest 0.9 is more than"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            evaluate_dense(model, images, FeatureCache(tmp_path), settings=replace(SETTINGS, scenes=scenes))


@pytest.mark.parametrize("kind", ["vit", "naflex"])
def test_command(kind: str, folder: Path, tmp_path: Path) -> None:
    checkpoint = made_checkpoint(tmp_path / "model", kind=kind)
    for name, shown in (("one", 2), ("two", 1)):
        eval_dense_probe.main(
            eval_dense_probe.EvalDenseConfig(checkpoint=str(checkpoint), data=str(folder), output=str(tmp_path / f"{name}.json"), dense=SETTINGS, num_shown=shown, controls=("random",))
        )
    with Image.open(tmp_path / "one.scenes.png") as one, Image.open(tmp_path / "two.scenes.png") as two:
        assert one.width > two.width > 100
    assert read_json(tmp_path / "one.json")["dataset"]["name"] == "scenes of colours"
    (difference,) = compare(tmp_path / "one.json", tmp_path / "two.json")
    assert difference.metric == "patch accuracy" and difference.difference.value == 0 and difference.p_value is None
