"""Entry point: what an encoder learns from interleaved pages, by objective and by what the pages are like.

    python studies/objectives.py --photos clothes.tar --output outputs/objectives --results docs/results/objectives --hours 2

    row: photographs --compose_pages--> crawl --build_shards--> shards --pretrain--> encoder --evaluations on the official test images--> RESULTS/HASH.json

Rows are computed in the order of TABLES, finished ones are passed over, and an interrupted one continues. `studies/objectives_page.py` makes tables and pictures of them.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from commands import command
from pydantic import Field
from table import TablesConfig, name_of, run_tables

from lcl.build_tower import build_tower
from lcl.core.config import config, hash_of, run_command
from lcl.core.files import read_json
from lcl.core.logs import read_metrics
from lcl.core.tokenizer import Tokenizer
from lcl.distributed import process_group
from lcl.evals.classification import evaluate_attentive, evaluate_knn, evaluate_linear, evaluate_zero_shot
from lcl.evals.context_retrieval import ContextRetrievalConfig, evaluate_context_retrieval
from lcl.evals.evaluated import CONTROLS, Control, EvaluatedModel
from lcl.evals.feature_cache import FeatureCache
from lcl.evals.image_sets import open_image_set
from lcl.flops import batch_flops
from lcl.layout import LayoutConfig
from lcl.loader import RowLoader, RowSource
from lcl.measured import write_result
from lcl.objectives import Name
from lcl.rows import SpecialIds, collate
from lcl.train_config import PRESETS, TrainConfig
from lcl.trainer import train

ROWS_LOOKED_AT = 2048  # the first rows, packed from a few documents, hold other numbers of images than most: of 64 the estimate was 10 % too high
CURVE_POINTS = 40
TOY_IMAGES, TOY_PHOTOS = 400, 100
CURVES = ("text_nats", "contrastive_nats", "image_to_context_accuracy", "effective_rank", "embedding_variance")

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = Literal["small", "medium", "large", "small-gpu", "medium-gpu", "large-gpu"]


@dataclass(frozen=True)
class Scale:
    """The vision tower, and how it is trained."""

    width: int
    layers: int
    image_px: int = 32
    patch_px: int = 8
    images_per_step: int = 56
    """Of every objective, so that the contrastive loss has as many negatives: 6 rows of pages, 2 of pairs."""
    precision: Literal["fp32", "bf16"] = "fp32"


SIZES: dict[Size, Scale] = {
    "small": Scale(width=32, layers=1),
    "medium": Scale(width=64, layers=2),
    "large": Scale(width=96, layers=3),
    "small-gpu": Scale(width=128, layers=4, image_px=64, images_per_step=448, precision="bf16"),
    "medium-gpu": Scale(width=256, layers=6, image_px=64, images_per_step=448, precision="bf16"),
    "large-gpu": Scale(width=384, layers=8, image_px=64, images_per_step=448, precision="bf16"),
}
CPU_SIZES: tuple[Size, ...] = ("small", "medium", "large")
GPU_IMAGES_SEEN = 3_000_000


@config
class PagesConfig:
    relevance: Share = 0.5
    """Probability that a sentence beside a photograph names what it shows."""
    images_per_page: tuple[Positive, Positive] = (3, 6)
    pair_share: Share = 0.0
    """Photographs that stand alone with one sentence."""
    appearances: Positive = 16
    """Pages on which each photograph stands: with few, pages are seen often and learned by heart."""
    max_photos: Annotated[int, Field(ge=0)] = 0
    """Photographs to compose pages of; 0: all of the train split."""


@config
class RunConfig:
    """One row: all that decides its numbers, but for the photographs themselves."""

    pages: PagesConfig = PagesConfig()
    corpus_share: Share = 0.0
    """Part of the documents that come from the corpus in the place of the composed pages."""
    objective: Name = "lcl"
    contrastive_weight: float | None = None
    image_latents: Annotated[int, Field(ge=0)] = 4
    size: Size = "medium"
    images_seen: Positive = 160_000
    equal: Literal["images", "compute"] = "images"
    """compute: as many operations as LCL with these images needs."""
    seed: Annotated[int, Field(ge=0)] = 0


BASE = RunConfig()
OBJECTIVE_NAMES: tuple[Name, ...] = ("lcl", "contrastive", "generation", "regression", "clip", "coca")
NEAR_TOKENS = 48  # of text that the corpus's rows read before an image, about as much as composed pages have; its pages have up to thirty times as much, and a row would take hours
PHOTO_COUNTS = (384, 767, 1534, 0)


def pages(**changed: Any) -> RunConfig:
    return replace(BASE, pages=replace(BASE.pages, **changed))


TABLES: dict[str, list[RunConfig]] = {
    "objectives": [replace(BASE, objective=name, seed=seed) for seed in range(3) for name in OBJECTIVE_NAMES],
    "relevance": [replace(pages(relevance=value), objective=name) for name in ("lcl", "generation") for value in (0.05, 0.2, 0.5, 1.0)],
    "pair_share": [replace(pages(pair_share=value)) for value in (0.0, 0.25, 0.5, 1.0)],
    "images_per_page": [pages(images_per_page=value) for value in ((1, 2), (3, 6), (8, 12))],
    "image_latents": [replace(BASE, image_latents=value) for value in (1, 4, 0)],
    "contrastive_weight": [replace(BASE, contrastive_weight=value) for value in (0.01, None, 1.0)],
    "compute": [BASE, *(replace(BASE, objective=name, equal="compute") for name in OBJECTIVE_NAMES[1:])],
    "corpus": [replace(BASE, corpus_share=value) for value in (0.0, 0.5, 1.0)],
    "scaling": [replace(pages(max_photos=count), size=size) for size in CPU_SIZES for count in PHOTO_COUNTS],
}


def for_gpu(row: RunConfig) -> RunConfig:
    """The same row with a larger tower of larger images, and more of them."""
    return replace(row, size=f"{row.size}-gpu", images_seen=GPU_IMAGES_SEEN)


@config
class StudyConfig(TablesConfig):
    photos: str
    """Folder or tar file of labelled photographs, with the splits train and test, as `lcl compose-pages` takes it."""
    corpus: tuple[str, ...] = ()
    """Crawl files of illustrated pages, for the rows that mix them in; every fifth file is held back."""
    output: str = "outputs/objectives"
    """Folder for crawls, shards, checkpoints and features; may be removed when the study is done."""
    results: str = "docs/results/objectives"
    """Folder for the rows' numbers."""
    gpu: bool = False
    """Rows for a GPU: larger towers, images of 64 px, 3 million of them. Give them --results of their own."""


def main(settings: StudyConfig) -> None:
    tables = {name: list(map(for_gpu, rows)) for name, rows in TABLES.items()} if settings.gpu else TABLES
    run_tables(tables, settings, script=Path(__file__), toy=toy, prepare=prepare, run_row=run_row)


def toy(row: RunConfig) -> RunConfig:
    return replace(row, images_seen=TOY_IMAGES, pages=replace(row.pages, max_photos=TOY_PHOTOS))


# --- Data: composed pages of the train photographs, the same of the test photographs to find images in, and the corpus

HELD_PAGES = PagesConfig(appearances=4)  # one set for all rows
HELD_EVERY = 5              # of the corpus's files
COMPOSED = (  # pages of few sentences and photographs that recur are what was asked for, not duplicates
    "--dedup.exact-text", False, "--dedup.near.on", False, "--dedup.image-set", False, "--dedup.max-image-url-documents", 0, "--dedup.max-image-hash-documents", 0,
)  # fmt: skip


def prepare(rows: list[RunConfig], settings: StudyConfig) -> None:
    """Makes the shards of all rows, and of what is held back, where they are missing."""
    if any(row.corpus_share for row in rows) and not settings.corpus:
        raise ValueError("the table corpus needs --corpus, crawl files of illustrated pages; or leave it out of --tables")
    for composed in dict.fromkeys(row.pages for row in rows):
        compose(composed, "train", settings)
    compose(HELD_PAGES, "test", settings)
    if any(row.corpus_share for row in rows):
        files = sorted(settings.corpus)
        held = files[HELD_EVERY - 1 :: HELD_EVERY]
        build([file for file in files if file not in held], data_folder(settings, "corpus"))
        build(held, data_folder(settings, "corpus-held"))


def compose(composed: PagesConfig, split: str, settings: StudyConfig) -> Path:
    """Shards of pages composed of one split's photographs."""
    folder = data_folder(settings, f"{split}-{hash_of(composed)}")
    if not (folder / "shards" / "report.json").exists():
        options = {
            "--photos": settings.photos, "--split": split, "--output": folder / "crawl", "--relevance": composed.relevance,
            "--pair-share": composed.pair_share, "--appearances": composed.appearances, "--max-photos": composed.max_photos if split == "train" else 0,
        }  # fmt: skip
        command("pipeline/samples/compose_pages.py", *(word for pair in options.items() for word in pair), "--images-per-page", *composed.images_per_page)
        build([folder / "crawl" / "pages.warc.gz"], folder, COMPOSED)
    return folder / "shards"


def build(crawls: list[Any], folder: Path, rules: Sequence[Any] = ()) -> None:
    if not (folder / "shards" / "report.json").exists():
        command("pipeline/build_shards.py", "--crawl", *crawls, "--output", folder / "shards", "--images.min-side-px", 64, "--executor", "here", *rules)


def data_folder(settings: StudyConfig, name: str) -> Path:
    folder = Path(settings.output) / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- One row

def run_row(row: RunConfig, settings: StudyConfig) -> None:
    started = time.perf_counter()
    shards = [str(compose(row.pages, "train", settings))] * (row.corpus_share < 1)
    shards += [str(data_folder(settings, "corpus") / "shards")] * (row.corpus_share > 0)
    run = Path(settings.output) / "runs" / name_of(row)
    training = train_config(row, shards, run)
    with process_group(threads=1) as ranks:
        train(training, ranks)
    metrics = finished_metrics(run, training.steps)
    measured = evaluate(run, row, settings)
    built = read_json(compose(row.pages, "train", settings) / "report.json")
    measured |= {"num_photos": built["records"]["image"], "tower_parameters": sum(one.numel() for one in build_tower(training.model.vision).parameters())}
    measured |= {"steps": training.steps, "batch_rows": training.batch_rows, "images_seen": metrics[-1]["train/images_seen"], "curves": curves(metrics)}
    write_result(Path(settings.results) / f"{name_of(row)}.json", row, measured | {"seconds": time.perf_counter() - started})
    shutil.rmtree(run)


def finished_metrics(run: Path, steps: int) -> list[dict[str, Any]]:
    """The lines of a run's metrics. Raises ValueError for one that a signal ended before its last step, which a training takes for an order and no mistake."""
    metrics = read_metrics(run / "metrics.jsonl")
    if metrics[-1]["step"] < steps:
        raise ValueError(f"{run} was stopped at step {metrics[-1]['step']} of {steps}; the same command continues")
    return metrics


def train_config(row: RunConfig, shards: list[str], run: Path) -> TrainConfig:
    """The training of a row: steps of the size's images, as many as make its images, or its operations."""
    base, size = PRESETS["photo_pages"], SIZES[row.size]
    shared = replace(
        base, output=str(run), seed=row.seed, log_every=20, loss=replace(base.loss, objective=row.objective, contrastive_weight=row.contrastive_weight),
        model=replace(base.model, image_latents=row.image_latents, vision=replace(base.model.vision, width=size.width, layers=size.layers, image_px=size.image_px, patch_px=size.patch_px)),
        engine=replace(base.engine, precision=size.precision),
        data=replace(base.data, shards=tuple(shards), weights=(1 - row.corpus_share, row.corpus_share) if len(shards) > 1 else (), layout=replace(base.data.layout, near_tokens=near_tokens(row))),
    )  # fmt: skip
    images_per_row, flops_per_row = per_row(shared)
    batch_rows = max(1, round(size.images_per_step / images_per_row))
    steps = row.images_seen / (batch_rows * images_per_row)
    if row.equal == "compute":
        lcl_images, lcl_flops = per_row(replace(shared, loss=replace(shared.loss, objective="lcl")))
        steps = row.images_seen / lcl_images * lcl_flops / (batch_rows * flops_per_row)
    return replace(shared, batch_rows=batch_rows, micro_rows=batch_rows, steps=round(steps), save_every=max(1, round(steps / 4)), keep_checkpoints=1)


def near_tokens(row: RunConfig) -> int:
    return NEAR_TOKENS if row.corpus_share else 0


def per_row(config: TrainConfig) -> tuple[float, float]:
    """Images and floating-point operations of a training step, for one row, as the mean of the first rows."""
    source = RowSource(config.data, config.model, config.row_length, config.seed, tokenizer=(tokenizer := Tokenizer(config.model.tokenizer)), layout=config.loss.layout)
    rows = RowLoader(source, rank=0, world_size=1, batch_rows=ROWS_LOOKED_AT).take(ROWS_LOOKED_AT)
    batch = collate(rows, row_length=config.row_length, special=SpecialIds.of(tokenizer))
    flops = batch_flops(config.model, tokenizer.vocab_size, batch, regression=config.loss.regresses)
    return sum(len(row.images) for row in rows) / len(rows), flops / len(rows)


def evaluate(run: Path, row: RunConfig, settings: StudyConfig) -> dict[str, Any]:
    """Every protocol on the official test images, and contexts on held-back pages: values by model and metric, with intervals."""
    model, images = EvaluatedModel.open(run), open_image_set(Path(settings.photos), spec=compose(HELD_PAGES, "test", settings).parent / "crawl" / "classes.json")
    cache = FeatureCache(Path(settings.output) / "cache" / name_of(row))
    controls = controls_of(row)
    results = [protocol(model, images, cache, seed=row.seed, controls=controls) for protocol in (evaluate_linear, evaluate_attentive, evaluate_knn, evaluate_zero_shot)]
    held = [compose(HELD_PAGES, "test", settings)] + [data_folder(settings, "corpus-held") / "shards"] * (row.corpus_share > 0)
    reading = ContextRetrievalConfig(layout=LayoutConfig(near_tokens=near_tokens(row)))
    results += [evaluate_context_retrieval(model, [shards], seed=row.seed, controls=controls, settings=reading) for shards in held]
    shutil.rmtree(cache.folder)
    return {"evaluations": [{"task": result.task, "rows": [one.record() for one in result.rows]} for result in results]}


def controls_of(row: RunConfig) -> Sequence[Control]:
    """All for the first row, random weights for its other seeds and the corpus, none for the rest: what they say does not depend on the objective or the pages."""
    bases = (BASE, for_gpu(BASE))
    return CONTROLS if row in bases else ("random",) if row.corpus_share or replace(row, seed=BASE.seed) in bases else ()


def curves(metrics: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """CURVE_POINTS points of each curve over the training, each the mean of the steps since the last that have it."""
    parts = np.array_split(np.arange(len(metrics)), min(CURVE_POINTS, len(metrics)))
    found: dict[str, list[float | None]] = {"images_seen": [metrics[part[-1]]["train/images_seen"] for part in parts]}
    for name in CURVES:
        values = [[metrics[step][f"train/{name}"] for step in part if f"train/{name}" in metrics[step]] for part in parts]
        found[name] = [float(np.mean(one)) if one else None for one in values] if any(values) else []
    return found


if __name__ == "__main__":
    run_command(StudyConfig, main, description=__doc__.splitlines()[0])
