"""Entry point: likelihoods of unseen images under a density model, and its coded bits beside plain coders, in one run.

    python downstream/eval_density.py --model density.safetensors --source digits --output outputs/density_eval
    python downstream/eval_density.py --model density.safetensors --source photos --output outputs/density_eval --num-images 64 --coding-steps 16 32 64

    images --> bound in continuous time, ODE, ELBO_T and bits of the codec for each T, PNG, WebP, lzma --> OUTPUT/density.json
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from rich.table import Table

from downstream.density.archive import CodingConfig, tile_coder
from downstream.density.likelihood import Bound, OdeConfig, Summary, discrete_vlb, ode_nats, summary, vlb
from downstream.density.model_file import TrainedDensity, load_density
from downstream.density.plain import to_lzma, to_png, to_webp
from downstream.density.training_images import levels_of, read_digits
from downstream.photographs import list_photographs, read_photograph
from lcl.core.config import config, run_command
from lcl.core.logs import progress_bar, set_up_logging
from lcl.evals.results import console
from lcl.features import load_encoder
from lcl.measured import write_result

log = logging.getLogger(__name__)

Positive = Annotated[int, Field(ge=1)]
DIGITS = "digits"
AT_ONCE = 64


@config
class EvalDensityConfig:
    model: str
    """The density model, as train_density.py wrote it."""
    source: str
    """Folder of photographs that it was not trained on, from which squares are cut at even distances; or `digits`: the last 297 of scikit-learn."""
    output: str
    """Folder for the report."""
    encoder: str = ""
    """The frozen encoder, for a model whose context comes from it."""
    num_images: Annotated[int, Field(ge=2)] = 297
    """Images, or squares of photographs."""
    times: Positive = 128
    """Of each image, in the bound in continuous time."""
    ode: OdeConfig = OdeConfig()
    ode_images: Annotated[int, Field(ge=0)] = 64
    """The first so many; 0: no ODE, which asks the network most often."""
    coding_steps: tuple[Positive, ...] = (8, 16, 32, 64)
    """T of the codec, each a row of the table."""
    coded_images: Annotated[int, Field(ge=0)] = 297
    """The first so many are coded, in one stream."""
    at_once: Positive = 1
    """Of the codec: tiles of one call of the network."""
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Positive = 1
    """Of the likelihoods; the codec has one."""


def main(settings: EvalDensityConfig) -> None:
    set_up_logging()
    torch.set_num_threads(settings.threads)
    trained = load_density(Path(settings.model), encoder=load_encoder(Path(settings.encoder)) if settings.encoder else None)
    trained.check_sight()
    images = read_images(settings, trained)
    u = torch.stack([levels_of(one) for one in images])
    dims = u[0].numel()
    generator = torch.Generator().manual_seed(settings.seed)
    rounds = -(-len(u) // AT_ONCE)
    with progress_bar("measuring", total=rounds * (1 + 2 * len(settings.coding_steps)) + len(settings.coding_steps) + (settings.ode_images > 0)) as bar:

        def over_all(bound: Callable[..., Bound], **options: Any) -> Bound:
            parts = []
            for start in range(0, len(u), AT_ONCE):
                parts.append(bound(trained, u[start : start + AT_ONCE], generator, **options))
                bar.advance()
            return Bound(*(torch.cat(terms) for terms in zip(*parts, strict=True)))

        continuous = over_all(vlb, num_times=settings.times)
        measured: dict[str, Any] = {"images": len(u), "dims": dims, "vlb": by_terms(continuous, dims=dims)}
        if settings.ode_images:
            some = min(settings.ode_images, len(u))
            nats = ode_nats(trained, u[:some], generator, settings.ode)
            measured["ode"] = as_dict(summary(nats, dims=dims)) | {"images": some, "vlb_of_these": as_dict(summary(continuous.total[:some], dims=dims))}
            bar.advance()
        coded = images[: settings.coded_images]
        measured["coded"] = []
        for steps in settings.coding_steps:
            bounds = {name: over_all(discrete_vlb, num_steps=steps, calibrated=name == "elbo") for name in ("elbo", "elbo_uncalibrated")}
            row = {"steps": steps} | {name: by_terms(bound, dims=dims) for name, bound in bounds.items()}
            torch.set_num_threads(1)
            measured["coded"].append(row | (code(trained, coded, steps, settings.at_once) if len(coded) else {}))
            torch.set_num_threads(settings.threads)
            bar.advance()
    if len(coded):
        measured["plain"] = plain_bits_per_dim(coded)
    measured["model"] = {"hash": f"{trained.hash:016x}", "about": dict(trained.about)}
    write_result(Path(settings.output) / "density.json", settings, measured)
    show(measured)
    log.info("%s/density.json", settings.output)


def read_images(settings: EvalDensityConfig, trained: TrainedDensity) -> list[np.ndarray]:
    """Squares of the model's size, of its levels. Raises ValueError for images of another kind than the model's."""
    digits = settings.source == DIGITS
    if digits != (trained.settings.channels == 1):
        raise ValueError(f"--source {settings.source}: the model is of {trained.settings.channels} channels and {trained.settings.levels} levels, which {'digits' if digits else 'photographs'} are not")
    if digits:
        return list(read_digits("test")[: settings.num_images])
    side, files = trained.settings.size_px, list_photographs(Path(settings.source))
    each = -(-settings.num_images // len(files))
    found = [square for path in files for square in squares(read_photograph(path), each, side_px=side)]
    return found[: settings.num_images]


def squares(pixels: np.ndarray, num: int, *, side_px: int) -> list[np.ndarray]:
    """So many squares at even distances over a grid of whole squares. Raises ValueError for a picture with fewer."""
    places = [(top, left) for top in range(0, pixels.shape[0] - side_px + 1, side_px) for left in range(0, pixels.shape[1] - side_px + 1, side_px)]
    if len(places) < num:
        raise ValueError(f"a photograph of {pixels.shape[1]} x {pixels.shape[0]} has no {num} squares of {side_px} px: give more photographs, or a smaller --num-images")
    return [pixels[top : top + side_px, left : left + side_px] for top, left in (places[number * len(places) // num] for number in range(num))]


def code(trained: TrainedDensity, images: list[np.ndarray], steps: int, at_once: int) -> dict[str, Any]:
    """Bits and seconds of processor time of all images in one stream, decoded again. Raises ValueError if they do not come back."""
    coder = tile_coder(trained, CodingConfig(steps=steps, at_once=at_once))
    mosaic = [np.concatenate(images, axis=1)]
    began = time.process_time()
    coded = coder.encode(mosaic, lambda pixels: None)
    encoded = time.process_time()
    back = coder.decode(coded, [mosaic[0].shape], lambda pixels: None)
    if not np.array_equal(back[0], mosaic[0]):
        raise ValueError(f"with {steps} steps the images do not come back")
    dims = mosaic[0].size
    return {
        "images": len(images), "net_bits_per_dim": 32 * (len(coded.words) - coded.seed_words) / dims, "initial_bits_per_dim": 32 * coded.seed_words / dims,
        "bits_per_dim": 32 * len(coded.words) / dims, "encode_seconds": encoded - began, "decode_seconds": time.process_time() - encoded,
    }  # fmt: skip


def plain_bits_per_dim(images: list[np.ndarray]) -> dict[str, float]:
    """All images as one picture, nearly square, which is kinder to these coders than one file for each."""
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    blank = [np.zeros_like(images[0])] * (rows * columns - len(images))
    filled = [*images, *blank]
    picture = np.concatenate([np.concatenate(filled[row * columns : (row + 1) * columns], axis=1) for row in range(rows)], axis=0)
    dims = sum(one.size for one in images)
    webp = to_webp(picture)
    found = {"PNG": to_png(picture), "WebP without loss": webp, "lzma": to_lzma(np.concatenate(images, axis=0))}
    return {name: 8 * len(data) / dims for name, data in found.items() if data is not None}


def by_terms(bound: Bound, *, dims: int) -> dict[str, float]:
    return as_dict(summary(bound.total, dims=dims)) | {name: summary(value, dims=dims).bits_per_dim for name, value in bound._asdict().items()}


def as_dict(found: Summary) -> dict[str, float]:
    return {"bits_per_dim": found.bits_per_dim, "standard_error": found.standard_error}


def show(measured: dict[str, Any]) -> None:
    table = Table(title=f"bits per dimension, {measured['images']} images of {measured['dims']} dimensions", title_justify="left")
    for column in ("what", "bits per dim", "standard error", "coded, net", "with initial bits", "encode s", "decode s"):
        table.add_column(column)
    table.add_row("bound, continuous time", *numbers(measured["vlb"]))
    if "ode" in measured:
        table.add_row(f"bound, the first {measured['ode']['images']} images", *numbers(measured["ode"]["vlb_of_these"]))
        table.add_row("ODE, the same", *numbers(measured["ode"]))
    for row in measured["coded"]:
        coded = [f"{row[key]:.3f}" for key in ("net_bits_per_dim", "bits_per_dim", "encode_seconds", "decode_seconds")] if "images" in row else []
        table.add_row(f"ELBO, {row['steps']} steps", *numbers(row["elbo"]), *coded)
    for name, value in measured.get("plain", {}).items():
        table.add_row(name, "", "", "", f"{value:.3f}")
    console().print(table)


def numbers(found: dict[str, float]) -> tuple[str, str]:
    return f"{found['bits_per_dim']:.4f}", f"{found['standard_error']:.4f}"


if __name__ == "__main__":
    run_command(EvalDensityConfig, main, description=__doc__.splitlines()[0])
