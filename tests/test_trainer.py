"""What one command trains: every preset's twin, every objective, every option, on shards that the pipeline built."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lcl.core.config import to_dict
from lcl.core.logs import read_metrics
from lcl.engine import EngineConfig
from lcl.features import load_encoder, load_model
from lcl.objectives import OBJECTIVES, LossConfig
from lcl.start import StartConfig
from lcl.train_config import PRESETS, TrainConfig
from lcl.validation import ValidationConfig
from tests.processes import run_ranks

TOY = PRESETS["toy"]
TWINS = [name for name in PRESETS if name.endswith("toy")]


def with_data(config: TrainConfig, **changes: object) -> TrainConfig:
    return replace(config, data=replace(config.data, **changes))


def with_optimizer(config: TrainConfig, **changes: object) -> TrainConfig:
    return replace(config, optimizer=replace(config.optimizer, **changes))


def runs(labelled: Path) -> dict[str, TrainConfig]:
    """Name -> config; paths of shards and outputs are filled in by `trained`."""
    # The rate rises until losses do, too; the seven steps behind the window may all be spikes.
    rising = replace(TOY.optimizer.schedule, warmup_steps=10)
    spiky = with_optimizer(replace(TOY, steps=15, spikes=replace(TOY.spikes, threshold=0.01, window=8, max_skips=7)), learning_rate=3.0, schedule=rising)
    return {
        **{f"twin {name}": PRESETS[name] for name in TWINS},
        **{f"objective {name}": replace(TOY, loss=LossConfig(objective=name)) for name in OBJECTIVES},
        "ema": with_optimizer(TOY, ema_decay=0.5, ema_every=1),
        "ema again": with_optimizer(replace(TOY, save_every=3), ema_decay=0.5, ema_every=1),
        "frozen": replace(TOY, frozen=("visual",)),
        "layer decay": with_optimizer(TOY, layer_decay=0.5),
        "recomputed": replace(TOY, recompute_every=1),
        "bf16": replace(TOY, engine=EngineConfig(precision="bf16")),
        "validated": with_data(
            replace(TOY, validation=ValidationConfig(every=3, rows=4, labelled=str(labelled), shots=1, neighbours=5)), validation_fraction=0.3
        ),
        "spiky": spiky,
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(sample: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of all runs, trained in one process, and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    configs = [
        with_data(replace(config, output=str(folder / name)), shards=(str(shards),))
        for name, config in runs(sample / "labelled" / "colour").items()
    ]  # fmt: skip
    configs += [
        with_data(replace(TOY, output=str(folder / "from model"), start=StartConfig(model=str(folder / "twin toy")), steps=1), shards=(str(shards),)),
        with_data(replace(TOY, output=str(folder / "from vision"), start=StartConfig(vision=str(folder / "twin toy")), frozen=("visual",), steps=2), shards=(str(shards),)),
    ]
    damaged = with_data(replace(TOY, output=str(folder / "damaged"), steps=2), shards=(str(with_damaged_images(shards, folder / "damaged shards")),), max_damaged=0.9)
    (folder / "configs.json").write_text(json.dumps([to_dict(config) for config in [*configs, damaged]]))
    return folder, run_ranks(["-m", "tests.rank_train", folder / "configs.json"], world_size=1, timeout=600)[0]


def with_damaged_images(shards: Path, copy: Path) -> Path:
    """A copy of the shards in which every third image begins with zeros."""
    shutil.copytree(shards, copy, ignore=shutil.ignore_patterns("work"))
    number = 0
    for tar in sorted(copy.glob("*.tar")):
        data = bytearray(tar.read_bytes())
        for member in re.finditer(rb"[0-9a-f]{32}\.[0-9]{3}\.jpg", bytes(data)):
            if data[member.start() + 512 : member.start() + 514] == b"\xff\xd8":  # the name stands in a header, not in a document's JSON
                number += 1
                if number % 3 == 0:
                    data[member.start() + 512 : member.start() + 516] = bytes(4)
        tar.write_bytes(data)
    return copy


def weights(run: Path, step: int = 6, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run / f"step-{step:06d}" / f"{name}.safetensors")


def metric(run: Path, name: str) -> list[float]:
    return [line[name] for line in read_metrics(run / "metrics.jsonl") if name in line]


@pytest.mark.parametrize("name", TWINS)
def test_one_command_trains_the_twin_of_each_preset(trained: tuple[Path, str], name: str) -> None:
    run = trained[0] / f"twin {name}"
    losses = metric(run, "train/loss")
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert json.loads((run / "status.json").read_text()) == {"step": 6, "finished": True}
    model, _ = load_model(run)
    encoder = load_encoder(run)
    side = 32 if model.settings.vision.kind == "vit" else 24
    features = encoder(torch.rand(2, 3, side, 16 if side == 24 else side))
    expected = (side // 8) * (2 if side == 24 else side // 8)
    assert features.pooled.shape == (2, 32) and features.tokens.shape == (2, expected, model.settings.vision.tower().width)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_flag_switches_the_objective(trained: tuple[Path, str], name: str) -> None:
    run = trained[0] / f"objective {name}"
    losses = metric(run, "train/loss")
    text, contrast, regression = (metric(run, f"train/{part}") for part in ("text_nats", "contrastive_nats", "regression"))
    for index, weight in enumerate(losses):
        w_gen, w_con, w_reg = LossConfig(objective=name).weights
        assert weight == pytest.approx(w_gen * text[index] + w_con * contrast[index] + w_reg * regression[index], rel=1e-6)
    assert text[-1] < text[0] or LossConfig(objective=name).weights[0] == 0
    before, after = (weights(run, step)["visual.conv1.weight"] for step in (4, 6))
    assert not bool((before == after).all()), "the encoder learns"
    assert (max(regression) > 0) == (name == "regression")
    slots = metric(run, "train/slots")
    assert (max(slots) == 0) == (name == "clip")
    assert json.loads((run / "step-000006" / "config.json").read_text())["objective"] == name


def test_the_moving_average_follows_the_weights(trained: tuple[Path, str]) -> None:
    """With decay 0.5 at every step: closer to the last weights than those are to the weights of two steps before; the same however often one saves."""
    run = trained[0] / "ema"
    last, before, average = weights(run), weights(run, 4), weights(run, name="ema")
    moved = sum(float((last[name] - before[name]).square().sum()) for name in last) ** 0.5
    behind = sum(float((last[name] - average[name]).square().sum()) for name in last) ** 0.5
    assert 0 < behind < moved
    again = weights(trained[0] / "ema again", name="ema")
    assert all(bool((average[name] == again[name]).all()) for name in average)
    assert load_model(run, weights="ema")[0].logit_scale == average["logit_scale"] != load_model(run)[0].logit_scale
    with pytest.raises(ValueError, match="holds no moving average; train with --optimizer.ema-decay"):
        load_model(trained[0] / "twin toy", weights="ema")
    plain = weights(trained[0] / "twin toy")
    assert all(bool((last[name] == plain[name]).all()) for name in last), "the average changes nothing"


def test_frozen_parts_stay_and_the_rest_moves(trained: tuple[Path, str]) -> None:
    start, end = weights(trained[0] / "frozen", 4), weights(trained[0] / "frozen")
    moved = {name for name in end if not bool((start[name] == end[name]).all())}
    assert not any(name.startswith("visual.") for name in moved) and any(name.startswith("text.") for name in moved)


def test_layer_decay_slows_the_lower_layers(trained: tuple[Path, str]) -> None:
    plain, decayed = weights(trained[0] / "twin toy"), weights(trained[0] / "layer decay")
    assert not bool((plain["visual.conv1.weight"] == decayed["visual.conv1.weight"]).all())
    assert metric(trained[0] / "twin toy", "train/loss")[0] == metric(trained[0] / "layer decay", "train/loss")[0]


def test_recomputing_activations_changes_no_number(trained: tuple[Path, str]) -> None:
    plain, recomputed = weights(trained[0] / "twin toy"), weights(trained[0] / "recomputed")
    assert all(bool((plain[name] == recomputed[name]).all()) for name in plain)


def test_bf16_learns_and_keeps_fp32_weights(trained: tuple[Path, str]) -> None:
    run = trained[0] / "bf16"
    losses = metric(run, "train/loss")
    assert losses[-1] < losses[0] and losses[0] == pytest.approx(metric(trained[0] / "twin toy", "train/loss")[0], rel=2e-2)
    saved = weights(run)
    assert saved["visual.conv1.weight"].dtype == torch.float32
    assert not bool((saved["visual.conv1.weight"] == saved["visual.conv1.weight"].bfloat16().float()).all()), "the optimiser's weights, not their 16 bits"


def test_validation_measures_what_is_not_trained_on(trained: tuple[Path, str]) -> None:
    run = trained[0] / "validated"
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl") if "validation/loss" in line] == [3, 6]
    losses = metric(run, "validation/text_nats")
    assert losses[1] < losses[0]
    for name in ("knn_accuracy", "few_shot_accuracy", "zero_shot_accuracy"):
        assert all(0 <= value <= 1 for value in metric(run, f"validation/{name}"))


def test_spikes_are_skipped_and_counted(trained: tuple[Path, str]) -> None:
    """At an absurd learning rate some losses jump: those steps make no update, say so, and are counted."""
    folder, printed = trained
    skipped = metric(folder / "spiky", "train/skipped")
    assert 0 < sum(skipped) and "is a spike; its update is skipped" in printed
    lines = [line for line in read_metrics(folder / "spiky" / "metrics.jsonl") if "train/skipped" in line]
    assert all(("train/gradient_norm" in line) != bool(line["train/skipped"]) for line in lines)


def test_damaged_images_are_counted_aloud(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    counts = metric(folder / "damaged", "train/images_damaged")
    assert 0 < counts[0] <= counts[-1] and f"{counts[-1]:.0f} images so far could not be decoded and were left out" in printed
    assert metric(folder / "twin toy", "train/images_damaged")[-1] == 0


def test_training_starts_from_weights_of_another_run(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    assert "started with all weights from" in printed and "started with vision tower and pooling from" in printed
    assert metric(folder / "from model", "train/loss")[0] < metric(folder / "twin toy", "train/loss")[0]
    ours, theirs = weights(folder / "from vision", 2), weights(folder / "twin toy")
    same = {name for name in ours if bool((ours[name] == theirs[name]).all())}
    assert {name for name in ours if name.startswith("visual.")} <= same and "text.token_embedding.weight" not in same


@pytest.mark.slow  # compiling takes a minute
def test_compiled_blocks_give_the_same_losses(trained: tuple[Path, str], shards: Path, tmp_path: Path) -> None:
    run_ranks(["lcl/pretrain.py", "--preset", "toy", "--data.shards", shards, "--output", tmp_path / "run", "--compile", "True"], world_size=1, timeout=400)
    assert metric(tmp_path / "run", "train/loss") == pytest.approx(metric(trained[0] / "twin toy", "train/loss"), rel=1e-4)


def test_tensorboard_shows_numbers_and_a_row_with_its_pictures(trained: tuple[Path, str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(trained[0] / "twin toy" / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert {"train/loss", "train/learning_rate", "train/gradient_norm", "train/logit_scale", "train/image_to_context_accuracy"} <= set(tags["scalars"])
    assert "sample/row/text_summary" in tags["tensors"] and any(tag.startswith("sample/image") for tag in tags["images"])
