"""Entry point: what a codec's coding takes by size of the picture: seconds, and memory above that of the loaded model, on one thread.

    python benchmarks/codec_cost.py --model codec.safetensors --photograph photo.png --output cost.json

    photograph, resized --> encode, decode, a refinement's iteration, each with a peak of memory of its own
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from downstream.codec.complexity import complexity_of
from downstream.codec.image_codec import TILE_PX, decode, encode, tile_of
from downstream.codec.model_file import load_codec
from downstream.codec.refine import REFINE_TILE_PX, RefineConfig, refine
from downstream.peak_memory import PeakMemory
from downstream.photographs import read_photograph, to_tensor
from lcl.core.config import config, run_command
from lcl.core.logs import progress_bar, set_up_logging
from lcl.measured import write_result

log = logging.getLogger(__name__)

SIZES = ("768x512", "1536x1024", "6144x4096")
ITERATIONS = (2, 12)  # of which the difference is taken


@config
class CostConfig:
    model: str
    photograph: str
    output: str
    """JSON file for the numbers."""
    sizes: tuple[str, ...] = SIZES
    """WIDTHxHEIGHT of the pictures."""
    level: Annotated[float, Field(ge=0)] = 2.0
    rounds: Annotated[int, Field(ge=1)] = 3
    """Times that a picture is encoded and decoded; the median of the seconds counts."""


def main(settings: CostConfig) -> None:
    set_up_logging()
    torch.set_num_threads(1)
    trained, level = load_codec(Path(settings.model)), settings.level
    photograph, found = Image.fromarray(read_photograph(Path(settings.photograph))), []
    tile = to_tensor(np.asarray(photograph.resize((REFINE_TILE_PX, REFINE_TILE_PX), Image.Resampling.BICUBIC)))[None]

    def fitted(iterations: int) -> None:
        refine(trained.codec, tile, RefineConfig(iterations=iterations, check_every=1000), lmbda=trained.lmbda(level), level=trained.level(level))

    few, many = (cost_of(lambda iterations=iterations: fitted(iterations), settings.rounds) for iterations in ITERATIONS)
    cost = {"seconds": (many["seconds"] - few["seconds"]) / (ITERATIONS[1] - ITERATIONS[0]), "mebibytes": many["mebibytes"]}  # without what comes before the first one and after the last
    found.append({"size": f"{REFINE_TILE_PX}x{REFINE_TILE_PX}", "action": "refine, an iteration"} | cost)
    log.info("%s %s: %.3f s, %.0f MiB above the loaded model", *found[0].values())
    with progress_bar("sizes", total=len(settings.sizes)) as bar:
        for size in settings.sizes:
            width, height = map(int, size.split("x"))
            tile_px = tile_of((width, height), TILE_PX)
            pixels = np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC))
            data = encode(trained, pixels, level=level, tile_px=tile_px).data
            costs = {
                "encode": cost_of(lambda: encode(trained, pixels, level=level, tile_px=tile_px), settings.rounds),
                "decode": cost_of(lambda: decode(trained, data, tile_px=tile_px), settings.rounds),
            }
            for action, cost in costs.items():
                found.append({"size": size, "action": action} | cost)
                log.info("%s %s: %.3f s, %.0f MiB above the loaded model", size, action, cost["seconds"], cost["mebibytes"])
            bar.advance()
    write_result(Path(settings.output), settings, {"costs": found, "kmac_per_pixel": complexity_of(trained)._asdict()})


def cost_of(act: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median seconds of the act, and the most memory that it held above what was held before. Raises ValueError where the system does not say that."""
    seconds = []
    with PeakMemory() as memory:
        for _ in range(rounds):
            started = time.perf_counter()
            act()
            seconds.append(time.perf_counter() - started)
    if memory.peak_bytes is None:
        raise ValueError("this system does not say how much memory a process held: measure on Linux")
    return {"seconds": median(seconds), "mebibytes": memory.peak_bytes / 2**20}


if __name__ == "__main__":
    run_command(CostConfig, main, description=__doc__.splitlines()[0])
