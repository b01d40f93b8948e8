"""Full fine-tuning: what is trained and how fast, the choice, and the control from random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lcl import eval_fine_tune
from lcl.core.logs import progress_bar
from lcl.evals.evaluated import EvaluatedModel
from lcl.evals.fine_tune import Classifier, FineTuneConfig, evaluate_fine_tuned, fine_tune, predict
from lcl.evals.image_sets import ImageSet, open_image_set
from lcl.evals.results import read_result
from tests.made_checkpoint import made_checkpoint, made_pictures, write_files

QUICK = FineTuneConfig(learning_rates=(1e-5, 3e-3), layer_decays=(1.0,), sweep_steps=8, steps=25, batch=12)
CHOICE = {"learning_rate": 3e-3, "layer_decay": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("images") / "colours", made_pictures({"train": 10, "validation": 4, "test": 10}))


@pytest.fixture(scope="module")
def images(folder: Path) -> ImageSet:
    return open_image_set(folder)


@pytest.fixture(scope="module", params=["vit", "naflex"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EvaluatedModel:
    return EvaluatedModel.open(made_checkpoint(tmp_path_factory.mktemp("model") / request.param, kind=request.param))


def tuned(model: EvaluatedModel, images: ImageSet, *, steps: int = 5, seed: int = 0, **choice: float) -> Classifier:
    with progress_bar("", total=steps) as bar:
        classifier = Classifier(model.trained().loaded[0], 3)
        return fine_tune(classifier, images, images.split("train"), images.labels, choice=CHOICE | choice, steps=steps, settings=QUICK, seed=seed, bar=bar)


def test_it_starts_at_the_encoder_with_every_class_alike_and_leaves_it_as_it_is(model: EvaluatedModel, images: ImageSet) -> None:
    vision = model.trained().loaded[0]
    before = {name: value.clone() for name, value in vision.state_dict().items()}
    classifier = Classifier(vision, 3)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items() if not name.startswith("head."))
    np.testing.assert_allclose(np.exp(predict(classifier, images, images.split("test"))), 1 / 3, rtol=1e-6)
    after = tuned(model, images)
    assert all(torch.equal(value, before[name]) for name, value in vision.state_dict().items()), "a copy is trained"
    still = [name for name, value in after.state_dict().items() if name in before and torch.equal(value, before[name])]
    assert not [name for name in still if name.startswith("visual.")], "all of the tower is trained"


def test_the_same_seed_gives_the_same_weights(model: EvaluatedModel, images: ImageSet) -> None:
    one, two, other = (tuned(model, images, seed=seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_lower_layers_move_less_by_the_factor(model: EvaluatedModel, images: ImageSet) -> None:
    """One step of AdamW without decay moves every number by the rate: of a tower of one block, layers below its norm by f and f^2 of it."""
    start = Classifier(model.trained().loaded[0], 3)
    moved: dict[float, dict[str, float]] = {}
    for factor in (1.0, 0.5):
        after = tuned(model, images, steps=2, layer_decay=factor, learning_rate=1e-4)  # the first step of a zero head reaches the head alone
        moved[factor] = {name: float((value - start.state_dict()[name]).abs().median()) for name, value in after.state_dict().items()}
    for name, expected in {"visual.transformer.resblocks.0.ln_1.bias": 0.5, "visual.ln_pre.bias": 0.25, "visual.blocks.0.norm1.bias": 0.5, "head.bias": 1.0}.items():
        if name in moved[1.0]:
            assert moved[0.5][name] == pytest.approx(expected * moved[1.0][name], rel=0.1), name


def test_classes_are_learned_the_rate_is_chosen_and_shuffled_labels_give_chance(model: EvaluatedModel, images: ImageSet) -> None:
    result = evaluate_fine_tuned(model, images, settings=QUICK)
    models = [row.model for row in result.rows if row.metric == "accuracy"]
    assert models == ["trained encoder", "shuffled labels", "random weights", "most frequent class", "chance"]
    assert result.value("trained encoder") > 0.8 > 0.65 > result.value("shuffled labels")
    for name in ("trained encoder", "random weights"):
        tried, chosen = result.sweeps[name]["tried"], result.sweeps[name]["chosen"]
        assert [entry["learning_rate"] for entry in tried] == [1e-5, 3e-3] and set(chosen) == {"learning_rate", "layer_decay"}
        best = max(entry["validation_accuracy"] for entry in tried)
        assert chosen["learning_rate"] == next(entry["learning_rate"] for entry in tried if entry["validation_accuracy"] == best)
    labels = images.labels.copy()
    labels[images.split("test")] = 0
    blind = replace(images, labels=labels)
    again = evaluate_fine_tuned(model, blind, settings=QUICK, controls=())
    assert list(again.predictions[0].predicted) == list(result.predictions[0].predicted), "test labels choose nothing"
    assert {row.model for row in again.rows} == {"trained encoder", "most frequent class", "chance"}


def test_a_rate_that_diverges_is_named(model: EvaluatedModel, images: ImageSet) -> None:
    with pytest.raises(ValueError, match=r"a learning rate of 1e\+30 diverged at step \d+: leave it out of --fine-tune.learning-rates"):
        tuned(model, images, learning_rate=1e30)


def test_command(folder: Path, tmp_path: Path) -> None:
    checkpoint = made_checkpoint(tmp_path / "model")
    small = replace(QUICK, learning_rates=(1e-3,), sweep_steps=1, steps=2)
    settings = eval_fine_tune.EvalFineTuneConfig(checkpoint=str(checkpoint), data=str(folder), output=str(tmp_path / "tuned.json"), fine_tune=small)
    eval_fine_tune.main(settings)
    record = read_result(tmp_path / "tuned.json")
    assert record["task"] == "fine-tuning" and record["protocol"]["settings"]["steps"] == 2 and record["sweeps"]["random weights"]["chosen"] == {"learning_rate": 1e-3, "layer_decay": 1.0}
