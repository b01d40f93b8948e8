"""What a dry run says: counts of parameters, bytes against real tensors, readings against real rows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import nn

from lcl.engine import EngineConfig
from lcl.estimate import (
    Parameters,
    activation_bytes,
    bytes_per_parameter,
    count_parameters,
    describe,
    read_document,
    state_bytes,
    text_block_values,
    vision_block_values,
)  # fmt: skip
from lcl.flops import TRAINING, batch_flops, forward_flops
from lcl.model import LCL, ModelConfig
from lcl.objectives import LossConfig
from lcl.rows import collate
from lcl.text import TextConfig
from lcl.train_config import PRESETS, TrainConfig
from lcl.vision import VisionConfig
from tests.made_rows import SPECIAL, VOCAB_SIZE, make_row
from tests.test_model import KINDS

TOY = PRESETS["toy"]
CLIP_VOCAB_SIZE = 49411


@pytest.mark.parametrize(("name", "millions"), [("lcl_vit_b32_mmc4", 178.6), ("lcl_vit_b16_laion", 249.9)])
def test_parameters_of_the_published_models(name: str, millions: float) -> None:
    """As counted on the published configs with the official code."""
    found = count_parameters(PRESETS[name], CLIP_VOCAB_SIZE)
    assert round(found.total / 1e6, 1) == millions and found.trained == found.total and min(found.parts.values()) >= 1


def test_parts_of_the_published_model() -> None:
    parts = count_parameters(PRESETS["lcl_vit_b16_laion"], CLIP_VOCAB_SIZE).parts
    assert {name: round(count / 1e6, 1) for name, count in parts.items()} == {
        "vision": 85.8, "pooling": 2.4, "decoder": 85.6, "embeddings": 38.2, "lm_head": 37.9, "other": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("toy")])
def test_parameters_without_weights_are_those_with(name: str) -> None:
    config = replace(PRESETS[name], loss=LossConfig(objective="regression"), frozen=("visual", "text.ln_final"))
    model = LCL(config.model, vocab_size=VOCAB_SIZE, regression=True)
    found = count_parameters(config, VOCAB_SIZE)
    assert found.total == sum(value.numel() for value in model.parameters())
    frozen = [*model.visual.parameters(), *model.text.ln_final.parameters()]
    assert found.total - found.trained == sum(value.numel() for value in frozen) > 0


def test_bytes_without_zero_are_those_of_plain_training() -> None:
    model = LCL(TOY.model, vocab_size=VOCAB_SIZE)
    optimizer = torch.optim.AdamW(model.parameters())
    sum(value.sum() for value in model.parameters()).backward()
    optimizer.step()
    values = list(model.parameters())
    found = state_bytes(count_parameters(TOY, VOCAB_SIZE), EngineConfig(), zero_stage=0, world_size=1)
    assert found.weights == sum(value.nbytes for value in values)
    assert found.gradients == sum(value.grad.nbytes for value in values)
    assert found.optimizer == sum(state[name].nbytes for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq"))


# Live tensors of an engine after a backward pass, bytes per parameter: 10 layers of 256 x 256, DeepSpeed 0.19.8, CPU, 1 and 2 ranks, two micro-batches, buckets
# of 1000 elements. In fp32 at ZeRO 1 with 2 ranks: after the first micro-batch. ZeRO 3 with 2 ranks is left out, for it keeps such small layers whole.
MEASURED = {
    ("fp32", 0): (16, 16), ("fp32", 1): (20, 14), ("fp32", 2): (20, 12), ("fp32", 3): (20, None),
    ("bf16", 0): (16, 16), ("bf16", 1): (20, 14), ("bf16", 2): (18, 10), ("bf16", 3): (18, None),
}  # fmt: skip


@pytest.mark.parametrize(("precision", "zero_stage"), MEASURED)
def test_bytes_of_deepspeed_as_measured(precision: str, zero_stage: int) -> None:
    one, two = MEASURED[precision, zero_stage]
    engine, single = EngineConfig(precision=precision), Parameters({"all": 1}, trained=1)
    assert state_bytes(single, engine, zero_stage=zero_stage, world_size=1).total == one
    assert two is None or state_bytes(single, engine, zero_stage=zero_stage, world_size=2).total == two


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_zero_shares_out_part_after_part(precision: str) -> None:
    engine, parameters = EngineConfig(precision=precision), Parameters({"all": 1000}, trained=600)
    for zero_stage, shared in enumerate([(), ("optimizer",), ("optimizer", "gradients"), ("optimizer", "gradients", "weights")]):
        alone, of_eight = (state_bytes(parameters, engine, zero_stage=zero_stage, world_size=world_size) for world_size in (1, 8))
        for part in ("weights", "gradients", "optimizer"):
            assert getattr(of_eight, part) == getattr(alone, part) / (8 if part in shared else 1)
        each = bytes_per_parameter(engine, zero_stage=zero_stage)
        assert alone.weights == 1000 * each.weights and alone.gradients == 600 * each.gradients and alone.optimizer == 600 * each.optimizer


def kept_bytes(module: nn.Module, run: Callable[[], Any]) -> int:
    """Bytes of what the backward pass of `run` will need, besides the module's parameters."""
    own = {value.untyped_storage().data_ptr() for value in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()  # noqa: F841  (holds the graph, so that no address is used twice)
    return sum(storage.nbytes() for storage in kept.values())


def of_a_layer(make: Callable[[int], tuple[nn.Module, Callable[[], Any]]]) -> float:
    """What one more layer keeps."""
    two, four = (kept_bytes(*make(layers)) for layers in (2, 4))
    return (four - two) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["clip", "llama", "qwen3"])
def test_activations_of_the_decoder_as_measured(kind: str, dtype: torch.dtype) -> None:
    """Within 3 %; within 20 % where the norms of transformers work in fp32 on bf16."""
    config = TextConfig(kind=kind, context_length=256, width=64, layers=1, heads=4, key_heads=0 if kind == "clip" else 2)
    row = make_row(["t" * 250], seed=0)
    batch = collate([row], row_length=252, special=SPECIAL)

    def make(layers: int) -> tuple[nn.Module, Callable[[], Any]]:
        vision = VisionConfig(image_px=8, patch_px=4, width=16, layers=1, head_width=8)
        settings = ModelConfig(embed_width=64, pool_heads=2, text=replace(config, layers=layers), vision=vision)
        model = LCL(settings, vocab_size=VOCAB_SIZE).to(dtype)
        return model, lambda: model.text(batch, torch.zeros(0, 64, dtype=dtype))

    exact = dtype == torch.float32 or kind == "clip"
    assert of_a_layer(make) == pytest.approx(dtype.itemsize * 252 * text_block_values(config), rel=0.03 if exact else 0.2)


@pytest.mark.parametrize("kind", ["vit", "naflex"])
def test_activations_of_the_vision_tower_as_measured(kind: str) -> None:
    """Within 8 %: NaFlex keeps what attention gives in two layouts."""
    config = VisionConfig(kind=kind, image_px=32, patch_px=4, width=64, layers=1, head_width=16, max_patches=64)
    pixels = torch.rand(4, 3, 32, 32)

    def make(layers: int) -> tuple[nn.Module, Callable[[], Any]]:
        vision = replace(config, layers=layers)
        values = pixels if kind == "vit" else rearrange(pixels, "images c (rows ph) (columns pw) -> images (rows columns) (ph pw c)", ph=4, pw=4)
        settings = ModelConfig(embed_width=16, pool_heads=2, vision=vision, text=TextConfig(width=16, layers=1, heads=2))
        model = LCL(settings, vocab_size=VOCAB_SIZE)
        return model, lambda: model.visual(values, ((8, 8),) * 4)

    assert of_a_layer(make) == pytest.approx(4 * 4 * (64 + (kind == "vit")) * vision_block_values(config.tower()), rel=0.08)


def test_recomputed_blocks_keep_their_inputs() -> None:
    """Of all blocks recomputed, the inputs stay and one block as a whole; fewer are between that and none."""

    def values(recompute_every: int) -> float:
        none = activation_bytes(replace(config, recompute_every=recompute_every), 0, text_tokens=1000, vision_tokens=100)
        return none / 4

    config = replace(TOY, model=replace(TOY.model, text=replace(TOY.model.text, layers=3), vision=replace(TOY.model.vision, layers=4)))
    text, tower = config.model.text, config.model.vision.tower()
    of_text, of_vision = 1000 * text_block_values(text), 100 * vision_block_values(tower)
    assert values(0) == 3 * of_text + 4 * of_vision
    assert values(1) == 3 * 1000 * text.width + 4 * 100 * tower.width + of_text
    # Blocks 0 and 3 of the vision tower, and the last of the decoder.
    assert values(3) == values(0) - 2 * (of_vision - 100 * tower.width) - (of_text - 1000 * text.width) + of_text
    assert values(0) > values(3) > values(2) > values(1)


@pytest.mark.parametrize("name", [name for name in KINDS if "naflex" not in name])
def test_a_reading_is_that_of_a_real_row(name: str) -> None:
    """Lengths, slots, targets and contexts of a document as the loader would lay it out, so the arithmetic is the same."""
    settings = KINDS[name]
    row = make_row(["tttittittt"], seed=0, settings=settings)
    batch = collate([row], row_length=64, special=SPECIAL)
    reading = read_document(TrainConfig(output="x", model=settings, row_length=64), tokens=8, images=2)
    assert (reading.lengths, reading.slots, reading.images) == (batch.document_lengths[0], len(batch.slots), len(batch.contexts))
    forward = forward_flops(
        settings, VOCAB_SIZE, document_lengths=reading.lengths, grids=batch.grids, num_slots=reading.slots, num_targets=reading.targets, num_contexts=reading.images
    )
    assert TRAINING * forward == batch_flops(settings, VOCAB_SIZE, batch)


def test_a_long_document_is_read_in_pieces_and_pairs_one_by_one() -> None:
    config = replace(TOY, row_length=128)
    reading = read_document(config, tokens=300, images=2)
    assert reading.tokens == 300 + 2 * (config.model.most_slots + 2) + 2 and max(reading.lengths) <= 128 and len(reading.lengths) == 3
    limited = replace(config, data=replace(config.data, layout=replace(config.data.layout, max_images=1)))
    assert read_document(limited, tokens=300, images=2).images == 1
    clip = read_document(replace(config, loss=LossConfig(objective="clip")), images=2)
    assert (clip.lengths, clip.slots, clip.targets) == ((77, 77), 0, 0)
    coca = read_document(replace(config, loss=LossConfig(objective="coca")), images=2)
    assert coca.lengths == (55, 57 + config.model.most_slots) * 2 and coca.targets == 2 * 55 and coca.tokens == 2 * 128


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_described(name: str) -> None:
    config = PRESETS[name]
    lines = describe(config, world_sizes=(1, 16)).splitlines()
    (marked,) = [line for line in lines if line.endswith("<- this run")]
    assert marked.split()[0] == str(config.engine.zero_stage)
    assert any("1 rank  16 ranks" in line for line in lines) and any("hours on one NVIDIA H100" in line for line in lines)


def test_a_description_by_its_numbers() -> None:
    """877 = 0.97 x 256 x 2048 / 580 documents; 877 x 3 x 96.4 GFLOP = 253.6 TFLOP; 10000 of them at 0.4 x 989.4 TFLOP/s are 1.78 hours."""
    text = describe(PRESETS["lcl_vit_b32_mmc4"])
    for part in ("total       178.6 M", "12/N  3.573 GB  1.697 GB  1.463 GB  <- this run", "total    96.40 GFLOP", "877 documents, 2630 images, 253.6 TFLOP", "1.78 hours"):
        assert part in text, part


def test_a_description_says_what_else_is_set() -> None:
    config = replace(
        TOY, frozen=("visual",), recompute_every=2, engine=EngineConfig(zero_stage=2, offload="cpu"), optimizer=replace(TOY.optimizer, ema_decay=0.9),
        loss=LossConfig(objective="coca"),
    )  # fmt: skip
    text = describe(config)
    for part in ("trained", "every block in 2 recomputed", "memory of the host", "moving average"):
        assert part in text and part not in describe(TOY), part


def test_mistakes_are_named_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="--frozen 'visul'.*near names: visual"):
        describe(replace(TOY, frozen=("visul",)))
    with pytest.raises(ValueError, match="embed_width"):
        describe(replace(TOY, model=replace(TOY.model, embed_width=48)))
    with pytest.raises(ValueError, match="row_length .* cannot hold an image of 16 tokens"):
        describe(replace(TOY, row_length=18))
    with pytest.raises(ValueError, match="loss weights are 0"):
        describe(replace(TOY, loss=LossConfig(generation_weight=0, contrastive_weight=0)))
