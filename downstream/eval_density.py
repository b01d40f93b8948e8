"""Entry point: likelihoods of unseen images under a density model, its coded bits beside plain coders, and its samples, in one run.

    python downstream/eval_density.py --model density.safetensors --source digits --output outputs/density_eval
    python downstream/eval_density.py --model density.safetensors --source photos --output outputs/density_eval --num-images 64 --coding-steps 16 32 64 --samples.encoder run

    images --> bound in continuous time, ODE, ELBO_T and bits of the codec for each T, PNG, WebP, JPEG XL, lzma --> OUTPUT/density.json
    noise --> samples by numbers of evaluations --> OUTPUT/WAY.png, and their distance to the images in an encoder's features
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image
from pydantic import Field
from rich.table import Table

from downstream.density.likelihood import OdeConfig, ode_nats, summary, vlb
from downstream.density.measuring import (
    AT_ONCE,
    SamplesConfig,
    ToCode,
    as_dict,
    by_plain_coders,
    by_terms,
    coding,
    distance,
    in_batches,
    middles_to_code,
    of_images,
    paired,
    sampled,
    to_code,
)
from downstream.density.model_file import TrainedDensity, load_density
from downstream.density.sampling import as_grid
from downstream.density.training_images import levels_of
from downstream.density.unseen_images import DIGITS, Unseen, unseen_images
from downstream.origin_marks import Mark, save_marked
from downstream.sight import Sight, SightConfig
from lcl.core.config import config, run_command
from lcl.core.logs import Bar, progress_bar, set_up_logging
from lcl.core.shipped import DENSITY, or_shipped
from lcl.evals.results import console
from lcl.features import load_encoder
from lcl.measured import write_result

log = logging.getLogger(__name__)

Positive = Annotated[int, Field(ge=1)]


@config
class EvalDensityConfig:
    source: str
    """Folder of photographs that it was not trained on, from which squares are cut at even distances; or `digits`: the last 297 of scikit-learn."""
    output: str
    """Folder for the report."""
    model: str = ""
    """The density model, as train_density.py wrote it; empty: the one that comes with lcl, of photographs."""
    encoder: str = ""
    """The frozen encoder (checkpoint, run or export), for a model whose context comes from it."""
    num_images: Annotated[int, Field(ge=2)] = 297
    """Images, or squares of photographs."""
    times: Positive = 64
    """Of each image, in the bound in continuous time."""
    ode: OdeConfig = OdeConfig()
    ode_images: Annotated[int, Field(ge=0)] = 16
    """The first so many; 0: no ODE, which asks the network most often."""
    coding_steps: tuple[Positive, ...] = (8, 16, 32)
    """T of the codec, each a row of the table."""
    coded_images: Annotated[int, Field(ge=0)] = 297
    """The first so many are coded, in one stream."""
    coded_px: Annotated[int, Field(ge=0)] = 0
    """Of photographs: not their squares are coded but the middles of the first so many, of this side, which PNG and the others take one by one. 0: the squares."""
    at_once: Positive = 1
    """Of the codec: tiles of one call of the network."""
    samples: SamplesConfig = SamplesConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Positive = 1
    """Of the likelihoods and samples; the codec has one."""


def main(settings: EvalDensityConfig) -> None:
    set_up_logging()
    torch.set_num_threads(settings.threads)
    trained = load_density(or_shipped(settings.model, DENSITY), encoder=load_encoder(Path(settings.encoder)) if settings.encoder else None)
    trained.check_sight()
    sight = Sight(load_encoder(Path(settings.samples.encoder)), SightConfig(num_layers=1)) if settings.samples.encoder else None
    if sight is not None and 0 < settings.samples.num < 4:
        raise ValueError(f"--samples.num {settings.samples.num}: a kernel distance with its standard error needs four images or more")
    unseen = unseen_images(settings.source, trained.settings, num=settings.num_images)
    chosen = chosen_to_code(trained, unseen, settings)
    u = torch.stack([levels_of(one) for one in unseen.images])
    measured: dict[str, Any] = {"images": len(u), "dims": u[0].numel(), "model": {"hash": f"{trained.hash:016x}", "about": dict(trained.about)}}
    generator = torch.Generator().manual_seed(settings.seed)
    with progress_bar("measuring", total=num_parts(settings, len(u))) as bar:
        measured |= likelihoods(trained, u, unseen.sources, generator, settings, bar)
        measured["coded"] = []
        for steps in settings.coding_steps:
            measured["coded"].append(coding(trained, unseen, chosen, generator, steps=steps, at_once=settings.at_once, advance=bar.advance))
            bar.advance()
        if chosen is not None:
            measured["plain"] = by_plain_coders(chosen)
            for row in measured["coded"]:
                row["paired"] = paired(row, measured["plain"])
        if settings.samples.num:
            measured["samples"] = samples(trained, u, sight, generator, settings, bar)
    write_result(Path(settings.output) / "density.json", settings, measured)
    show(measured)
    log.info("%s/density.json", settings.output)


def chosen_to_code(trained: TrainedDensity, unseen: Unseen, settings: EvalDensityConfig) -> ToCode | None:
    if not settings.coded_images:
        return None
    if not settings.coded_px:
        return to_code(unseen.images[: settings.coded_images])
    if settings.source == DIGITS:
        raise ValueError(f"--coded-px {settings.coded_px}: digits have no middles; leave it out")
    return middles_to_code(settings.source, trained, num=settings.coded_images, side_px=settings.coded_px)


def num_parts(settings: EvalDensityConfig, num_images: int) -> int:
    ways = len(settings.samples.steps) + len(settings.samples.tolerances) if settings.samples.num else 0
    flows = len(settings.ode.dequantisations) if settings.ode_images else 0
    return -(-num_images // AT_ONCE) * (1 + 3 * len(settings.coding_steps)) + len(settings.coding_steps) + flows + ways


def likelihoods(trained: TrainedDensity, u: torch.Tensor, sources: list[int], generator: torch.Generator, settings: EvalDensityConfig, bar: Bar) -> dict[str, Any]:
    """The bound in continuous time, and the ODE of the first images by each dequantisation, for 1 and all K of them."""
    dims, of_few = u[0].numel(), sources[: settings.ode_images]
    bound = in_batches(vlb, trained, u, generator, advance=bar.advance, num_times=settings.times)
    vlb_found = {"vlb": by_terms(bound, dims=dims, sources=sources) | {"of_images": of_images(bound, dims=dims)}}
    if not settings.ode_images:
        return vlb_found
    few, flows = u[: settings.ode_images], []
    for kind in settings.ode.dequantisations:
        began = time.process_time()
        nats = ode_nats(trained, few, generator, tolerance=settings.ode.tolerance, samples=settings.ode.samples, dequantisation=kind)
        seconds = (time.process_time() - began) / len(few) / len(nats)
        flows += [{"dequantisation": kind, "samples": number, "seconds_per_image_and_sample": seconds} | as_dict(summary(nats[number - 1], dims=dims, sources=of_few)) for number in sorted({1, len(nats)})]
        bar.advance()
    these = as_dict(summary(bound.total[: len(few)], dims=dims, sources=of_few))
    return vlb_found | {"ode": {"images": len(few), "vlb_of_these": these, "bounds": flows}}


def samples(trained: TrainedDensity, u: torch.Tensor, sight: Sight | None, generator: torch.Generator, settings: EvalDensityConfig, bar: Bar) -> dict[str, Any]:
    """A grid of each way, and its distance to the images beside that between their halves."""
    levels, rows = trained.settings.levels, []
    for row, found in sampled(trained, settings.samples, generator, advance=bar.advance):
        pixels = as_grid(found, levels=levels, columns=settings.samples.columns).numpy()
        mark = Mark("trainedAlgorithmicMedia", trained.sha256, settings=f"{len(found)} samples, {row['way']}, seed {settings.seed}")
        save_marked(Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]), Path(settings.output) / f"{row['way']}.png", mark)
        rows.append(row | (distance(sight, found, u, levels=levels) if sight is not None else {}))
    if sight is None:
        return {"ways": rows}
    mixed = u[torch.randperm(len(u), generator=generator)]
    return {"ways": rows, "features_of": sight.encoder.fingerprint, "between_halves_of_the_images": distance(sight, *mixed.chunk(2), levels=levels)}


def show(measured: dict[str, Any]) -> None:
    table = Table(title=f"bits per dimension, {measured['images']} images of {measured['dims']} dimensions; seconds of processor time, of an image", title_justify="left")
    for column in ("what", "bits per dim", "standard error", "payload", "initial", "header", "file", "encode s", "decode s"):
        table.add_column(column)
    table.add_row("bound, continuous time", *numbers(measured["vlb"]))
    if "ode" in measured:
        flow = measured["ode"]
        table.add_row(f"bound, the first {flow['images']} images", *numbers(flow["vlb_of_these"]))
        for one in flow["bounds"]:
            table.add_row(f"ODE, the same, {one['dequantisation'].replace('_', ' ')}, K = {one['samples']}", *numbers(one))
    for row in measured["coded"]:
        parts = [f"{row[f'{name}bits_per_dim']:.3f}" for name in ("payload_", "initial_", "header_", "")] + seconds(row, row["images"]) if "images" in row else []
        table.add_row(f"ELBO, {row['steps']} steps", *numbers(row["elbo"]), *parts)
        if "elbo_even_times" in row:
            table.add_row("the same at evenly spread times", *numbers(row["elbo_even_times"]))
    for name, found in measured.get("plain", {}).items():
        num = measured["coded"][0]["images"] if measured["coded"] else measured["images"]
        table.add_row(name, *([""] * 5 + [f"{found['bits_per_dim']:.3f}", *seconds(found, num)] if found is not None else ["not installed"]))
    console().print(table)
    if any(row.get("paired") for row in measured["coded"]):
        show_paired(measured["coded"])
    if "samples" in measured:
        show_samples(measured["samples"])


def show_paired(rows: Sequence[dict[str, Any]]) -> None:
    """Whether the codec is ahead of a plain coder on more than these pictures."""
    table = Table(title="bits per dimension that the codec needs more than others (less: -), paired by picture; 95 % intervals by bootstrap over pictures", title_justify="left")
    for column in ("steps", "than", "difference", "interval", "smaller on"):
        table.add_column(column)
    for row in rows:
        for name, one in row["paired"].items():
            table.add_row(str(row["steps"]), name, f"{one['difference']:+.3f}", f"{one['low']:+.3f} to {one['high']:+.3f}", f"{one['pictures_with_fewer']} of {row['images']}")
    console().print(table)


def show_samples(measured: dict[str, Any]) -> None:
    table = Table(title="samples; kernel distances in features of the project's own encoder" if "features_of" in measured else "samples", title_justify="left")
    for column in ("way", "evaluations", "s for an image", "kernel distance", "standard error"):
        table.add_column(column)
    floor = [{"way": "halves of the images", **measured["between_halves_of_the_images"]}] if "features_of" in measured else []
    for row in [*measured["ways"], *floor]:
        cost = (str(row["evaluations"]), f"{row['seconds_per_image']:.3f}") if "evaluations" in row else ("", "")
        table.add_row(row["way"], *cost, *([f"{row['kernel_distance']:.4f}", f"{row['standard_error']:.4f}"] if "kernel_distance" in row else []))
    console().print(table)


def numbers(found: dict[str, float]) -> tuple[str, str]:
    return f"{found['bits_per_dim']:.4f}", f"{found['standard_error']:.4f}"


def seconds(found: dict[str, float], num: int) -> list[str]:
    return [f"{found[name] / num:.4f}" for name in ("encode_seconds", "decode_seconds")]


if __name__ == "__main__":
    run_command(EvalDensityConfig, main, description=__doc__.splitlines()[0])
