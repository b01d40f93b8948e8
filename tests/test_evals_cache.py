"""Features are computed once, and depend on weights and images alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lcl.evals import feature_cache
from lcl.evals.classification import evaluate_linear
from lcl.evals.evaluated import EvaluatedModel
from lcl.evals.feature_cache import FeatureCache
from lcl.evals.image_sets import ImageSet, open_image_set
from lcl.rows import stack_inputs
from lcl.vision import normalise
from tests.made_checkpoint import made_checkpoint, made_pictures, write_files


@pytest.fixture(scope="module", params=["vit", "naflex"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EvaluatedModel:
    return EvaluatedModel.open(made_checkpoint(tmp_path_factory.mktemp("checkpoint") / request.param, kind=request.param))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return open_image_set(write_files(tmp_path_factory.mktemp("images") / "set", made_pictures({"train": 8, "test": 4})))


def test_pooled_latents_and_patch_tokens_are_those_of_the_model(model: EvaluatedModel, images: ImageSet, tmp_path: Path) -> None:
    cache, subject = FeatureCache(tmp_path), model.trained()
    pooled, tokens = (cache.get(subject, images, what) for what in ("pooled", "tokens"))
    lcl = subject.loaded[0]
    for place in (0, len(images) - 1):
        given = images.read(place, lcl.settings.vision.evaluation_input)
        with torch.no_grad():
            inputs = normalise(torch.from_numpy(stack_inputs([given])), dtype=torch.float32)
            np.testing.assert_allclose(pooled.values[place], lcl.encode_images(inputs, (given.grid,)).pooled[0].numpy(), atol=1e-5)
            patches = lcl.visual(inputs, (given.grid,))[0].numpy()
        assert tokens.counts is not None and tokens.counts[place] == len(patches) == given.grid[0] * given.grid[1]
        np.testing.assert_allclose(tokens.values[place, : len(patches)], patches, atol=3e-3)  # kept in float16
    assert pooled.values.dtype == np.float32 and tokens.values.dtype == np.float16


def test_features_do_not_depend_on_batch_order_or_threads(model: EvaluatedModel, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {what: FeatureCache(tmp_path / "whole").get(model.trained(), images, what).values for what in ("pooled", "tokens")}
    order = np.random.default_rng(0).permutation(len(images))
    ids, readers = (tuple(values[place] for place in order) for values in (images.ids, images.readers))
    shuffled = ImageSet("shuffled", images.classes, images.templates, ids, images.labels[order], images.captions, {}, readers)
    monkeypatch.setattr(feature_cache, "BATCH", 5)
    for what, tolerance in (("pooled", 1e-5), ("tokens", 4e-3)):
        np.testing.assert_allclose(FeatureCache(tmp_path / "small").get(model.trained(), images, what).values, whole[what], atol=tolerance)
        np.testing.assert_allclose(FeatureCache(tmp_path / "order").get(model.trained(), shuffled, what).values, whole[what][order], atol=tolerance)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        threads = FeatureCache(tmp_path / "threads").get(model.trained(), images, "pooled").values
        assert torch.get_num_threads() == 3, "what was set is set again"
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(threads, FeatureCache(tmp_path / "small").get(model.trained(), images, "pooled").values), "bit for bit"


def test_a_second_probe_reads_no_weights_and_decodes_no_image(model: EvaluatedModel, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path)
    first = evaluate_linear(model, images, cache)
    monkeypatch.setattr("lcl.evals.evaluated.load_model", lambda *_, **__: pytest.fail("the weights were read again"))
    monkeypatch.setattr("lcl.evals.evaluated.random_twin", lambda *_, **__: pytest.fail("the twin was made again"))
    monkeypatch.setattr(ImageSet, "read", lambda *_: pytest.fail("an image was decoded again"))
    again = evaluate_linear(model, images, cache)
    assert [row.record() for row in again.rows] == [row.record() for row in first.rows]


def test_the_key_follows_weights_controls_and_images(model: EvaluatedModel, images: ImageSet, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    other = EvaluatedModel.open(made_checkpoint(tmp_path / "other", kind=model.settings.vision.kind, seed=1))
    fewer = open_image_set(write_files(tmp_path / "set", made_pictures({"train": 8, "test": 3})))
    subjects = [model.trained(), other.trained(), model.random(seed=0), model.random(seed=1), model.raw_pixels()]
    found = [cache.get(subject, images, "pooled").values for subject in subjects] + [cache.get(subjects[0], fewer, "pooled").values]
    assert len(list((tmp_path / "cache").iterdir())) == 6
    assert all(one.shape != two.shape or not np.allclose(one, two) for number, one in enumerate(found) for two in found[:number])
    cache.get(model.trained(), images, "tokens")
    assert len(list((tmp_path / "cache").iterdir())) == 7, "tokens bring pooled vectors, which were there"


def test_raw_pixels_are_the_image(model: EvaluatedModel, images: ImageSet, tmp_path: Path) -> None:
    cache, subject = FeatureCache(tmp_path), model.raw_pixels()
    pooled, tokens = (cache.get(subject, images, what).values for what in ("pooled", "tokens"))
    assert subject.name == "raw pixels (16 x 16)" and pooled.shape == (len(images), 16 * 16 * 3) and tokens.shape == (len(images), 16, 48)
    assert 0 <= pooled.min() < pooled.max() <= 1
    first = pooled.reshape(-1, 16, 16, 3)[:, :4, :4].reshape(len(images), -1)
    np.testing.assert_allclose(tokens[:, 0], first, atol=1e-3)


def test_a_damaged_file_and_an_encoder_that_diverged_are_named(model: EvaluatedModel, images: ImageSet, tmp_path: Path) -> None:
    cache, subject = FeatureCache(tmp_path), model.trained()
    cache.get(subject, images, "pooled")
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged .*; delete it, it will be computed again"):
        cache.get(subject, images, "pooled")
    file.unlink()
    with torch.no_grad():
        subject.loaded[0].pool_project.query_token.fill_(float("nan"))
    with pytest.raises(ValueError, match="trained encoder: its features are not finite"):
        cache.get(subject, images, "pooled")


def test_a_moving_average_that_is_not_there_is_named(model: EvaluatedModel) -> None:
    with pytest.raises(ValueError, match="holds no moving average; train with --optimizer.ema-decay"):
        EvaluatedModel.open(model.path, weights="ema")
    assert model.record()["step"] == 7 and len(model.record()["weights_sha256"]) == 64
