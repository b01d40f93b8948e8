"""Entry point: what a codec's coding takes by size of the picture: seconds, and memory above that of a loaded model, on one thread.

    python benchmarks/codec_cost.py --model codec.safetensors --photograph photo.png --output cost.json

    photograph, resized --> a process for each size and action, so that its peak of memory is its own --> encode, decode, a refinement's iteration
"""

import json
import logging
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from downstream.codec.complexity import complexity_of
from downstream.codec.image_codec import decode, encode
from downstream.codec.model_file import load_codec
from downstream.codec.refine import RefineConfig, refine_in_tiles
from downstream.photographs import read_photograph, to_tensor
from downstream.tiles import padded
from lcl.core.config import config, run_command
from lcl.core.logs import progress_bar, set_up_logging
from lcl.measured import write_result

log = logging.getLogger(__name__)

Action = Literal["encode", "decode", "refine"]
ACTIONS: tuple[Action, ...] = ("encode", "decode", "refine")
SIZES = ("768x512", "1536x1024", "6144x4096")
TILE_PX, REFINE_TILE_PX = 1024, 512  # as the commands have them
ITERATIONS = 4


@config
class CostConfig:
    model: str
    photograph: str
    output: str = ""
    """JSON file for the numbers."""
    sizes: tuple[str, ...] = SIZES
    """WIDTHxHEIGHT of the pictures."""
    level: Annotated[float, Field(ge=0)] = 2.0
    rounds: Annotated[int, Field(ge=1)] = 3
    """Times that each action is done; the median of the seconds counts."""
    row: str = ""
    """ACTION WIDTHxHEIGHT FILE, measured in this process; the command starts itself with it."""


def main(settings: CostConfig) -> None:
    set_up_logging()
    torch.set_num_threads(1)
    if settings.row:
        print(json.dumps(measure(settings, *settings.row.split())))
        return
    if not settings.output:
        raise ValueError("--output: give a JSON file for the numbers")
    found = []
    with TemporaryDirectory() as scratch, progress_bar("sizes and actions", total=len(settings.sizes) * len(ACTIONS)) as bar:
        common = [sys.executable, __file__, "--model", settings.model, "--photograph", settings.photograph, "--level", str(settings.level), "--rounds", str(settings.rounds)]
        for size in settings.sizes:
            for action in ACTIONS:
                done = subprocess.run([*common, "--row", f"{action} {size} {scratch}/{size}.lclc"], capture_output=True, text=True)
                if done.returncode:
                    raise ValueError(f"{action} at {size} failed: {done.stderr.strip().splitlines()[-1:]}")
                found.append({"size": size, "action": action} | json.loads(done.stdout.strip().splitlines()[-1]))
                log.info("%(size)s %(action)s: %(seconds).3f s, %(mebibytes).0f MiB above the loaded model", found[-1])
                bar.advance()
    write_result(Path(settings.output), settings, {"costs": found, "kmac_per_pixel": complexity_of(load_codec(Path(settings.model)))._asdict()})


def measure(settings: CostConfig, action: Action, size: str, file: str) -> dict[str, float]:
    """Median seconds (of an iteration, for refine), and how far the process's peak of memory rose. Encoding leaves FILE behind, which decoding reads."""
    width, height = map(int, size.split("x"))
    trained, level = load_codec(Path(settings.model)), settings.level
    tile_px = TILE_PX if max(width, height) > TILE_PX else 0
    fitting = RefineConfig(iterations=ITERATIONS, check_every=1000)
    if action == "decode":
        data = Path(file).read_bytes()
    else:
        pixels = np.asarray(Image.fromarray(read_photograph(Path(settings.photograph))).resize((width, height), Image.Resampling.BICUBIC))
        x = padded(to_tensor(pixels)[None], trained.codec.stride_px)

    def act() -> None:
        if action == "decode":
            decode(trained, data, tile_px=tile_px)
        elif action == "encode":
            Path(file).write_bytes(encode(trained, pixels, level=level, tile_px=tile_px).data)
        else:
            refine_in_tiles(trained.codec, x, fitting, side_px=REFINE_TILE_PX, lmbda=trained.lmbda(level), level=trained.level(level))

    before, seconds = peak_mebibytes(), []
    for _ in range(1 if action == "refine" else settings.rounds):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return {"seconds": median(seconds) / (ITERATIONS if action == "refine" else 1), "mebibytes": peak_mebibytes() - before}


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux


if __name__ == "__main__":
    run_command(CostConfig, main, description=__doc__.splitlines()[0])
