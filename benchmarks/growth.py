"""Entry point: how the cost of a training step grows with the work: longer rows, longer documents, more negatives, more ranks.

    python benchmarks/growth.py --output growth.json

    row_length, documents   steps of one model on rows of equal documents, every size timed once in each round
    contrastive             the loss and its gradients, each size in a process of its own, so that peaks of memory do not add up
    ranks                   runs of lcl/pretrain.py with as many rows for each rank
"""

import logging
import multiprocessing
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import torch
from plain_step import PlainModel, seconds_of, the_device
from pydantic import Field
from synthetic_documents import DocumentsConfig, write_documents

from lcl.contrastive import Twins, contrastive_gradients, contrastive_loss
from lcl.core.config import config, run_command
from lcl.core.logs import read_metrics, set_up_logging
from lcl.core.tokenizer import Tokenizer
from lcl.flops import batch_flops, contrastive_flops, mfu, peak_flops
from lcl.loader import DataConfig, RowLoader, RowSource
from lcl.measured import write_result
from lcl.rows import Batch, SpecialIds, collate
from lcl.train_config import PRESETS, TrainConfig

log = logging.getLogger(__name__)

Positive = Annotated[int, Field(ge=1)]
Part = Literal["row_length", "documents", "contrastive", "ranks"]

ROOT = Path(__file__).resolve().parent.parent
LOGIT_SCALE = 4.6052  # its ceiling, ln 100, where training ends up


@config
class GrowthConfig:
    output: str
    """JSON file for the numbers."""
    parts: tuple[Part, ...] = ("row_length", "documents", "contrastive", "ranks")
    model: str = ""
    """Preset of `lcl pretrain` whose model is taken; by default small on a CPU and lcl_vit_b32_mmc4 on a GPU."""
    rows: Annotated[int, Field(ge=0)] = 0
    """Rows of a timed step; 0: 1 on a CPU and 8 on a GPU."""
    row_lengths: tuple[Positive, ...] = (256, 512, 1024, 2048, 4096)
    document_tokens: Positive = 128
    """Tokens of each document where rows get longer, one image among them; each length is timed with one document in the row, too."""
    row_length: Positive = 2048
    """Tokens of the row that more and more documents share."""
    documents: tuple[Positive, ...] = (1, 2, 4, 8, 16, 32)
    """How many documents share it; the most of them have one image each, and the row has as many images always."""
    negatives: tuple[Positive, ...] = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
    """Images of the contrastive loss, each against all others."""
    plain_up_to: Positive = 8192
    """Up to as many the plain loss is timed beside it, which holds all similarities at one time."""
    ranks: tuple[Positive, ...] = (1, 2)
    rounds: Positive = 5
    """Rounds of which medians are taken; of the contrastive part and of ranks the best of 2 at most."""
    steps: Positive = 30
    """Steps of a run of ranks, of which the first third is not counted."""


def main(settings: GrowthConfig) -> None:
    set_up_logging()
    device = the_device()
    name = settings.model or ("lcl_vit_b32_mmc4" if device.type == "cuda" else "small")
    if name not in PRESETS:
        raise ValueError(f"--model {name}: no preset is called that; there are {', '.join(PRESETS)}")
    longest = max(*settings.row_lengths, settings.row_length)
    chosen = PRESETS[name]
    chosen = replace(chosen, model=replace(chosen.model, text=replace(chosen.model.text, context_length=longest)))
    measured: dict[str, Any] = {"model": name, "device": device.type, "precision": "bf16" if device.type == "cuda" else "fp32"}
    with TemporaryDirectory() as folder:
        if "row_length" in settings.parts:
            sizes = {(length, tokens) for length in settings.row_lengths for tokens in (min(length, settings.document_tokens), length)}
            images = {(length, tokens): tokens // min(length, settings.document_tokens) for length, tokens in sizes}
            measured["row_length"] = measure_rows(settings, chosen, images, Path(folder) / "row_length", device)
        if "documents" in settings.parts:
            most = max(settings.documents)
            images = {(settings.row_length, settings.row_length // count): most // count for count in settings.documents}
            measured["documents"] = measure_rows(settings, chosen, images, Path(folder) / "documents", device)
        if "contrastive" in settings.parts:
            measured["contrastive"] = measure_contrastive(settings, chosen.model.embed_width if "toy" in name else 512)
        if "ranks" in settings.parts:
            measured["ranks"] = measure_ranks(settings, name, Path(folder) / "ranks", device)
    write_result(Path(settings.output), settings, measured)


def measure_rows(
    settings: GrowthConfig, chosen: TrainConfig, images: Mapping[tuple[int, int], int], folder: Path, device: torch.device
) -> list[dict[str, float]]:
    """Median seconds of a step on rows of one length that are full of documents of one length: (row length, tokens of a document) -> images in each."""
    tokenizer = Tokenizer(chosen.model.tokenizer)
    num_rows = settings.rows or (8 if device.type == "cuda" else 1)
    plain, peak = PlainModel.of(chosen, tokenizer, device), peak_flops(device, precision="bf16")
    batches, found = {}, []
    for (length, tokens), num_images in sorted(images.items()):
        batch = full_rows(chosen, tokenizer, folder / f"{length}-{tokens}", num_rows=num_rows, row_length=length, document_tokens=tokens, num_images=num_images)
        found.append({
            "row_length": length, "document_tokens": tokens, "documents": batch.num_documents // num_rows, "images": len(batch.grids) // num_rows,
            "rows": num_rows, "flops": batch_flops(chosen.model, tokenizer.vocab_size, batch),
        })  # fmt: skip
        batches[length, tokens] = [batch.to(device)]
        plain.step(batches[length, tokens])  # allocates, and compiles on a GPU
    seconds: dict[tuple[int, int], list[float]] = {size: [] for size in batches}
    for _ in range(settings.rounds):
        for size, some in batches.items():
            seconds[size].append(seconds_of(lambda: plain.step(some), device))
    for one in found:
        took = seconds[one["row_length"], one["document_tokens"]]
        one |= {"seconds": median(took), "seconds_lowest": min(took)}
        if (used := mfu(one["flops"], one["seconds"], peak)) is not None:
            one["mfu"] = used
        log.info("rows of %d, documents of %d: %.4g s", one["row_length"], one["document_tokens"], one["seconds"])
    return found


def full_rows(
    chosen: TrainConfig, tokenizer: Tokenizer, folder: Path, *, num_rows: int, row_length: int, document_tokens: int, num_images: int
) -> Batch:
    """Rows without padding, of documents of `document_tokens` tokens with `num_images` images each. Raises ValueError if lengths do not divide."""
    slots, count = chosen.model.most_slots, row_length // document_tokens
    text_tokens = document_tokens - 2 - num_images * (slots + 2)
    if row_length % document_tokens or text_tokens < 1:
        what = f"{document_tokens} tokens with {num_images} images of {slots} places"
        raise ValueError(f"rows of {row_length} tokens cannot be full of documents of {what}; change --row-length(s), --document-tokens or --documents")
    documents = DocumentsConfig(text_tokens=text_tokens, sigma=0.0, images=(num_images,))
    write_documents(folder, documents, num_documents=num_rows * count, row_length=row_length, slots=slots, tokenizer=tokenizer)
    source = RowSource(DataConfig(shards=(str(folder),), num_lanes=1, pack_window=count), chosen.model, row_length, 0, tokenizer=tokenizer)
    rows = RowLoader(source, rank=0, world_size=1, batch_rows=num_rows).take(num_rows)
    batch = collate(rows, row_length=row_length, special=SpecialIds.of(tokenizer))
    assert batch.num_tokens == batch.ids.numel() and batch.num_documents == num_rows * count
    return batch


def measure_contrastive(settings: GrowthConfig, embed_width: int) -> list[dict[str, Any]]:
    """Seconds and further memory (bytes) of the contrastive loss with its gradients, as training computes it and plainly."""
    found = []
    for num_images in settings.negatives:
        for plain in (False, True) if num_images <= settings.plain_up_to else (False,):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rounds = min(2, settings.rounds) if num_images <= 16384 else 1
                one = pool.apply(contrast, [num_images, embed_width, plain, rounds])
            found.append(one)
            log.info("%d images, %s: %.4g s, %.1f MB", num_images, "plain" if plain else "in chunks", one["seconds"], one["extra_bytes"] / 1e6)
    return found


def contrast(num_images: int, embed_width: int, plain: bool, rounds: int) -> dict[str, Any]:
    """One size, in a process of its own. Memory is what the peak lies above what was in use before."""
    device = the_device()
    random = torch.Generator().manual_seed(0)
    pooled, contexts = (torch.randn(num_images, embed_width, generator=random).to(device) for _ in range(2))
    identities = torch.arange(num_images, device=device)
    twins, scale = Twins(identities, identities), torch.tensor(LOGIT_SCALE, device=device)

    def work(some: slice) -> None:
        chosen = Twins(twins.images[some], twins.contexts[some])
        if plain:
            leaves = [pooled[some].clone().requires_grad_(), contexts[some].clone().requires_grad_()]
            contrastive_loss(*leaves, scale, twins=chosen).backward()
        else:
            contrastive_gradients(pooled[some], contexts[some], scale, twins=chosen)

    work(slice(64))  # loads what the first call loads
    before = _restart_peak(device)
    seconds = [seconds_of(lambda: work(slice(None)), device) for _ in range(rounds)]
    extra = _peak_bytes(device) - before
    flops = contrastive_flops(embed_width, num_images=num_images, num_contexts=num_images)
    return {
        "images": num_images, "width": embed_width, "plain": plain, "seconds": min(seconds), "extra_bytes": extra,
        "similarities_bytes": 4 * num_images**2, "flops": flops,
    }  # fmt: skip


def _restart_peak(device: torch.device) -> int:
    """Forgets earlier peaks of memory and returns the bytes in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets VmHWM to what is resident
    return _peak_bytes(device)


def _peak_bytes(device: torch.device) -> int:
    """The most memory that was in use at one time since the last restart: what PyTorch allocated on a GPU, else what was resident.

    `ru_maxrss` would not do: a process starts with that of the one that started it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


def measure_ranks(settings: GrowthConfig, name: str, folder: Path, device: torch.device) -> dict[str, Any]:
    """Tokens per second of all ranks together, by the wall clock, in runs of lcl/pretrain.py with as many rows for each rank.

    The median step of the best run, for others on the machine only make runs worse; numbers of ranks in turn, on GPUs no more than there are.
    """
    chosen = PRESETS[name]
    tokenizer, slots = Tokenizer(chosen.model.tokenizer), chosen.model.most_slots
    tokens = chosen.row_length - 2 - slots - 2
    documents = DocumentsConfig(text_tokens=max(1, tokens // 2), sigma=0.5, images=(1,))
    write_documents(folder / "shards", documents, num_documents=400, row_length=chosen.row_length, slots=slots, tokenizer=tokenizer)
    counts = [count for count in settings.ranks if device.type == "cpu" or count <= torch.cuda.device_count()]
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(min(2, settings.rounds)):
        for count in counts:
            run = folder / f"run-{count}-{number}"
            options = ["--preset", name, "--data.shards", folder / "shards", "--output", run, "--batch-rows", count * chosen.micro_rows]
            options += ["--steps", settings.steps, "--save-every", settings.steps, "--optimizer.schedule.warmup-steps", 1]
            run_ranks(["lcl/pretrain.py", *options], world_size=count, log_path=folder / f"run-{count}-{number}.log")
            rates[count].append(median(line["train/tokens_per_second"] for line in read_metrics(run / "metrics.jsonl")[settings.steps // 3 :]))
            log.info("%d ranks: %.4g tokens/s", count, rates[count][-1])
    return {
        "model": name, "rows_per_rank": chosen.micro_rows, "backend": "nccl" if device.type == "cuda" else "gloo", "cores": os.cpu_count(),
        "rates": [{"ranks": count, "tokens_per_second": max(values), "runs": values} for count, values in rates.items()],
    }  # fmt: skip


def run_ranks(arguments: list[object], *, world_size: int, log_path: Path) -> None:
    """Runs the script in `world_size` processes under the environment that a launcher sets. Raises ValueError if one fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    with open(log_path, "wb") as log_file:
        processes = [
            subprocess.Popen(
                [sys.executable, *map(str, arguments)], cwd=ROOT, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=log_file, stderr=log_file
            )
            for rank in range(world_size)
        ]
        try:
            failed = [process.wait() for process in processes if process.wait()]
        finally:
            for process in processes:
                process.kill()
    if failed:
        raise ValueError(f"a rank ended with status {failed[0]}: {log_path.read_text()[-2000:]}")


if __name__ == "__main__":
    run_command(GrowthConfig, main, description=__doc__.splitlines()[0])
