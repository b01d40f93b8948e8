"""Entry point: documents per second of packed rows against padded ones, on documents as long as MMC4's.

    python benchmarks/packing.py --output packing.json

    documents --RowLoader--> packed rows, several documents in each --+
              --one in each row, as the published code reads them-----+--> the same model's steps, timed in turn
    fill:     the packer alone, by the pieces that wait in a lane and by the number of lanes
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
from plain_step import PlainModel, seconds_of, the_device
from pydantic import Field
from results import write_result
from synthetic_documents import DocumentsConfig, write_documents

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.core.tokenizer import Tokenizer
from lcl.flops import batch_flops, mfu, peak_flops
from lcl.loader import DataConfig, RowLoader, RowSource
from lcl.model import ModelConfig
from lcl.rows import Batch, Row, SpecialIds, collate
from lcl.train_config import PRESETS, TrainConfig
from lcl.vision import VisionConfig

log = logging.getLogger(__name__)

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]

TARGET_FILL = 0.95  # of packed rows
TARGET_OF_BOUND = 0.9  # of the ratio that arithmetic allows


@config
class PackingConfig:
    output: str
    """JSON file for the numbers."""
    model: str = "lcl_vit_b32_mmc4"
    """Preset of `lcl pretrain` whose model and row length are taken."""
    documents: DocumentsConfig = DocumentsConfig()
    pack_window: Positive = 32
    """Pieces that wait in a lane, for the timed rows."""
    rows: Count = 0
    """Packed rows of a round; 0: 1 on a CPU and 8 on a GPU. Padded rows come in batches of at most as many."""
    rounds: Count = 4
    """Timed rounds, each of documents of its own; 0: only fill is measured."""
    fill_documents: Count = 5000
    """Documents from which fill is measured; 0: it is not."""
    windows: tuple[Positive, ...] = (8, 16, 32, 64)
    """Values of data.pack_window whose fill is measured."""
    lanes: tuple[Positive, ...] = (1, 64)
    """Values of data.num_lanes whose fill is measured."""


@dataclass(frozen=True)
class Round:
    """The same documents twice. FLOPs are those executed, padding included, and of the useful ones."""

    packed: Batch
    padded: tuple[Batch, ...]
    packed_flops: int
    padded_flops: int
    useful_flops: int

    @property
    def documents(self) -> int:
        return self.packed.num_documents


def main(settings: PackingConfig) -> None:
    set_up_logging()
    if settings.model not in PRESETS:
        raise ValueError(f"--model {settings.model}: no preset is called that; there are {', '.join(PRESETS)}")
    device, chosen = the_device(), PRESETS[settings.model]
    tokenizer = Tokenizer(chosen.model.tokenizer)
    measured: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        if settings.rounds:
            measured["throughput"] = measure_throughput(settings, chosen, tokenizer, Path(folder) / "timed", device)
        if settings.fill_documents:
            measured["fill"] = measure_fill(settings, chosen, tokenizer, Path(folder) / "many")
    write_result(Path(settings.output), settings, measured)


def measure_throughput(settings: PackingConfig, chosen: TrainConfig, tokenizer: Tokenizer, folder: Path, device: torch.device) -> dict[str, Any]:
    """Medians over the rounds: documents, images and useful tokens per second of both, and their ratio beside what arithmetic allows.

    `bound` is executed FLOPs of padded rows over those of packed ones, by the same count. Nothing is decoded while the clock runs.
    """
    rounds = make_rounds(settings, chosen, tokenizer, folder, num_rows=settings.rows or (8 if device.type == "cuda" else 1))
    plain, peak = PlainModel.of(chosen, tokenizer, device), peak_flops(device)
    if device.type == "cpu":
        plain.step([rounds[0].packed])  # the first step allocates; on a GPU every shape is compiled once
    measured: list[dict[str, float]] = []
    for number, item in enumerate(rounds):
        packed, padded = [item.packed.to(device)], [batch.to(device) for batch in item.padded]
        if device.type == "cuda":
            plain.step(packed), plain.step(padded)
        seconds, nats = {}, {}
        for name, batches in (("packed", packed), ("padded", padded)) if number % 2 == 0 else (("padded", padded), ("packed", packed)):
            seconds[name] = seconds_of(lambda: nats.update({name: plain.step(batches)}), device)
        images, tokens = len(item.packed.grids), item.packed.num_tokens
        one = {"documents": item.documents, "ratio": seconds["padded"] / seconds["packed"], "bound": item.padded_flops / item.packed_flops}
        one |= {"nats_apart": abs(nats["packed"] - nats["padded"]), "packed_fill": tokens / item.packed.ids.numel()}
        one["padded_fill"] = tokens / sum(batch.ids.numel() for batch in item.padded)
        for name, took in seconds.items():
            one |= {f"{name}_{what}_per_second": count / took for what, count in (("documents", item.documents), ("images", images), ("useful_tokens", tokens))}
            one[f"{name}_seconds"] = took
            if (used := mfu(item.useful_flops, took, peak)) is not None:
                one[f"{name}_useful_mfu"] = used
        measured.append(one)
        log.info("round %d: %s", number, ", ".join(f"{name} {value:.4g}" for name, value in one.items()))
    numbers = {name: median(one[name] for one in measured) for name in measured[0]}
    numbers["ratio_of_bound"] = median(one["ratio"] / one["bound"] for one in measured)
    numbers |= {"ratio_lowest": min(one["ratio"] for one in measured), "ratio_highest": max(one["ratio"] for one in measured)}
    numbers["documents"] = sum(one["documents"] for one in measured)
    log.info(
        "packed %.3g documents/s, padded %.3g: ratio %.2f, arithmetic allows %.2f, %.0f %% of it (target %.0f %%); fill %.1f %% (target %.0f %%) against %.1f %%",
        numbers["packed_documents_per_second"], numbers["padded_documents_per_second"], numbers["ratio"], numbers["bound"], 100 * numbers["ratio_of_bound"],
        100 * TARGET_OF_BOUND, 100 * numbers["packed_fill"], 100 * TARGET_FILL, 100 * numbers["padded_fill"],
    )  # fmt: skip
    return numbers | {"device": device.type, "precision": "bf16" if device.type == "cuda" else "fp32", "rounds": measured}


def make_rounds(settings: PackingConfig, chosen: TrainConfig, tokenizer: Tokenizer, folder: Path, *, num_rows: int) -> list[Round]:
    """Rows of one lane after its window was used up once, so that what waits in it is what waits for ever after.

    A padded row is as long as the model's context where that is shorter than a packed row, for so the published code has it.
    """
    model, length = chosen.model, chosen.row_length
    alone_length = min(length, model.text.context_length)
    write_documents(folder, settings.documents, num_documents=1000, row_length=alone_length, slots=model.most_slots, tokenizer=tokenizer)
    data = DataConfig(shards=(str(folder),), num_lanes=1, pack_window=settings.pack_window)
    loader = RowLoader(RowSource(data, model, length, settings.documents.seed, tokenizer=tokenizer), rank=0, world_size=1, batch_rows=num_rows)
    take_documents(loader, settings.pack_window)

    def batch_of(rows: Sequence[Row], row_length: int) -> Batch:
        return collate(rows, row_length=row_length, special=SpecialIds.of(tokenizer))

    rounds = []
    for _ in range(settings.rounds):
        rows = loader.take(num_rows)
        alone = [row for packed in rows for row in one_document_each(packed)]
        packed = batch_of(rows, length)
        padded = tuple(computed_in_full(batch_of(alone[at : at + num_rows], alone_length)) for at in range(0, len(alone), num_rows))
        rounds.append(
            Round(
                packed, padded, packed_flops=batch_flops(model, tokenizer.vocab_size, with_padding(packed)),
                padded_flops=sum(batch_flops(model, tokenizer.vocab_size, batch) for batch in padded),
                useful_flops=batch_flops(model, tokenizer.vocab_size, packed),
            )
        )  # fmt: skip
    return rounds


def take_documents(loader: RowLoader, num_documents: int) -> list[Row]:
    """The next rows that hold at least as many documents."""
    rows: list[Row] = []
    while sum(len(row.pieces) for row in rows) < num_documents:
        rows += loader.take(1)
    return rows


def one_document_each(row: Row) -> list[Row]:
    """The row's pieces with their images, each in a row of its own."""
    images = iter(row.images)
    return [Row((piece,), tuple(next(images) for _ in piece.images)) for piece in row.pieces]


def computed_in_full(batch: Batch) -> Batch:
    """The batch as the published code reads it: causal attention over the whole row, padding behind the document included.

    What stands behind a document changes nothing in it, and nothing there is a target.
    """
    length = batch.ids.shape[1]
    return replace(
        batch, document_ids=torch.ones_like(batch.ids), positions=torch.arange(length).expand_as(batch.ids).contiguous(), document_lengths=((length,),) * len(batch.ids)
    )  # fmt: skip


def with_padding(batch: Batch) -> Batch:
    """The batch with each place of padding as a document of one token, so that its executed FLOPs are counted."""
    length = batch.ids.shape[1]
    return replace(batch, document_lengths=tuple((*lengths, *[1] * (length - sum(lengths))) for lengths in batch.document_lengths))


def measure_fill(settings: PackingConfig, chosen: TrainConfig, tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Parts of all places of rows that hold a token: of packed rows by window and number of lanes, and of padded ones.

    Only lengths matter to a packer, so images are of 8 px here, with as many places in a row as the preset's.
    """
    slots, length = chosen.model.most_slots, chosen.row_length
    model = ModelConfig(
        image_latents=slots, vision=VisionConfig(image_px=8, patch_px=8), text=replace(chosen.model.text, context_length=length), tokenizer=chosen.model.tokenizer,
        embed_width=chosen.model.embed_width, pool_heads=chosen.model.pool_heads,
    )  # fmt: skip
    write_documents(
        folder, replace(settings.documents, image_px=(16, 16)), num_documents=settings.fill_documents, row_length=length, slots=slots, tokenizer=tokenizer
    )
    packed: list[dict[str, Any]] = []
    for lanes in settings.lanes:
        for window in settings.windows:
            data = DataConfig(shards=(str(folder),), num_lanes=lanes, pack_window=window)
            loader = RowLoader(RowSource(data, model, length, settings.documents.seed, tokenizer=tokenizer), rank=0, world_size=1, batch_rows=1)
            take_documents(loader, lanes * window)  # at first every lane has its choice of a fresh window
            rows = take_documents(loader, settings.fill_documents)
            tokens = sum(len(piece) for row in rows for piece in row.pieces)
            packed.append({
                "lanes": lanes, "window": window, "documents": sum(len(row.pieces) for row in rows), "rows": len(rows), "tokens": tokens,
                "fill": tokens / (len(rows) * length),
            })  # fmt: skip
            log.info("%d lanes, window %d: fill %.4f of %d rows", lanes, window, packed[-1]["fill"], len(rows))
    padded = sum(one["tokens"] for one in packed) / sum(one["documents"] for one in packed) / length
    log.info("one document a row: fill %.4f", padded)
    return {"packed": packed, "padded": padded, "mean_tokens": padded * length, "row_length": length, "slots": slots}


if __name__ == "__main__":
    run_command(PackingConfig, main, description=__doc__.splitlines()[0])
