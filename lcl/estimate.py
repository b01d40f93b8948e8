"""What a run will need, from its config alone: what `lcl pretrain --dry-run` says beside the config. No shard is read, no weight allocated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lcl.core.tokenizer import Tokenizer
from lcl.engine import EngineConfig
from lcl.flops import TRAINING, attention_widths, contrastive_flops, decoder_flops, forward_flops, named_peak, pooling_flops, vision_flops
from lcl.layout import Setting
from lcl.losses import CHUNK
from lcl.model import LCL
from lcl.parameter_groups import freeze
from lcl.text import TextConfig
from lcl.train_config import TrainConfig
from lcl.vision import Tower

# Assumptions. A document is one of MMC4 (43 B text tokens in 101.2 M; Zhu et al. 2023, arXiv:2304.06939) with those of its 5.6 images that filters leave.
DOCUMENT_TOKENS, DOCUMENT_IMAGES = 425, 3
FILL = 0.97  # of the places in packed rows
UTILISATION = 0.4  # MFU; PaLM had 0.46 (Chowdhery et al. 2022, arXiv:2204.02311, table 3)
GPU = "NVIDIA H100 80GB HBM3"

EMBEDDINGS = ("text.token_embedding.", "text.positional_embedding", "text.body.embed_tokens.")
PARTS = {"visual.": "vision", "pool_project.": "pooling", "text.": "decoder", "lm_head.": "lm_head"}


@dataclass(frozen=True)
class Parameters:
    """How many numbers each part of the model holds, and how many of all are trained."""

    parts: dict[str, int]
    trained: int

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Reading:
    """What the model reads of one document: lengths of what attends to itself, images with a context, their slots, and targets of text."""

    lengths: tuple[int, ...]
    images: int
    slots: int
    targets: int

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True)
class StateBytes:
    """Bytes of what one rank holds through a step."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer


def count_parameters(config: TrainConfig, vocab_size: int) -> Parameters:
    """Parameters by part, counted on the meta device. Raises ValueError for sizes that do not fit together and for an unknown part in `frozen`."""
    with torch.device("meta"):
        model = LCL(config.model, vocab_size=vocab_size, regression=config.loss.regresses)
    frozen = freeze(model, config.frozen) if config.frozen else 0
    parts = dict.fromkeys(["vision", "pooling", "decoder", "embeddings", "lm_head", "other"], 0)
    for name, value in model.named_parameters():
        part = next((part for start, part in PARTS.items() if name.startswith(start)), "other")
        parts["embeddings" if name.startswith(EMBEDDINGS) else part] += value.numel()
    return Parameters(parts, sum(parts.values()) - frozen)


def bytes_per_parameter(engine: EngineConfig, *, zero_stage: int) -> StateBytes:
    """What all ranks together hold of one parameter, counted once where they share it.

    fp32 is weight 4, gradient 4, Adam 8; bf16 is weight 2, gradient 2, the optimiser's own weight 4, Adam 8 (Rajbhandari et al. 2020,
    arXiv:1910.02054, section 3.1). DeepSpeed 0.19 under ZeRO has more, as the live tensors of a toy model in a step show: in fp32 an
    optimiser's own weight too; in bf16 gradients that add up in 4, at ZeRO 1 beside those of 2.
    """
    if engine.precision != "bf16":
        return StateBytes(weights=4, gradients=4, optimizer=12 if zero_stage else 8)
    return StateBytes(weights=2, gradients=(2, 6, 4, 4)[zero_stage], optimizer=12)


def state_bytes(parameters: Parameters, engine: EngineConfig, *, zero_stage: int, world_size: int) -> StateBytes:
    """Bytes of weights, gradients and optimiser state on each rank: ZeRO 1 shares out the last, 2 gradients too, 3 weights too.

    A frozen parameter has its weight only. Not counted are buckets for communication, weights that ZeRO 3 has gathered, and copies
    during the update, when there are no activations.
    """
    each = bytes_per_parameter(engine, zero_stage=zero_stage)
    return StateBytes(
        weights=each.weights * parameters.total / (world_size if zero_stage >= 3 else 1),
        gradients=each.gradients * parameters.trained / (world_size if zero_stage >= 2 else 1),
        optimizer=each.optimizer * parameters.trained / (world_size if zero_stage >= 1 else 1),
    )


def vision_block_values(tower: Tower) -> int:
    """Numbers that a block of the vision tower keeps of a token for the backward pass.

    Input and output of two norms; queries, keys, values and what attention gives; the MLP's inside before and after its activation.
    These are the 34 bytes x width of Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1) without attention's matrices, which the
    kernels do not keep, and without the 2 of dropout, which there is none of.
    """
    return 8 * tower.width + 2 * int(tower.width * tower.mlp_ratio)


def text_block_values(text: TextConfig) -> int:
    """The same of a block of the decoder, where what attention gives is kept in two layouts.

    An RMSNorm of transformers also keeps what it has not scaled yet, a gated MLP both halves of its inside, one activated, and their product.
    """
    queries, keys = attention_widths(text)
    if text.kind == "clip":
        return 4 * text.width + 3 * queries + 2 * keys + 2 * text.inner_width
    norms_of_heads = 2 * (queries + keys) if text.kind == "qwen3" else 0
    return 6 * text.width + norms_of_heads + 3 * queries + 2 * keys + 4 * text.inner_width


def activation_bytes(config: TrainConfig, vocab_size: int, *, text_tokens: float, vision_tokens: float, targets: int = CHUNK) -> float:
    """Bytes that the blocks of both towers keep of a micro-batch with so many tokens, and logits of `CHUNK` targets (or of all, if they are fewer) in three forms.

    Blocks that are recomputed keep their input, and one of them at a time is there as a whole.
    """
    text, tower = config.model.text, config.model.vision.tower()
    blocks = [(vision_tokens * tower.width, vision_tokens * vision_block_values(tower))] * tower.layers
    blocks += [(text_tokens * text.width, text_tokens * text_block_values(text))] * text.layers
    recomputed = blocks[:: config.recompute_every] if config.recompute_every else []
    values = sum(whole for _, whole in blocks) + sum(entered - whole for entered, whole in recomputed) + max((whole for _, whole in recomputed), default=0)
    value_bytes = 4 if config.engine.precision == "fp32" else 2
    logit_bytes = value_bytes + 4 + 4  # as the model makes them, in fp32, and their log-softmax
    return value_bytes * values + logit_bytes * min(CHUNK, targets) * vocab_size


def read_document(config: TrainConfig, *, tokens: int = DOCUMENT_TOKENS, images: int = DOCUMENT_IMAGES) -> Reading:
    """How a document of so many text tokens and images is read: in even pieces where it is longer than a row.

    Images have all the patches that they may, and a context. The text of a pair is as long as it may be.
    """
    model, slots = config.model, config.model.most_slots
    length = min(config.row_length, model.text.context_length)
    layout = config.data.layout
    images, words = min(images, layout.max_images or images), layout.pair_tokens
    if layout.near_tokens:
        tokens = min(tokens, (images + 1) * layout.near_tokens)
    if config.loss.layout == "document":
        whole = tokens + images * (slots + 2) + 2
        pieces = math.ceil(whole / length)
        return Reading(tuple(whole // pieces + (number < whole % pieces) for number in range(pieces)), images, slots=images * slots, targets=tokens + images + 1)
    if config.loss.layout == "pairs":
        return Reading((min(words, length - 2) + 2,) * images, images, slots=0, targets=0)
    words = min(words, (length - slots - 6) // 2)
    return Reading((words + 2, words + 4 + slots) * images, images, slots=images * slots, targets=images * (words + 2))


def describe(config: TrainConfig, *, world_sizes: Sequence[int] = (1, 8, 64)) -> str:
    """Tables in plain text: parameters, memory of a rank, arithmetic of a step and hours of the run, with what they assume.

    Raises ValueError for a model whose sizes do not fit together, rows too short for an image, an unknown part in `frozen`, loss weights that
    are all 0, and a tokenizer file that is missing.
    """
    config.loss.check()
    if config.batch_rows % config.micro_rows:
        raise ValueError(f"batch_rows ({config.batch_rows}) must be a multiple of micro_rows ({config.micro_rows}), and of ranks x micro_rows when it runs")
    tokenizer = Tokenizer(config.model.tokenizer)
    vocab_size, parameters = tokenizer.vocab_size, count_parameters(config, tokenizer.vocab_size)
    length = min(config.row_length, config.model.text.context_length)
    Setting(tokenizer=tokenizer, layout=config.loss.layout, rules=config.data.layout, length=length, model=config.model)  # checks that an image fits
    reading = read_document(config)
    sections = [
        _describe_parameters(parameters), _describe_states(config, parameters, world_sizes), _describe_activations(config, vocab_size, reading),
        _describe_arithmetic(config, vocab_size, reading),
    ]  # fmt: skip
    return "\n\n".join(sections)


def _describe_parameters(parameters: Parameters) -> str:
    counts = parameters.parts | {"total": parameters.total}
    if parameters.trained < parameters.total:
        counts |= {"trained": parameters.trained}
    return "Parameters\n" + plain_table([(name, plain_amount(count)) for name, count in counts.items()])


def _describe_states(config: TrainConfig, parameters: Parameters, world_sizes: Sequence[int]) -> str:
    rows = [("ZeRO", "weight", "gradient", "optimiser", *(f"{world_size} rank{'s' * (world_size > 1)}" for world_size in world_sizes), "")]
    for stage in range(4):
        each = bytes_per_parameter(config.engine, zero_stage=stage)
        amounts = zip((each.weights, each.gradients, each.optimizer), (3, 2, 1), strict=True)
        totals = (state_bytes(parameters, config.engine, zero_stage=stage, world_size=world_size).total for world_size in world_sizes)
        rows.append(
            (str(stage), *(f"{amount}{'/N' * (stage >= shared_from)}" for amount, shared_from in amounts), *(plain_amount(total, "B") for total in totals),
             "<- this run" if stage == config.engine.zero_stage else "")
        )  # fmt: skip
    lines = [f"Weights, gradients and optimiser state in {config.engine.precision}: bytes per parameter, and in all on each of N ranks", plain_table(rows)]
    if config.engine.offload == "cpu":
        lines.append("  --engine.offload cpu: the optimiser's part lies in the memory of the host")
    if config.optimizer.ema_decay:
        lines.append(f"  the moving average of weights takes {plain_amount(4 * parameters.total, 'B')} more, in the memory of rank 0's host")
    return "\n".join(lines)


def _describe_activations(config: TrainConfig, vocab_size: int, reading: Reading) -> str:
    vision, text, text_tokens = config.model.vision, config.model.text, config.micro_rows * config.row_length
    images = FILL * text_tokens / reading.tokens * reading.images
    vision_tokens = images * (vision.most_patches + (vision.kind == "vit"))
    amount = activation_bytes(config, vocab_size, text_tokens=text_tokens, vision_tokens=vision_tokens)
    recomputed = f"every block in {config.recompute_every} recomputed" if config.recompute_every else "no block recomputed"
    return (
        f"Activations of a micro-batch, {config.micro_rows} rows x {config.row_length} tokens with {images:.0f} images: about {plain_amount(amount, 'B', digits=2)}, {recomputed}\n"
        f"  {text_block_values(text)} values x {text_tokens} tokens x {text.layers} blocks of the decoder, {vision_block_values(vision.tower())} x {vision_tokens:.0f} x "
        f"{vision.tower().layers} of the vision tower, and logits of {CHUNK} targets"
    )


def _describe_arithmetic(config: TrainConfig, vocab_size: int, reading: Reading) -> str:
    model, peak = config.model, named_peak(GPU, precision=config.engine.precision)
    assert peak is not None
    grids = [(1, model.vision.most_patches)] * reading.images
    parts = {
        "vision": vision_flops(model.vision, grids),
        "pooling": pooling_flops(model, grids, num_slots=reading.slots),
        "decoder": decoder_flops(model.text, reading.lengths),
    }
    forward = forward_flops(
        model, vocab_size, document_lengths=reading.lengths, grids=grids, num_slots=reading.slots, num_targets=reading.targets, num_contexts=reading.images,
        regression=config.loss.regresses,
    )  # fmt: skip
    parts |= {"heads": forward - sum(parts.values()), "total": forward}
    documents = FILL * config.batch_rows * config.row_length / reading.tokens
    images = documents * reading.images
    step = TRAINING * documents * forward + contrastive_flops(model.embed_width, num_images=round(images), num_contexts=round(images))
    hours = config.steps * step / (UTILISATION * peak) / 3600
    return "\n".join(
        [
            f"Forward pass of a document of {DOCUMENT_TOKENS} text tokens and {DOCUMENT_IMAGES} images (MMC4)",
            f"  read as {reading.tokens} tokens in parts of up to {max(reading.lengths)}, {reading.targets} targets, "
            f"{reading.images} images of {model.vision.most_patches} patches",
            plain_table([(name, plain_amount(amount, "FLOP")) for name, amount in parts.items()]),
            "",
            f"A step of {config.batch_rows} rows x {config.row_length} tokens, {FILL:.0%} full of such documents",
            f"  {documents:.0f} documents, {images:.0f} images, {plain_amount(step, 'FLOP')} (the forward pass x {TRAINING})",
            f"A run of {config.steps} steps",
            f"  {plain_amount(config.steps * step, 'FLOP')}, {hours:.3g} hours on one {GPU} at {UTILISATION:.0%} of {plain_amount(peak, 'FLOP/s')} ({config.engine.precision})",
        ]
    )


def plain_amount(amount: float, unit: str = "", *, digits: int = 4) -> str:
    """So many digits, and a decimal prefix."""
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if amount >= 10**power:
            return f"{amount / 10**power:#.{digits}g}".rstrip(".") + f" {prefix}{unit}"
    return f"{amount:.4g} {unit}".rstrip()


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be, the first from the left and the others from the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)
