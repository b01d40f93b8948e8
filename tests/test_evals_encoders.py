"""Evaluations of what is no checkpoint: exports and published weights, which are an encoder without its text model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lcl.evals.all_tasks import AllTasksConfig, evaluate_all
from lcl.evals.attentive_probe import AttentiveProbeConfig
from lcl.evals.classification import evaluate_knn, evaluate_zero_shot
from lcl.evals.context_retrieval import evaluate_context_retrieval
from lcl.evals.evaluated import EvaluatedModel
from lcl.evals.feature_cache import FeatureCache
from lcl.evals.few_shot import FewShotConfig
from lcl.evals.image_sets import ImageSet, open_image_set
from lcl.evals.knn import KnnConfig
from lcl.evals.linear_probe import LinearProbeConfig
from lcl.evals.retrieval import evaluate_retrieval
from lcl.export import ExportConfig, main
from lcl.features import random_encoder, random_twin
from lcl.vision import VisionConfig
from tests.made_checkpoint import made_checkpoint, made_pictures, toy_settings, write_files

KNN = KnnConfig(neighbours=(3,))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedModel:
    return EvaluatedModel.open(made_checkpoint(tmp_path_factory.mktemp("model") / "step-000007"))


@pytest.fixture(scope="module")
def exported(checkpoint: EvaluatedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "timm"
    main(ExportConfig(checkpoint=str(checkpoint.path), to="timm", output=str(folder)))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return open_image_set(write_files(tmp_path_factory.mktemp("images") / "set", made_pictures({"train": 6, "validation": 3, "test": 5})))


def test_an_export_scores_as_its_checkpoint(checkpoint: EvaluatedModel, exported: Path, images: ImageSet, tmp_path: Path) -> None:
    alone, cache = EvaluatedModel.open(exported), FeatureCache(tmp_path)
    assert checkpoint.has_text and not alone.has_text and alone.settings.vision == checkpoint.settings.vision
    one, two = (cache.get(model.trained(), images, "pooled").values for model in (checkpoint, alone))
    np.testing.assert_allclose(one, two, atol=1e-5)
    results = [evaluate_knn(model, images, cache, settings=KNN) for model in (checkpoint, alone)]
    assert [row.model for row in results[0].rows] == [row.model for row in results[1].rows]
    assert results[0].value("trained encoder") == results[1].value("trained encoder")
    assert len(alone.record()["weights_sha256"]) == 64 and alone.record()["step"] is None


def test_published_weights_are_evaluated_from_their_file(images: ImageSet, tmp_path: Path) -> None:
    settings = replace(toy_settings(), embed_width=64, pool_heads=1, vision=VisionConfig(image_px=16, patch_px=4, width=64, layers=1, head_width=64))
    torch.save(random_encoder(replace(settings, text=replace(settings.text, width=64))).state_dict(), tmp_path / "model.pt")
    model, cache = EvaluatedModel.open(tmp_path / "model.pt"), FeatureCache(tmp_path / "cache")
    result = evaluate_knn(model, images, cache, settings=KNN, controls=("random", "pixels"))
    assert {"trained encoder", "random weights", "raw pixels (16 x 16)"} < {row.model for row in result.rows} and result.model["path"].endswith("model.pt")
    assert result.value("trained encoder") == result.value("random weights"), "these are the weights of the twin's seed"


def test_its_random_twin_is_that_of_the_checkpoint_up_to_the_pooling(checkpoint: EvaluatedModel, exported: Path, images: ImageSet, tmp_path: Path) -> None:
    alone, cache = EvaluatedModel.open(exported), FeatureCache(tmp_path)
    tokens, pooled = ([cache.get(model.random(seed=3), images, what).values for model in (checkpoint, alone)] for what in ("tokens", "pooled"))
    assert np.array_equal(*tokens) and not np.allclose(*pooled)
    encoder, twin = random_encoder(alone.settings, seed=3), random_twin(checkpoint.path, seed=3)[0]
    for name in ("k", "proj"):
        ours, theirs = (getattr(model.pool_project.pooler.cross_attn, name).weight.std().item() for model in (encoder, twin))
        assert ours == pytest.approx(theirs, rel=0.15), "a start of the same size"


def test_what_needs_text_is_refused_and_left_out_of_all(exported: Path, images: ImageSet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alone, cache = EvaluatedModel.open(exported), FeatureCache(tmp_path)
    for task, evaluate in (
        ("zero-shot classification", lambda: evaluate_zero_shot(alone, images, cache)), ("image-text retrieval", lambda: evaluate_retrieval(alone, images, cache)),
        ("context retrieval", lambda: evaluate_context_retrieval(alone, [tmp_path])),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"timm is an image encoder alone, and {task} needs the text model: give the checkpoint"):
            evaluate()
    settings = AllTasksConfig(
        attentive=AttentiveProbeConfig(learning_rates=(1e-2,), weight_decays=(0.0,), steps=2, batch=8), linear=LinearProbeConfig(strengths=(0.1,)), knn=KNN,
        few_shot=FewShotConfig(shots=(1,)),
    )  # fmt: skip
    with caplog.at_level("INFO"):
        names = [name for name, _ in evaluate_all(alone, images, cache, controls=("random",), settings=settings)]
    assert names == ["attentive_probe", "linear_probe", "knn", "few_shot"] and "is an image encoder alone" in caplog.text


def test_what_is_wrong_is_said_when_it_is_opened(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds one set of weights: leave out `weights`"):
        EvaluatedModel.open(exported, weights="ema")
    (tmp_path / "model.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="model.pt cannot be read as weights"):
        EvaluatedModel.open(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="no such run or checkpoint folder"):
        EvaluatedModel.open(tmp_path / "nothing")
