"""Entry point: restores a picture, or a folder of them, without ground truth.

    python downstream/restore_images.py photo.jpg restored.png                                                      (by the models that come with lcl)
    python downstream/restore_images.py photo.jpg restored.png --task rain
    python downstream/restore_images.py photos restored --model restorer.safetensors --steps 2 --uncertainty 8
    python downstream/restore_images.py photos restored --model rain.safetensors noise.safetensors --detector detector.safetensors --encoder outputs/lcl

    file --pixels, alpha, EXIF, profile--> restored, in tiles --with a mark of origin--> file; a failure is a line, and the rest is done
"""

import hashlib
import io
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Float
from PIL import Image
from pydantic import Field

from downstream.folders import Made, convert, names_folder, pairs_of
from downstream.origin_marks import Mark, is_marked, kind_after, saving_options
from downstream.restore.choosing import Choice
from downstream.restore.detector import load_detector
from downstream.restore.model_file import Device, Restorer, load_restorer
from downstream.restore.pictures import FORMATS, Pixels, as_stored, read_picture, upright, write_picture
from downstream.restore.restoring import STEPS, disagreement, restore
from downstream.restore.sampling import Method, check_times, shares_of_start
from lcl.core.config import config, run_command
from lcl.core.images import ENDINGS
from lcl.core.logs import set_up_logging
from lcl.core.shipped import DETECTOR, or_shipped, shipped_restorers
from lcl.features import load_encoder

LEAST_TILE_PX = 32
MOST_STEPS = 4  # of a consistency model
UNCERTAINTY_SCALE = 10  # a grey level of the map is a tenth of a level of deviation
UNCERTAINTY_ENDING = ".uncertainty.png"


@config
class RestoreConfig:
    input: tyro.conf.Positional[str]
    """A picture, or a folder of them."""
    output: tyro.conf.Positional[str] = ""
    """File or folder for the restored pictures."""
    out: Annotated[str, tyro.conf.arg(aliases=("-o",))] = ""
    """The same as an option, in its place."""
    model: tuple[str, ...] = ()
    """The restorer, as train_restorer.py wrote it, or its run folder; or several, of which each picture gets the first that was trained for its task; none: those that come with lcl."""
    encoder: str = ""
    """The encoder (checkpoint, run or export) of the detector, and of models that were trained with one."""
    no_encoder: bool = False
    """Restore without what it sees: a model learned that too, on a share of its training pictures."""
    task: str = "auto"
    """What is to be undone; auto: whatever the only model was trained for, and of several what the detector finds in each picture."""
    detector: str = ""
    """A trained detector, as train_detector.py wrote it, which finds each picture's task; empty: the one that comes with lcl, where there are several models and no --task."""
    steps: Annotated[int, Field(ge=0)] = 0
    """1 to 4 of a consistency model, about 100 of IR-SDE; 0: 1, or 100."""
    times: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """When a consistency model's second and later steps are, as parts of the first time; none: as it was trained (1/2, 1/4 ... unless its training said otherwise)."""
    method: Method = "posterior"
    """Of IR-SDE's steps."""
    noise_255: Annotated[float, Field(ge=0)] = 0.0
    """Deviation of the noise in levels of 8 bits, for a denoising model; 0: estimated from the picture."""
    seed: Annotated[int, Field(ge=0)] = 0
    ending: Literal[".png", ".jpg", ".webp"] = ".png"
    """Of the files in a folder of results; .webp is lossless, .jpg of quality 95."""
    uncertainty: Annotated[int, Field(ge=0)] = 0
    """At least 2: restore so many times, with seeds from --seed on, and write NAME.uncertainty.png: where they differ."""
    no_mark: bool = False
    """Leave out the mark of origin."""
    tile_px: Annotated[int, Field(ge=0)] = 512
    """Side of the tiles in which large pictures are computed, to bound memory, at least 32; 0: at once."""
    device: Device = "cpu"
    threads: Annotated[int, Field(ge=1)] = 1


def main(settings: RestoreConfig) -> None:
    set_up_logging()
    torch.set_num_threads(settings.threads)
    check(settings)
    encoder = load_encoder(settings.encoder) if settings.encoder else None
    guiding = None if settings.no_encoder else encoder
    paths = settings.model or shipped_restorers().values()
    models = [load_restorer(Path(path), device=settings.device, encoder=guiding, needs_encoder=not settings.no_encoder) for path in paths]
    for trained in models:
        check_model(settings, trained)
    check_used(settings, models)
    detector = None
    if settings.detector or (settings.task == "auto" and len(models) > 1):
        detector = load_detector(or_shipped(settings.detector, DETECTOR), encoder)
    if encoder is not None and (detector is None or detector.encoder is None) and all(trained.encoder is None for trained in models):
        raise ValueError("--encoder is given, and neither a model nor a detector looks through one: leave it out, or give --detector")
    choose = Choice(models, task=settings.task, detector=detector)
    pairs = pairs_of(Path(settings.input), settings.output or settings.out, endings=ENDINGS, ending=settings.ending, beside=(UNCERTAINTY_ENDING,))
    convert(pairs, partial(restore_file, choose=choose, settings=settings, endings={source: target.suffix.lower() for source, target in pairs}), title="restoring", may_replace=is_marked)


def check(settings: RestoreConfig) -> None:
    """Raises ValueError for settings that do not fit together."""
    if bool(settings.output) == bool(settings.out):
        raise ValueError("say once where the result goes, behind the input or with -o: a file, or a folder")
    if not settings.input:
        raise ValueError("the input is empty: say a picture, or a folder of them ('.' is this one)")
    if 0 < settings.tile_px < LEAST_TILE_PX:
        raise ValueError(f"--tile-px {settings.tile_px}: tiles are computed with a margin around them, so small ones take minutes; give {LEAST_TILE_PX} or more, or 0")
    check_times(settings.times, option="--times")
    if settings.uncertainty == 1:
        raise ValueError("--uncertainty 1: one sample has nothing to differ from; give 2 or more")
    if settings.detector and settings.task != "auto":
        raise ValueError(f"--task {settings.task} says what --detector is to find: give one of them")
    if settings.encoder and settings.no_encoder and not settings.detector:
        raise ValueError("--encoder and --no-encoder say opposite things; give one of them")


def check_model(settings: RestoreConfig, trained: Restorer) -> None:
    """Raises ValueError for settings that do not fit a model."""
    if settings.uncertainty and (trained.kind == "regression" or (settings.steps or STEPS[trained.kind]) == 1):
        raise ValueError("--uncertainty: in one step a model draws nothing, or noise that it was trained to overlook, so samples agree where they should not; give --steps 2 or more, of a model that takes them")
    if settings.times and (trained.kind != "ir_cm" or len(settings.times) >= max(1, settings.steps)):
        steps = settings.steps or STEPS[trained.kind]
        raise ValueError(f"--times are of a consistency model's second and later steps, and --steps {steps} of this {trained.kind} has fewer: give more --steps, or fewer --times")
    if trained.kind == "ir_cm" and settings.steps > MOST_STEPS:
        raise ValueError(f"--steps {settings.steps}: a consistency model takes 1 to {MOST_STEPS}, and later ones gain nothing")
    if trained.kind == "regression" and settings.steps > 1:
        raise ValueError(f"--steps {settings.steps}: this model was trained by regression and takes one")


def check_used(settings: RestoreConfig, models: Sequence[Restorer]) -> None:
    """Raises ValueError for options that no model takes notice of, and of which a person would believe that they did something."""
    if settings.noise_255 and not any(trained.process.settings.kind == "denoising" for trained in models):
        raise ValueError("--noise-255 is for models of a denoising process, and there is none here: leave it out")
    if settings.method != RestoreConfig.method and not any(trained.kind == "ir_sde" for trained in models):
        raise ValueError(f"--method {settings.method} is for models that were trained as ir_sde, and there is none here: leave it out")
    if settings.no_encoder and not settings.encoder and all(trained.encoder is None for trained in models):
        raise ValueError("--no-encoder is for models that were trained with an encoder, and there is none here: leave it out")
    if settings.ending != RestoreConfig.ending and Path(settings.input).is_file() and not names_folder(settings.output or settings.out):
        raise ValueError(f"--ending {settings.ending} is for folders of results; a single one has the ending of its own name")


def restore_file(path: Path, *, choose: Choice, settings: RestoreConfig, endings: dict[Path, str]) -> Made:
    """The restored file, and what to say of it."""
    ending = endings[path]
    if ending not in FORMATS:
        raise ValueError(f"{ending or 'no ending'} is no ending of pictures that can be written: name a file that ends in {', '.join(FORMATS)}, or a folder that is there, or with a slash behind it")
    data = path.read_bytes()
    picture = read_picture(data)
    started = time.perf_counter()
    seen = upright(picture.pixels, picture.orientation)  # as models were trained: rain falls downwards
    chosen = choose(seen.expand(3, -1, -1))
    trained, task = chosen.model, chosen.task
    samples = (apply(seen, trained, settings, seed=settings.seed + number) for number in range(max(1, settings.uncertainty)))
    restored = next(samples)
    differing = disagreement(chain([restored], samples)) if settings.uncertainty else None
    seconds = time.perf_counter() - started
    steps = settings.steps or STEPS[trained.kind]
    mark = None
    if not settings.no_mark:
        times = "".join(f", {share:g}" for share in shares_of_start(settings.times or trained.settings.times, steps)[1:]) if trained.kind == "ir_cm" else ""
        told = f"restored: {task}; {trained.kind}, {steps} steps{' at 1' * bool(times)}{times}, seed {settings.seed}" + (", with its encoder" if trained.guided else "")
        mark = Mark(kind_after("algorithmicallyEnhanced", picture.xmp), trained.sha256, hashlib.sha256(data).hexdigest(), told)
    made = write_picture(replace(picture, pixels=as_stored(restored, picture.orientation), xmp=b""), ending, mark=mark)
    beside = {} if differing is None else {UNCERTAINTY_ENDING: draw_uncertainty(differing, mark)}
    channels, height, width = picture.pixels.shape
    kind = ("grey" if channels == 1 else "colour") + ("" if picture.alpha is None else " with alpha")
    said = task if chosen.probability is None else f"{task} ({chosen.probability:.2f})"
    note = f"{said}, {width} x {height} {kind}, {picture.bits} bits, {steps} step{'s' * (steps > 1)}, {seconds:.2f} s"
    return Made(made, note + ("" if mark else ", without a mark of origin"), beside)


def apply(pixels: Pixels, trained: Restorer, settings: RestoreConfig, *, seed: int) -> Pixels:
    channels, height, width = pixels.shape
    tile_px = settings.tile_px if max(height, width) > settings.tile_px else 0
    restored = restore(
        trained, pixels.expand(3, -1, -1), num_steps=settings.steps, times=settings.times, seed=seed, tile_px=tile_px, method=settings.method, noise_255=settings.noise_255
    )  # fmt: skip
    return restored if channels == 3 else restored.mean(dim=0, keepdim=True)


def draw_uncertainty(differing: Float[torch.Tensor, "height width"], mark: Mark | None) -> bytes:
    """A grey PNG: 10 times the deviation of samples in levels of 8 bits, white from 25.5 levels on."""
    levels = (differing * 255 * UNCERTAINTY_SCALE).round().clamp(0, 255).numpy().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG", **({} if mark is None else saving_options("PNG", mark)))
    return buffer.getvalue()


if __name__ == "__main__":
    run_command(RestoreConfig, main, description=__doc__.splitlines()[0])
