"""Entry point: new images from a density model, as a grid.

    python downstream/density_sample.py --model density.safetensors --output samples.png
    python downstream/density_sample.py --model density.safetensors --output samples.png --method ode --tolerance 1e-3
"""

import logging
from pathlib import Path
from typing import Annotated, Literal

import torch
from PIL import Image
from pydantic import Field

from downstream.density.model_file import load_density
from downstream.density.sampling import along_ode, ancestral, as_grid
from downstream.origin_marks import Mark, save_marked
from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.core.shipped import DENSITY, or_shipped

log = logging.getLogger(__name__)

Positive = Annotated[int, Field(ge=1)]


@config
class SampleConfig:
    output: str
    """The file of the picture (.png)."""
    model: str = ""
    """The density model, as train_density.py wrote it; empty: the one that comes with lcl, of photographs."""
    num: Positive = 64
    columns: Positive = 8
    method: Literal["ancestral", "ode"] = "ancestral"
    steps: Positive = 256
    """Of ancestral sampling (published: 1000)."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-3
    """Of the ODE's solver."""
    size_px: Annotated[int, Field(ge=0)] = 0
    """Side of the images; 0: as in training."""
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Positive = 1


def main(settings: SampleConfig) -> None:
    set_up_logging()
    torch.set_num_threads(settings.threads)
    if Path(settings.output).suffix != ".png":
        raise ValueError(f"--output {settings.output}: give a name that ends in .png")
    trained = load_density(or_shipped(settings.model, DENSITY))
    generator, side = torch.Generator().manual_seed(settings.seed), settings.size_px or trained.settings.size_px
    if settings.method == "ancestral":
        u, calls = ancestral(trained, settings.num, generator, num_steps=settings.steps, height=side, width=side), settings.steps
    else:
        u, calls = along_ode(trained, settings.num, generator, tolerance=settings.tolerance, height=side, width=side)
    pixels = as_grid(u, levels=trained.settings.levels, columns=settings.columns).numpy()
    mark = Mark("trainedAlgorithmicMedia", trained.sha256, settings=f"{settings.num} samples, {settings.method}, {calls} evaluations, seed {settings.seed}")
    save_marked(Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]), Path(settings.output), mark)
    log.info("%s: %d images of %d px, the network was asked %d times", settings.output, settings.num, side, calls)


if __name__ == "__main__":
    run_command(SampleConfig, main, description=__doc__.splitlines()[0])
