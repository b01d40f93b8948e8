"""What a density model is measured by: bounds over many images, bits of its codec beside those of plain coders, and its samples.

    images --bound, batch by batch--> nats of each --> bits per dimension with standard errors
    images, or middles of photographs --one stream--> payload, initial bits, header; the same --PNG, WebP, JPEG XL, lzma--> bits; seconds of each
    noise --steps or ODE--> samples --frozen encoder--> features --> kernel distance to those of images, by evaluations of the network
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from pydantic import Field
from torch import Tensor

from downstream.density.archive import chunk_of, front_of, tile_coder
from downstream.density.archive_index import CodingConfig, Index
from downstream.density.contexts import token_maps
from downstream.density.diffusion import bits_per_dim, to_data
from downstream.density.kernel_distance import kernel_distance
from downstream.density.likelihood import Bound, Summary, discrete_vlb, summary
from downstream.density.model_file import TrainedDensity
from downstream.density.plain import PlainKind, from_jxl, to_jxl, to_lzma, to_png, to_webp, unpack
from downstream.density.sampling import along_ode, ancestral
from downstream.density.training_images import levels_of
from downstream.density.unseen_images import Unseen, middles
from downstream.sight import Sight
from lcl.core.config import config
from lcl.evals.intervals import clustered_bootstrap

Picture = UInt8[np.ndarray, "_ _ _"]  # height, width, channels
Levels = Int[Tensor, "images channels height width"]
Shape = tuple[int, int, int]
Positive = Annotated[int, Field(ge=1)]

AT_ONCE = 64
ELBO_VALUES = 1 << 16  # that ELBO_T of coded pictures is a mean over, in as many draws as that takes: a single one of 100 digits is off by 0.6 %, as a single archive of them is


# Bounds


def in_batches(bound: Callable[..., Bound], trained: TrainedDensity, u: Levels, generator: torch.Generator, *, advance: Callable[[], None] = lambda: None, **options: Any) -> Bound:
    """`bound` of all images, some at a time."""
    parts = []
    for batch in u.split(AT_ONCE):
        parts.append(bound(trained, batch, generator, **options))
        advance()
    return Bound(*(torch.cat(terms) for terms in zip(*parts, strict=True)))


def by_terms(bound: Bound, *, dims: int, sources: Sequence[int]) -> dict[str, float]:
    """The whole with its standard error, and the mean of each term."""
    terms = {name: float(bits_per_dim(value.double().mean(), dims=dims)) for name, value in bound._asdict().items()}
    return as_dict(summary(bound.total, dims=dims, sources=sources)) | terms


def of_images(bound: Bound, *, dims: int) -> list[float]:
    """The whole of each image, in bits for each dimension."""
    return [round(value, 4) for value in bits_per_dim(bound.total, dims=dims).tolist()]


def as_dict(found: Summary) -> dict[str, float]:
    return {"bits_per_dim": found.bits_per_dim, "standard_error": found.standard_error}


# Bits


class ToCode(NamedTuple):
    pictures: list[Picture]
    tiles: Levels
    """What the model is shown of them, one after the other."""
    apart: bool
    """Whether plain coders take each as a file of its own; else all as one picture."""


def to_code(images: Sequence[Picture]) -> ToCode:
    """Images of the model's size. As files of their own they would be little but headers to plain coders."""
    return ToCode(list(images), torch.stack([levels_of(one) for one in images]), apart=False)


def middles_to_code(folder: str, trained: TrainedDensity, *, num: int, side_px: int) -> ToCode:
    """Middles of photographs, which plain coders take as they are: a mosaic of small squares has edges that cost them a tenth. Raises ValueError for a side that is no multiple of the model's."""
    size = trained.settings.size_px
    if side_px % size:
        raise ValueError(f"middles of {side_px} px are no whole number of the model's tiles of {size} px")
    pictures = middles(folder, trained.settings, num=num, side_px=side_px)
    places = [(top, left) for top in range(0, side_px, size) for left in range(0, side_px, size)]
    return ToCode(pictures, torch.stack([levels_of(one[top : top + size, left : left + size]) for one in pictures for top, left in places]), apart=True)


def coding(trained: TrainedDensity, unseen: Unseen, chosen: ToCode | None, generator: torch.Generator, *, steps: int, at_once: int, advance: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """ELBO_T of all images, as it is coded, at evenly spread times where those of the codec are others, and at such with the variances of q; and what the codec makes of the chosen ones beside ELBO_T of the same."""
    u = torch.stack([levels_of(one) for one in unseen.images])
    dims, row = u[0].numel(), {"steps": steps}
    even = replace(trained, calibration=trained.calibration.evenly())
    ways = {"elbo": (trained, True), "elbo_even_times": (even, True), "elbo_uncalibrated": (even, False)}
    if np.array_equal(trained.calibration.of_steps(steps), even.calibration.of_steps(steps)):
        ways.pop("elbo_even_times")
    for name, (one, calibrated) in ways.items():
        row[name] = by_terms(in_batches(discrete_vlb, one, u, generator, advance=advance, num_steps=steps, calibrated=calibrated), dims=dims, sources=unseen.sources)
    if chosen is not None:
        draws = torch.stack([in_batches(discrete_vlb, trained, chosen.tiles, generator, num_steps=steps).total.double() for _ in range(-(-ELBO_VALUES // chosen.tiles.numel()))])
        pictures = bits_per_dim(draws.mean(dim=0).view(len(chosen.pictures), -1).mean(dim=1), dims=dims)
        row |= coded(trained, chosen, steps=steps, at_once=at_once) | {"elbo_of_these": float(pictures.mean()), "elbo_of_pictures": pictures.tolist(), "elbo_draws": len(draws)}
        row["payload_over_elbo"] = row["payload_bits_per_dim"] / row["elbo_of_these"] - 1
    return row


def coded(trained: TrainedDensity, chosen: ToCode, *, steps: int, at_once: int) -> dict[str, Any]:
    """Bits of an archive of all pictures in one stream, by what they are, and seconds of processor time of one thread. Raises ValueError if they do not come back."""
    settings, threads = CodingConfig(steps=steps, at_once=at_once), torch.get_num_threads()
    torch.set_num_threads(1)  # as the codec's commands
    coder, planes = tile_coder(trained, settings), chosen.pictures if chosen.apart else [np.concatenate(chosen.pictures, axis=1)]
    began = time.process_time()
    stream = coder.encode(planes, lambda pixels: None)
    encoded = time.process_time()
    back = coder.decode(stream, [plane.shape for plane in planes], lambda pixels: None)
    decoded = time.process_time()
    torch.set_num_threads(threads)
    if not all(np.array_equal(*pair) for pair in zip(back, planes, strict=True)):
        raise ValueError(f"with {steps} steps the images do not come back")
    payload, size = stream.words.astype("<u4").tobytes(), sum(plane.size for plane in planes)
    chunk = chunk_of("model", payload, content=b"".join(plane.tobytes() for plane in planes), pieces=planes, seed_words=stream.seed_words)
    header = front_of(Index(coding=settings, torch=torch.__version__, entries=(), chunks=(chunk,)), trained.hash)
    bits = {"payload": 32 * (len(stream.words) - stream.seed_words), "initial": 32 * stream.seed_words, "header": 8 * len(header)}
    return {
        "images": len(chosen.pictures), **{f"{name}_bits_per_dim": value / size for name, value in bits.items()}, "bits_per_dim": sum(bits.values()) / size,
        "encode_seconds": encoded - began, "decode_seconds": decoded - encoded,
    }  # fmt: skip


class PlainCoder(NamedTuple):
    encode: Callable[[Picture], bytes | None]
    decode: Callable[[bytes, Shape], Picture]


def _unpacked(kind: PlainKind) -> Callable[[bytes, Shape], Picture]:
    return lambda data, shape: unpack(kind, data, height=shape[0], width=shape[1], channels=shape[2])


PLAIN = {
    "PNG": PlainCoder(to_png, _unpacked("png")), "WebP without loss": PlainCoder(to_webp, _unpacked("webp")), "JPEG XL without loss": PlainCoder(to_jxl, from_jxl),
    "lzma": PlainCoder(to_lzma, _unpacked("lzma")),
}  # fmt: skip


def by_plain_coders(chosen: ToCode) -> dict[str, dict[str, Any] | None]:
    """Bits, of each picture too where they are taken apart, and seconds of processor time of what everybody has; None of a format that is not there.

    Where pictures are not taken apart, all are one, nearly square, or for lzma bytes after one another, which is kinder than a file for each. Raises ValueError if one does not come back.
    """
    mosaic, found = mosaic_of(chosen.pictures), {}
    for name, coder in PLAIN.items():
        planes = chosen.pictures if chosen.apart else [np.concatenate(chosen.pictures, axis=0) if name == "lzma" else mosaic]
        began = time.process_time()
        data = [coder.encode(plane) for plane in planes]
        encoded = time.process_time()
        files = [one for one in data if one is not None]
        if len(files) < len(planes):
            found[name] = None
            continue
        back = [coder.decode(one, plane.shape) for one, plane in zip(files, planes, strict=True)]
        decoded = time.process_time()
        if not all(np.array_equal(*pair) for pair in zip(back, planes, strict=True)):
            raise ValueError(f"{name} does not give the images back")
        found[name] = {
            "bits_per_dim": 8 * sum(map(len, files)) / sum(one.size for one in chosen.pictures), "encode_seconds": encoded - began, "decode_seconds": decoded - encoded,
        }  # fmt: skip
        if chosen.apart:
            found[name]["of_pictures"] = [8 * len(one) / plane.size for one, plane in zip(files, planes, strict=True)]
    return found


def paired(row: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Bits for each dimension that the codec needs more than a plain coder, paired by picture, with a 95 % interval by bootstrap over pictures.

    A picture has no bits of its own in a stream that all share: it is taken at its ELBO_T and an equal part of what the archive has beyond that.
    """
    beyond = row["bits_per_dim"] - row["elbo_of_these"]
    ours = np.array(row["elbo_of_pictures"]) + beyond
    of_each = {name: np.array(found["of_pictures"]) for name, found in plain.items() if found is not None and "of_pictures" in found}
    names = [str(number) for number in range(len(ours))]
    return {
        name: {"difference": of.value, "low": of.low, "high": of.high, "pictures_with_fewer": int((ours < theirs).sum())}
        for name, theirs in of_each.items()
        for of in [clustered_bootstrap(ours - theirs, names, of="pictures")]
    }  # fmt: skip


def mosaic_of(images: Sequence[Picture]) -> Picture:
    """As near to a square as they fill, with black places at the end."""
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    filled = [*images, *[np.zeros_like(images[0])] * (rows * columns - len(images))]
    return np.concatenate([np.concatenate(filled[row * columns : (row + 1) * columns], axis=1) for row in range(rows)], axis=0)


# Samples


@config
class SamplesConfig:
    num: Annotated[int, Field(ge=0)] = 32
    """Of each way; 0: none."""
    steps: tuple[Positive, ...] = (8, 32)
    """Of ancestral sampling, each a way."""
    tolerances: tuple[Annotated[float, Field(gt=0)], ...] = (1e-3,)
    """Of the ODE's solver, each a way."""
    columns: Positive = 8
    encoder: str = ""
    """A frozen encoder (checkpoint, run or export), whose features the distance of samples to images is taken in; empty: no distance."""


def sampled(trained: TrainedDensity, settings: SamplesConfig, generator: torch.Generator, *, advance: Callable[[], None] = lambda: None) -> list[tuple[dict[str, Any], Levels]]:
    """Of each way its name, evaluations of the network and seconds of processor time, with its images."""
    side, found = trained.settings.size_px, []
    for steps in settings.steps:
        began = time.process_time()
        u = ancestral(trained, settings.num, generator, num_steps=steps, height=side, width=side)
        found.append((_way(f"ancestral_{steps}", steps, began, settings.num), u))
        advance()
    for tolerance in settings.tolerances:
        began = time.process_time()
        u, calls = along_ode(trained, settings.num, generator, tolerance=tolerance, height=side, width=side)
        found.append((_way(f"ode_{tolerance:g}", calls, began, settings.num), u))
        advance()
    return found


def _way(name: str, evaluations: int, began: float, num: int) -> dict[str, Any]:
    return {"way": name, "images": num, "evaluations": evaluations, "seconds_per_image": (time.process_time() - began) / num}


def distance(sight: Sight, ours: Levels, theirs: Int[Tensor, "others channels height width"], *, levels: int) -> dict[str, float]:
    """Kernel distance between two sets of images, in the sight's features."""
    found = kernel_distance(*(features(sight, u, levels=levels) for u in (ours, theirs)))
    return {"kernel_distance": found.value, "standard_error": found.standard_error}


def features(sight: Sight, u: Levels, *, levels: int) -> Float[Tensor, "images features"]:
    """Mean tokens of images."""
    return torch.cat([token_maps(sight, to_data(batch, levels=levels)).mean(dim=(2, 3)) for batch in u.split(AT_ONCE)])
