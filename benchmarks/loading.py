"""Entry point: what the row loader costs on top of decoding its images, on one core.

    python benchmarks/loading.py --shards demo/shards --output loading.json

    plan (not timed): the rows of every round, and where the bytes of their images lie in the tars
    rounds:           bare loop (read the bytes, decode, resize)  /  RowLoader.take of the same images, in turn, either one first
    one more round under a profile: where the loader's time goes
"""

import cProfile
import io
import json
import logging
import os
import pstats
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from lcl.core.config import config, run_command, to_dict, versions
from lcl.core.files import write_json
from lcl.core.logs import set_up_logging
from lcl.core.tokenizer import Tokenizer
from lcl.crops import Crop
from lcl.layout import Layout, image_id
from lcl.loader import DataConfig, RowLoader, RowSource
from lcl.model import ModelConfig
from lcl.rows import Row

log = logging.getLogger(__name__)

Positive = Annotated[int, Field(ge=1)]

# Functions whose time (with all that they call) is a share of the loader's, by file and name; none of them calls another.
SHARES = {
    "reading bytes of tars": (("shards.py", "_read_bytes"),),
    "parsing members and JSON": (("shards.py", "read_members"), ("document.py", "from_members")),
    "tokenizing": (("tokenizer.py", "encode"),),
    "decoding": (("images.py", "decode_image"),),
    "cutting and resizing": (("vision.py", "input_of"),),
    "planning crops": (("vision.py", "training_crop"),),
}


@config
class LoadingConfig:
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of shards."""
    output: str = ""
    """JSON file for the numbers; none by default."""
    layout: Layout = "document"
    """How documents are laid out; pairs and pairs_read are those of the objectives clip and coca."""
    model: ModelConfig = ModelConfig()
    """Its vision part says what images become (a square of 224 px in patches of 16 by default), its tokenizer what text does."""
    row_length: Positive = 2048
    """Tokens in a packed row."""
    num_lanes: Positive = 4
    """Lanes; a training run has more, with as many waiting pieces each."""
    rounds: Positive = 8
    """Timed rounds of each of the two loops."""
    images: Positive = 200
    """Images of a round, at least."""
    seed: int = 0


@dataclass(frozen=True)
class StoredImage:
    """Where the bytes of an image lie, and the crop that a row shows of it."""

    path: Path
    offset: int
    length: int
    crop: Crop


def main(settings: LoadingConfig) -> None:
    set_up_logging()
    torch.set_num_threads(1)
    measured = measure(settings)
    for name, value in measured.items():
        log.info("%s: %s", name, json.dumps(value) if isinstance(value, dict) else round(value, 3))
    if settings.output:
        write_json(Path(settings.output), {"config": to_dict(settings), "measured": measured, "versions": versions()})


def measure(settings: LoadingConfig) -> dict[str, Any]:
    """Numbers per second of one core, by the wall clock and as medians over the rounds, and shares of the loader's time.

    `ratio` is the loader's images per second over the bare loop's; `cpu_ratio` is the same by processor time, which other
    work on the machine disturbs less. Raises ValueError if the rows of the shards hold no image.
    """
    data = DataConfig(shards=settings.shards, num_lanes=settings.num_lanes)
    source = RowSource(data, settings.model, settings.row_length, settings.seed, tokenizer=Tokenizer(settings.model.tokenizer), layout=settings.layout)
    warm = [source.next_row(lane) for lane in map(source.open_lane, range(settings.num_lanes), [None] * settings.num_lanes)]
    if not any(row.images for row in warm):
        raise ValueError(f"the first rows of {', '.join(settings.shards)} hold no image to time; give --shards with images")
    rounds = plan(settings, source)
    loader = _start(settings, source)
    ratios, cpu_ratios, rows, images, bare_images, text_tokens = [], [], [], [], [], []
    for number, (taken, stored) in enumerate(rounds[:-1]):
        work: list[Callable[[], Any]] = [lambda: decode_plainly(stored, settings.model), lambda: loader.take(len(taken))]
        times: dict[int, tuple[float, float]] = {}
        for which in (0, 1) if number % 2 else (1, 0):
            times[which] = _timed(work[which])
        (bare, bare_cpu), (loading, loading_cpu) = times[0], times[1]
        ratios.append(bare / loading)
        cpu_ratios.append(bare_cpu / loading_cpu)
        bare_images.append(len(stored) / bare)
        images.append(len(stored) / loading)
        rows.append(len(taken) / loading)
        text_tokens.append(_num_text_tokens(taken) / loading)
    profile = cProfile.Profile()
    profile.runcall(loader.take, len(rounds[-1][0]))
    return {
        "ratio": median(ratios), "ratio_lowest": min(ratios), "ratio_highest": max(ratios), "cpu_ratio": median(cpu_ratios),
        "bare_images_per_second": median(bare_images), "images_per_second": median(images), "rows_per_second": median(rows),
        "text_tokens_per_second": median(text_tokens), "images_per_round": len(rounds[0][1]), "shares": shares(profile),
    }  # fmt: skip


def plan(settings: LoadingConfig, source: RowSource) -> list[tuple[list[Row], list[StoredImage]]]:
    """The rows of each round and of the profiled one, and their images in the order in which the rows hold them."""
    found = _find_images(source)
    loader = _start(settings, source)
    rounds = []
    for _ in range(settings.rounds + 1):
        rows: list[Row] = []
        stored: list[StoredImage] = []
        while len(stored) < settings.images:
            taken = loader.take(settings.num_lanes)
            places = [place for row in taken for piece in row.pieces for place in piece.images]
            stored += [StoredImage(*found[place.image_id], place.crop) for place in places]
            rows += taken
        rounds.append((rows, stored))
    return rounds


def _start(settings: LoadingConfig, source: RowSource) -> RowLoader:
    """A loader past its first rows, which fill the windows of the lanes."""
    loader = RowLoader(source, rank=0, world_size=1, batch_rows=settings.num_lanes)
    loader.take(settings.num_lanes)
    return loader


def _find_images(source: RowSource) -> dict[int, tuple[Path, int, int]]:
    """Tar, offset and length (bytes) of stored images by their `image_id`."""
    found = {}
    for path in (path for shards in source.sets for path in shards.tars):
        with tarfile.open(path) as tar:
            for header in tar:
                if not header.name.endswith(".json"):
                    found[image_id(tar.extractfile(header).read())] = (path, header.offset_data, header.size)
    return found


def decode_plainly(images: Sequence[StoredImage], model: ModelConfig) -> None:
    """The least that has to be done: read the bytes of each image, decode them at the scale that is enough, and resize the crop."""
    patch_px = model.vision.tower().patch_px
    for stored in images:
        descriptor = os.open(stored.path, os.O_RDONLY)
        data = os.pread(descriptor, stored.length, stored.offset)
        os.close(descriptor)
        image = Image.open(io.BytesIO(data))
        draft_px = model.vision.draft_px(stored.crop)
        image.draft("RGB", (draft_px, draft_px))
        (left, top, right, bottom), (rows, columns) = stored.crop.box, stored.crop.grid
        image = image if image.mode == "RGB" else image.convert("RGB")
        box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
        np.asarray(image.resize((columns * patch_px, rows * patch_px), Image.Resampling.BICUBIC, box=box))


def shares(profile: cProfile.Profile) -> dict[str, float]:
    """Parts of the profiled time spent in `SHARES`; what is left is packing and the loader itself."""
    statistics = pstats.Stats(profile)
    total = statistics.total_tt
    spent = {
        name: sum(values[3] for (file, _, function), values in statistics.stats.items() if (Path(file).name, function) in functions) / total
        for name, functions in SHARES.items()
    }
    return {name: round(value, 4) for name, value in (spent | {"packing and the rest": 1 - sum(spent.values())}).items()}


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the wall clock and of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _num_text_tokens(rows: Sequence[Row]) -> int:
    slots = sum(place.num_slots for row in rows for piece in row.pieces for place in piece.images)
    return sum(len(piece) for row in rows for piece in row.pieces) - slots


if __name__ == "__main__":
    run_command(LoadingConfig, main, description=__doc__.splitlines()[0])
