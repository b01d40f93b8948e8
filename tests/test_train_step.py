"""The gradient of a global batch does not depend on ranks, micro-batches, or who holds which image: real processes over gloo."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lcl.contrastive import contrastive_loss
from tests.made_rows import make_batch, make_model, make_row
from tests.processes import run_ranks

ROWS = [{"documents": documents, "seed": seed} for seed, documents in enumerate([["ti", "t"], ["titi", "itit"], ["tttt", "tti"], ["titititit"], ["tt"], ["i", "ti"]])]
TEXT_ROWS = [{"documents": ["ttt", "t"], "seed": 100}, {"documents": ["tttttt"], "seed": 101}]
ONE_AND_FIFTEEN = [{"documents": ["ti"], "seed": 200}, {"documents": ["tititi", "ttititi"], "seed": 201}, {"documents": ["titititi"], "seed": 202}, {"documents": ["tititititi"], "seed": 203}]

# name -> the rows of each rank's micro-batches
ONE_RANK = {
    "whole": [[ROWS]],
    "accumulated": [[ROWS[:1], ROWS[1:5], ROWS[5:]]],
    "text whole": [[TEXT_ROWS]],
    "half text whole": [[ROWS[1:2] + TEXT_ROWS]],
    "one and fifteen whole": [[ONE_AND_FIFTEEN]],
}
TWO_RANKS = {
    "sharded": [[ROWS[:1]], [ROWS[1:]]],
    "sharded and accumulated": [[ROWS[:1], ROWS[4:5]], [ROWS[1:4], ROWS[5:]]],
    "text sharded": [[TEXT_ROWS[:1]], [TEXT_ROWS[1:]]],
    "no image on a rank": [[ROWS[1:2]], [TEXT_ROWS]],
    "one and fifteen sharded": [[ONE_AND_FIFTEEN[:1]], [ONE_AND_FIFTEEN[1:]]],
}
FOUR_RANKS = {
    "on four": [[ROWS[:1]], [ROWS[1:3]], [ROWS[3:4]], [ROWS[4:]]],
    "images on one of four": [[TEXT_ROWS[:1]], [ROWS[1:2]], [TEXT_ROWS[1:]], [ROWS[4:5]]],
    "on four, accumulated": [[ROWS[:1], ROWS[5:]], [ROWS[1:2], ROWS[2:3]], [ROWS[3:4], TEXT_ROWS[:1]], [ROWS[4:5], TEXT_ROWS[1:]]],
}
ONE_RANK |= {"half text and one": [[TEXT_ROWS[:1] + ROWS[1:2] + TEXT_ROWS[1:] + ROWS[4:5]]], "all": [[ROWS + TEXT_ROWS]]}
EQUAL = [
    ("whole", "accumulated"), ("whole", "sharded"), ("whole", "sharded and accumulated"), ("text whole", "text sharded"),
    ("half text whole", "no image on a rank"), ("one and fifteen whole", "one and fifteen sharded"),
    ("whole", "on four"), ("half text and one", "images on one of four"), ("all", "on four, accumulated"),
]  # fmt: skip

Result = tuple[dict[str, torch.Tensor], dict[str, float]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("gradients")
    for world_size, layouts in ((1, ONE_RANK), (2, TWO_RANKS), (4, FOUR_RANKS)):
        (folder / "layouts.json").write_text(json.dumps(layouts))
        run_ranks(["-m", "tests.rank_gradients", folder / "layouts.json", folder], world_size=world_size)
    return {name: read(folder / f"{name}.safetensors") for name in (*ONE_RANK, *TWO_RANKS, *FOUR_RANKS)}


def read(path: Path) -> Result:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["metrics"])


def relative_error(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    difference = sum((one[name] - two[name]).square().sum() for name in one).sqrt()
    return float(difference / sum(value.square().sum() for value in one.values()).sqrt())


@pytest.mark.parametrize(("one", "two"), EQUAL)
def test_gradients_and_metrics_agree(results: dict[str, Result], one: str, two: str) -> None:
    (gradients_1, metrics_1), (gradients_2, metrics_2) = results[one], results[two]
    assert relative_error(gradients_1, gradients_2) <= 1e-5
    for name in gradients_1:
        assert relative_error({name: gradients_1[name]}, {name: gradients_2[name]}) <= 1e-4 or gradients_1[name].abs().max() < 1e-7, name
    for name in ("loss", "text_nats", "contrastive_nats", "positives", "images", "tokens", "image_to_context_accuracy"):
        assert metrics_2[name] == pytest.approx(metrics_1[name], rel=1e-5), name


def test_the_reference_is_the_plain_loss_by_autograd(results: dict[str, Result]) -> None:
    """`whole` against one plain backward pass of L = L_gen + 0.1 L_con."""
    model = make_model()
    batch = make_batch([make_row(row["documents"], seed=row["seed"]) for row in ROWS])
    outputs = model(batch)
    loss = outputs.nll_sum / len(batch.predictors) + 0.1 * contrastive_loss(outputs.pooled, outputs.contexts, outputs.logit_scale)
    loss.backward()
    gradients, metrics = results["whole"]
    assert relative_error({name: parameter.grad for name, parameter in model.named_parameters()}, gradients) <= 1e-5
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_counts_are_what_the_rows_hold(results: dict[str, Result]) -> None:
    assert results["one and fifteen whole"][1]["positives"] == 16
    assert results["sharded"][1] | {"fill": 0} != results["no image on a rank"][1] | {"fill": 0}
    assert (results["text whole"][1]["positives"], results["text whole"][1]["contrastive_nats"]) == (0, 0)
