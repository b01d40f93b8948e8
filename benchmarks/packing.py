"""Entry point: documents per second of packed rows against padded ones, on documents as long as MMC4's.

    python benchmarks/packing.py --output packing.json

    documents --RowLoader--> packed rows, several documents in each --+
              --one in each row, as the published code reads them-----+--> the same model's steps, timed in turn
    fill:     the packer alone, by the pieces that wait in a lane and by the number of lanes
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
from plain_step import PlainModel, seconds_of, the_device
from pydantic import Field
from synthetic_documents import DocumentsConfig, write_documents

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.core.tokenizer import Tokenizer
from lcl.flops import batch_flops, mfu, peak_flops
from lcl.loader import DataConfig, RowLoader, RowSource
from lcl.measured import write_result
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
    rounds: Count = 6
    """Timed rounds, each of documents of its own; 0: only fill is measured."""
    fill_documents: Count = 5000
    """Documents from which fill is measured; 0: it is not."""
    windows: tuple[Positive, ...] = (8, 16, 32, 64)
    """Values of data.pack_window whose fill is measured."""
    lanes: tuple[Positive, ...] = (1, 64)
    """Values of data.num_lanes whose fill is measured."""


@dataclass(frozen=True)
class Round:
    """The same documents twice."""

    packed: Batch
    padded: tuple[Batch, ...]

    @classmethod
    def of(cls, rows: Sequence[Row], tokenizer: Tokenizer, *, row_length: int, alone_length: int) -> "Round":
        """Packed rows of `row_length` as one batch, and their documents in rows of `alone_length`, in batches of at most as many."""
        special = SpecialIds.of(tokenizer)
        alone = [row for packed in rows for row in one_document_each(packed)]
        padded = (collate(alone[at : at + len(rows)], row_length=alone_length, special=special) for at in range(0, len(alone), len(rows)))
        return cls(collate(rows, row_length=row_length, special=special), tuple(map(computed_in_full, padded)))

    @property
    def documents(self) -> int:
        return self.packed.num_documents


@dataclass(frozen=True)
class Executed:
    """FLOPs of training on packed and on padded rows, with those on padding, and the useful ones, by one count (lcl/flops.py)."""

    packed: int
    padded: int
    useful: int

    @classmethod
    def of(cls, rounds: Iterable[Round], model: ModelConfig, tokenizer: Tokenizer) -> "Executed":
        count = partial(batch_flops, model, tokenizer.vocab_size)
        counts = [(count(with_padding(one.packed)), sum(map(count, one.padded)), count(one.packed)) for one in rounds]
        return cls(*map(sum, zip(*counts, strict=True)))

    @property
    def bound(self) -> float:
        """How many times as many documents arithmetic alone lets packed rows take."""
        return self.padded / self.packed


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
    """Documents, images and useful tokens per second of both over all rounds, and the ratio of their times beside what arithmetic allows.

    `bound` is executed FLOPs of padded rows over those of packed ones, by the same count. Rounds hold different documents, so each has
    a ratio and a bound of its own. Nothing is decoded while the clock runs.
    """
    rounds = make_rounds(settings, chosen, tokenizer, folder, num_rows=settings.rows or (8 if device.type == "cuda" else 1))
    plain = PlainModel.of(chosen, tokenizer, device)

    def numbers(some: Sequence[Round], seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """What rounds that took these seconds, packed and padded, come to together."""
        packed_seconds, padded_seconds = (sum(took[name] for took in seconds) for name in ("packed", "padded"))
        counts = {
            "documents": sum(item.documents for item in some), "images": sum(len(item.packed.grids) for item in some),
            "useful_tokens": sum(item.packed.num_tokens for item in some),
        }  # fmt: skip
        ratio, bound = padded_seconds / packed_seconds, Executed.of(some, chosen.model, tokenizer).bound
        return {
            "ratio": ratio, "bound": bound, "ratio_of_bound": ratio / bound, "packed_seconds": packed_seconds, "padded_seconds": padded_seconds,
            "packed_fill": counts["useful_tokens"] / sum(item.packed.ids.numel() for item in some),
            "padded_fill": counts["useful_tokens"] / sum(batch.ids.numel() for item in some for batch in item.padded),
            **counts,
            **{f"packed_{name}_per_second": count / packed_seconds for name, count in counts.items()},
            **{f"padded_{name}_per_second": count / padded_seconds for name, count in counts.items()},
        }  # fmt: skip

    if device.type == "cpu":
        plain.step([rounds[0].packed])  # the first step allocates; on a GPU every shape is compiled once
    seconds: list[dict[str, float]] = []
    nats_apart: list[float] = []
    for number, item in enumerate(rounds):
        work = {"packed": [item.packed.to(device)], "padded": [batch.to(device) for batch in item.padded]}
        if device.type == "cuda":
            for batches in work.values():
                plain.step(batches)
        took, nats = {}, {}
        for name in ("packed", "padded") if number % 2 == 0 else ("padded", "packed"):
            took[name] = seconds_of(lambda: nats.update({name: plain.step(work[name])}), device)
        seconds.append(took)
        nats_apart.append(abs(nats["packed"] - nats["padded"]))
        one = numbers([item], [took])
        log.info(
            "round %d: %d documents, %.3g s packed, %.3g s padded, ratio %.3f of %.3f",
            number, item.documents, took["packed"], took["padded"], one["ratio"], one["bound"],
        )  # fmt: skip
    found, by_round = numbers(rounds, seconds), [numbers([item], [took]) for item, took in zip(rounds, seconds, strict=True)]
    shares = [one["ratio_of_bound"] for one in by_round]
    peak, useful = peak_flops(device, precision="bf16"), Executed.of(rounds, chosen.model, tokenizer).useful
    for name in ("packed", "padded"):
        if (used := mfu(useful, found[f"{name}_seconds"], peak)) is not None:
            found[f"{name}_useful_mfu"] = used
    log.info(
        "packed %.3g documents/s, padded %.3g: ratio %.2f, arithmetic allows %.2f, %.0f %% of it (target %.0f %%); fill %.1f %% (target %.0f %%) against %.1f %%",
        found["packed_documents_per_second"], found["padded_documents_per_second"], found["ratio"], found["bound"], 100 * found["ratio_of_bound"],
        100 * TARGET_OF_BOUND, 100 * found["packed_fill"], 100 * TARGET_FILL, 100 * found["padded_fill"],
    )  # fmt: skip
    return found | {
        "ratio_of_bound_lowest": min(shares), "ratio_of_bound_highest": max(shares), "nats_apart": max(nats_apart), "device": device.type,
        "precision": "bf16" if device.type == "cuda" else "fp32", "target_fill": TARGET_FILL, "target_of_bound": TARGET_OF_BOUND,
        "rounds": by_round,
    }  # fmt: skip


def make_rounds(settings: PackingConfig, chosen: TrainConfig, tokenizer: Tokenizer, folder: Path, *, num_rows: int) -> list[Round]:
    """Rows of one lane after its window was used up once, so that what waits in it is what waits for ever after."""
    write_documents(
        folder, settings.documents, num_documents=1000, row_length=length_alone(chosen), slots=chosen.model.most_slots, tokenizer=tokenizer
    )
    data = DataConfig(shards=(str(folder),), num_lanes=1, pack_window=settings.pack_window)
    source = RowSource(data, chosen.model, chosen.row_length, settings.documents.seed, tokenizer=tokenizer)
    loader = RowLoader(source, rank=0, world_size=1, batch_rows=num_rows)
    take_documents(loader, settings.pack_window)
    return [
        Round.of(loader.take(num_rows), tokenizer, row_length=chosen.row_length, alone_length=length_alone(chosen)) for _ in range(settings.rounds)
    ]


def length_alone(chosen: TrainConfig) -> int:
    """Places of a row with one document: the model's context, where that is shorter than a packed row."""
    return min(chosen.row_length, chosen.model.text.context_length)


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
    positions = torch.arange(length).expand_as(batch.ids).contiguous()
    return replace(batch, document_ids=torch.ones_like(batch.ids), positions=positions, document_lengths=((length,),) * len(batch.ids))


def with_padding(batch: Batch) -> Batch:
    """The batch with each place of padding as a document of one token, so that its executed FLOPs are counted."""
    length = batch.ids.shape[1]
    return replace(batch, document_lengths=tuple((*lengths, *[1] * (length - sum(lengths))) for lengths in batch.document_lengths))


def measure_fill(settings: PackingConfig, chosen: TrainConfig, tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Parts of all places that hold a token in packed rows, by window and number of lanes, and in padded ones; and what arithmetic allows.

    Only lengths matter to a packer, so images are of 8 px here, with as many places in a row as the preset's.
    """
    slots, length, alone_length = chosen.model.most_slots, chosen.row_length, length_alone(chosen)
    tiny = replace(chosen.model, image_latents=slots, vision=VisionConfig(image_px=8, patch_px=8))
    grid = chosen.model.vision.evaluation_crop(*settings.documents.image_px).grid
    documents = replace(settings.documents, image_px=(16, 16))
    write_documents(folder, documents, num_documents=settings.fill_documents, row_length=alone_length, slots=slots, tokenizer=tokenizer)

    def at_full_size(one: Round) -> Round:
        packed, *padded = (replace(batch, grids=(grid,) * len(batch.grids)) for batch in (one.packed, *one.padded))
        return Round(packed, tuple(padded))

    found: list[dict[str, Any]] = []
    for lanes in settings.lanes:
        for window in settings.windows:
            data = DataConfig(shards=(str(folder),), num_lanes=lanes, pack_window=window)
            loader = RowLoader(RowSource(data, tiny, length, settings.documents.seed, tokenizer=tokenizer), rank=0, world_size=1, batch_rows=1)
            take_documents(loader, lanes * window)  # at first every lane has its choice of a fresh window
            rows = take_documents(loader, settings.fill_documents)
            rounds = (Round.of([row], tokenizer, row_length=length, alone_length=alone_length) for row in rows)
            bound = Executed.of(map(at_full_size, rounds), chosen.model, tokenizer).bound
            num_documents, tokens = sum(len(row.pieces) for row in rows), sum(len(piece) for row in rows for piece in row.pieces)
            found.append({
                "lanes": lanes, "window": window, "documents": num_documents, "rows": len(rows), "tokens": tokens, "fill": tokens / (len(rows) * length),
                "padded_fill": tokens / (num_documents * alone_length), "bound": bound,
            })  # fmt: skip
            log.info("%d lanes, window %d: fill %.4f of %d rows; arithmetic allows a ratio of %.3f", lanes, window, found[-1]["fill"], len(rows), bound)
    padded = sum(one["tokens"] for one in found) / sum(one["documents"] for one in found) / alone_length
    return {"packed": found, "padded": padded, "mean_tokens": padded * alone_length, "row_length": length, "slots": slots, "target": TARGET_FILL}


if __name__ == "__main__":
    run_command(PackingConfig, main, description=__doc__.splitlines()[0])
