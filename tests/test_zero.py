"""ZeRO changes where things are kept and no number: against plain AdamW, when resumed, and when the number of ranks changes. Real processes."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lcl.contrastive import contrastive_loss
from lcl.core.config import to_dict
from lcl.engine import EngineConfig, deepspeed_settings
from lcl.train_config import PRESETS
from tests.made_rows import make_batch, make_model
from tests.processes import run_ranks
from tests.rank_zero import CLIP_NORM, STEPS, make_optimizer, rows_of
from tests.test_checkpoint import losses

Weights = dict[str, torch.Tensor]
STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A DeepSpeed file with which ZeRO 3 parts small tensors too; it would keep all of a toy model whole."""
    path = tmp_path_factory.mktemp("parted") / "deepspeed.json"
    path.write_text(json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": 0}}))
    return str(path)


CASES = {
    **{f"fp32 {stage}": {"zero_stage": stage} for stage in STAGES},
    **{f"bf16 {stage}": {"zero_stage": stage, "precision": "bf16"} for stage in STAGES},
    **{f"offload {stage}": {"zero_stage": stage, "offload": "cpu"} for stage in (2, 3)},
    **{f"mixed {stage}": {"zero_stage": stage, "precision": "mixed"} for stage in STAGES},
}
EXACT = [name for name in CASES if not name.startswith(("bf16", "mixed"))]


@pytest.fixture(scope="module")
def stepped(parted: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stepped")
    cases = {name: case | ({"deepspeed": parted} if case["zero_stage"] == 3 else {}) for name, case in CASES.items()}
    (folder / "cases.json").write_text(json.dumps(cases))
    run_ranks(["-m", "tests.rank_zero", folder / "cases.json", folder], world_size=2)
    return folder


@pytest.fixture(scope="module")
def plain() -> tuple[Weights, list[float]]:
    """Weights and norms of gradients after the same steps in one process: one batch, one backward pass, torch's AdamW."""
    model = make_model()
    optimizer, norms = make_optimizer(model), []
    for step in range(len(STEPS)):
        batch = make_batch([row for rank in range(2) for row in rows_of(step, rank)])
        outputs = model(batch)
        loss = outputs.nll_sum / len(batch.predictors) + 0.1 * contrastive_loss(outputs.pooled, outputs.contexts, outputs.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)))
        optimizer.step()
    assert min(norms) > CLIP_NORM, "gradients are clipped"
    return model.state_dict(), norms


@pytest.mark.parametrize("name", EXACT)
def test_every_stage_equals_plain_adamw(stepped: Path, plain: tuple[Weights, list[float]], name: str) -> None:
    """Two ranks, two micro-batches, a rank without images: the same weights and norms as one process without DeepSpeed."""
    expected, norms = plain
    with safe_open(stepped / f"{name}.safetensors", "pt") as file:
        assert json.loads(file.metadata()["norms"]) == pytest.approx(norms, rel=1e-4)
    ours = load_file(stepped / f"{name}.safetensors")
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        assert float((ours[key] - value).norm()) <= 1e-4 * max(1e-2, float(value.norm())), key


@pytest.mark.parametrize("stage", STAGES)
def test_mixed_has_the_gradients_of_fp32_but_for_what_products_lose(stepped: Path, plain: tuple[Weights, list[float]], stage: int) -> None:
    with safe_open(stepped / f"mixed {stage}.safetensors", "pt") as file:
        norm = json.loads(file.metadata()["norms"])[0]
    assert norm == pytest.approx(plain[1][0], rel=0.1) and norm != pytest.approx(plain[1][0], rel=1e-4)
    ours = load_file(stepped / f"mixed {stage}.safetensors")
    assert not any(torch.equal(value, value.bfloat16().float()) for value in ours.values() if value.ndim >= 2), "weights have more than 16 bits"


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_has_weights_in_fp32_behind_it(stepped: Path, plain: tuple[Weights, list[float]], stage: int) -> None:
    with safe_open(stepped / f"bf16 {stage}.safetensors", "pt") as file:
        assert json.loads(file.metadata()["norms"])[0] == pytest.approx(plain[1][0], rel=0.1)
    ours = load_file(stepped / f"bf16 {stage}.safetensors")
    assert all(value.dtype == torch.float32 for value in ours.values())
    assert not any(torch.equal(value, value.bfloat16().float()) for value in ours.values() if value.ndim >= 2), "more than 16 bits are kept"


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_that_is_not_finite_changes_no_weight(stepped: Path, name: str) -> None:
    with safe_open(stepped / f"{name}.safetensors", "pt") as file:
        assert "the gradient is not finite; no weights were changed" in file.metadata()["said"]


def train(folder: Path, shards: Path, parted: str, *, names: Sequence[str], world_size: int, start: Path | None = None) -> Path:
    """Trains one run for each stage (`names` are "0" to "3") in one launch; with `start`, from its runs without their last checkpoint."""
    configs = []
    for name in names:
        engine = EngineConfig(zero_stage=int(name), deepspeed=parted if name == "3" else "")
        if start is not None:
            shutil.copytree(start / name, folder / name)
            shutil.rmtree(folder / name / "step-000006")
        toy = PRESETS["toy"]
        configs.append(replace(toy, output=str(folder / name), data=replace(toy.data, shards=(str(shards),)), engine=engine, micro_rows=1))
    (folder / "configs.json").write_text(json.dumps([to_dict(config) for config in configs]))
    outputs = run_ranks(["-m", "tests.rank_train", folder / "configs.json"], world_size=world_size, timeout=400)
    assert start is None or outputs[0].count("resumed at step 4 of 6") == len(names), outputs[0]
    return folder


@pytest.fixture(scope="module")
def trained(shards: Path, parted: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each stage by two ranks, undisturbed."""
    return train(tmp_path_factory.mktemp("trained"), shards, parted, names=[str(stage) for stage in STAGES], world_size=2)


def test_stages_train_alike(trained: Path) -> None:
    for stage in STAGES[1:]:
        for ours, theirs in zip(losses(trained / str(stage)), losses(trained / "0"), strict=True):
            assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-4)


@pytest.fixture(scope="module")
def resumed(trained: Path, shards: Path, parted: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("resumed"), shards, parted, names=[str(stage) for stage in STAGES], world_size=2, start=trained)


@pytest.mark.parametrize("stage", STAGES)
def test_resumed_equals_uninterrupted_bit_for_bit(trained: Path, resumed: Path, stage: int) -> None:
    one, other = trained / str(stage), resumed / str(stage)
    assert losses(one) == losses(other) and len(losses(one)) == 6
    ours, theirs = (load_file(run / "step-000006" / "model.safetensors") for run in (one, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (one / "step-000006" / "loader.json").read_text() == (other / "step-000006" / "loader.json").read_text()


def assert_continued(run: Path, whole: Path) -> None:
    """The same rows, the losses to 1e-5 and the weights to 1e-4, although another number of ranks went on."""
    of_rank_0 = ("train/effective_rank", "train/embedding_variance", "train/features")  # of the images that it holds
    for ours, theirs in zip(losses(run), losses(whole), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - of_rank_0:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-6), name
    assert (run / "step-000006" / "loader.json").read_text() == (whole / "step-000006" / "loader.json").read_text()
    ours, theirs = (load_file(folder / "step-000006" / "model.safetensors") for folder in (run, whole))
    for name, value in theirs.items():
        assert float((ours[name] - value).norm()) <= 1e-4 * max(1e-2, float(value.norm())), name
    assert not list(run.glob(".*.tmp")), "what was converted is gone"


@pytest.fixture(scope="module")
def alone(trained: Path, shards: Path, parted: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("alone"), shards, parted, names=[str(stage) for stage in STAGES], world_size=1, start=trained)


@pytest.mark.parametrize("stage", STAGES)
def test_one_rank_continues_what_two_began(trained: Path, alone: Path, stage: int) -> None:
    assert_continued(alone / str(stage), trained / str(stage))


@pytest.mark.slow
def test_four_ranks_continue_what_two_began(trained: Path, shards: Path, parted: str, tmp_path: Path) -> None:
    train(tmp_path, shards, parted, names=["2", "3"], world_size=4, start=trained)
    for name in ("2", "3"):
        assert_continued(tmp_path / name, trained / name)


def settings_of(config: EngineConfig) -> dict[str, object]:
    return deepspeed_settings(config, micro_rows=2, accumulation=3, clip_norm=1.0)


def test_settings_say_what_the_config_says(tmp_path: Path) -> None:
    (tmp_path / "more.json").write_text(json.dumps({"zero_optimization": {"reduce_bucket_size": 1000}, "wall_clock_breakdown": True}))
    settings = settings_of(EngineConfig(zero_stage=2, offload="cpu", deepspeed=str(tmp_path / "more.json")))
    assert settings["train_micro_batch_size_per_gpu"] == 2 and settings["gradient_accumulation_steps"] == 3 and settings["gradient_clipping"] == 1.0
    assert settings["zero_optimization"] == {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": False}, "reduce_bucket_size": 1000}
    assert settings["wall_clock_breakdown"] is True and "bf16" not in settings
    assert settings_of(EngineConfig(precision="bf16"))["bf16"]["enabled"] is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"zero_optimization": {"stage": 1}}', r"sets zero_optimization.stage, which --engine.zero-stage says: remove it"),
        ('{"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}', r"sets zero_optimization.offload_optimizer, which --engine.offload says"),
        ('{"bf16": {"enabled": true}}', r"sets bf16, which --engine.precision says"),
        ('{"train_batch_size": 8}', r"sets train_batch_size, which --batch-rows says"),
        ('{"optimizer": {"type": "AdamW"}}', r"sets optimizer, which --optimizer says"),
        ("[]", "holds no JSON object"),
        ("{", "is no JSON, or damaged"),
        (None, "no such file"),
    ],
)
def test_a_setting_in_both_places_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "deepspeed.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        settings_of(EngineConfig(deepspeed=str(path)))


def test_offloading_takes_zero() -> None:
    with pytest.raises(ValueError, match="--engine.offload cpu takes ZeRO; add --engine.zero-stage"):
        settings_of(EngineConfig(offload="cpu"))
