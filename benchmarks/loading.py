"""Entry point: what the row loader costs on top of decoding its images, on one core.

    python benchmarks/loading.py --shards demo/shards --output loading.json

    before the clock: the rows of all rounds, and where the bytes of their images lie in the tars
    a round:          bare loop (read the bytes, decode, cut and resize) and RowLoader.take of the same images, either one first in turn
    the last round:   under a profile, for where the loader's time goes
"""

import cProfile
import io
import logging
import os
import pstats
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.core.tokenizer import Tokenizer
from lcl.crops import Crop
from lcl.layout import Layout, image_id
from lcl.loader import DataConfig, RowLoader, RowSource
from lcl.measured import write_result
from lcl.model import ModelConfig
from lcl.rows import Row

log = logging.getLogger(__name__)

Positive = Annotated[int, Field(ge=1)]

TARGET_RATIO = 0.85
# Functions whose time, with all that they call, is a share of the loader's: file and name. None of them calls another.
SHARES = {
    "reading bytes of tars": (("shards.py", "read_bytes"),),
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
    output: str
    """JSON file for the numbers."""
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
class Seconds:
    wall: float
    cpu: float


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
    fast, bare = measured["images_per_second"], measured["bare_images_per_second"]
    log.info("%.0f images/s, the bare loop %.0f: ratio %.3f (target %.2f)", fast, bare, measured["ratio"], TARGET_RATIO)
    for name, share in measured["shares"].items():
        log.info("%5.1f %% %s", 100 * share, name)
    write_result(Path(settings.output), settings, measured)


def measure(settings: LoadingConfig) -> dict[str, Any]:
    """Numbers per second of one core as medians over the rounds, each round's own, and shares of the loader's time.

    `ratio` is the loader's images per second over the bare loop's by the wall clock; `cpu_ratio` is the same by processor
    time, which other work on the machine disturbs less. Raises ValueError if the first rows hold no image.
    """
    data = DataConfig(shards=settings.shards, num_lanes=settings.num_lanes)
    source = RowSource(data, settings.model, settings.row_length, settings.seed, tokenizer=Tokenizer(settings.model.tokenizer), layout=settings.layout)
    warm = [source.next_row(lane) for lane in map(source.open_lane, range(settings.num_lanes), [None] * settings.num_lanes)]
    if not any(row.images for row in warm):
        raise ValueError(f"the first rows of {', '.join(settings.shards)} hold no image to time; give --shards with images")
    *rounds, last = plan(settings, source)
    loader = _start(settings, source)
    measured: dict[str, list[float]] = defaultdict(list)
    for number, (rows, stored) in enumerate(rounds):
        work: dict[str, Callable[[], Any]] = {"bare": lambda: decode_plainly(stored, settings.model), "loader": lambda: loader.take(len(rows))}
        times = {name: _timed(work[name]) for name in (work if number % 2 else reversed(work))}
        bare, loading = times["bare"], times["loader"]
        measured["ratio"].append(bare.wall / loading.wall)
        measured["cpu_ratio"].append(bare.cpu / loading.cpu)
        measured["bare_images_per_second"].append(len(stored) / bare.wall)
        measured["images_per_second"].append(len(stored) / loading.wall)
        measured["rows_per_second"].append(len(rows) / loading.wall)
        measured["text_tokens_per_second"].append(_num_text_tokens(rows) / loading.wall)
        measured["images"].append(len(stored))
    profile = cProfile.Profile()
    profile.runcall(loader.take, len(last[0]))
    return {name: median(values) for name, values in measured.items()} | {"rounds": dict(measured), "target": TARGET_RATIO, "shares": shares(profile)}


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
        image.draft("RGB", draft_px)
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


def _timed(work: Callable[[], Any]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def _num_text_tokens(rows: Sequence[Row]) -> int:
    slots = sum(place.num_slots for row in rows for piece in row.pieces for place in piece.images)
    return sum(len(piece) for row in rows for piece in row.pieces) - slots


if __name__ == "__main__":
    run_command(LoadingConfig, main, description=__doc__.splitlines()[0])
