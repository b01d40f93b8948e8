"""What a density model is measured by: bounds over many images, bits of its codec beside those of plain coders, and its samples.

    images --bound, batch by batch--> nats of each --> bits per dimension with standard errors
    images --one stream--> payload, initial bits, header; the same images --PNG, WebP, JPEG XL, lzma--> bits; seconds of each
    noise --steps or ODE--> samples --frozen encoder--> features --> kernel distance to those of images, by evaluations of the network
"""

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from pydantic import Field
from torch import Tensor

from downstream.density.archive import chunk_of, front_of, tile_coder
from downstream.density.archive_index import CodingConfig, Index
from downstream.density.contexts import token_maps
from downstream.density.diffusion import to_data
from downstream.density.kernel_distance import kernel_distance
from downstream.density.likelihood import Bound, Summary, summary
from downstream.density.model_file import TrainedDensity
from downstream.density.plain import PlainKind, from_jxl, to_jxl, to_lzma, to_png, to_webp, unpack
from downstream.density.sampling import along_ode, ancestral
from downstream.sight import Sight
from lcl.core.config import config

Picture = UInt8[np.ndarray, "_ _ _"]  # height, width, channels
Levels = Int[Tensor, "images channels height width"]
Shape = tuple[int, int, int]
Positive = Annotated[int, Field(ge=1)]

AT_ONCE = 64


# Bounds


def in_batches(bound: Callable[..., Bound], trained: TrainedDensity, u: Levels, generator: torch.Generator, *, advance: Callable[[], None] = lambda: None, **options: Any) -> Bound:
    """`bound` of all images, some at a time."""
    parts = []
    for batch in u.split(AT_ONCE):
        parts.append(bound(trained, batch, generator, **options))
        advance()
    return Bound(*(torch.cat(terms) for terms in zip(*parts, strict=True)))


def by_terms(bound: Bound, *, dims: int) -> dict[str, float]:
    """The whole with its standard error, and the mean of each term."""
    return as_dict(summary(bound.total, dims=dims)) | {name: summary(value, dims=dims).bits_per_dim for name, value in bound._asdict().items()}


def as_dict(found: Summary) -> dict[str, float]:
    return {"bits_per_dim": found.bits_per_dim, "standard_error": found.standard_error}


# Bits


def coded(trained: TrainedDensity, images: Sequence[Picture], *, steps: int, at_once: int) -> dict[str, Any]:
    """Bits of an archive of all images in one stream, by what they are, and seconds of processor time. Raises ValueError if the images do not come back."""
    settings = CodingConfig(steps=steps, at_once=at_once)
    coder, mosaic = tile_coder(trained, settings), np.concatenate(images, axis=1)
    began = time.process_time()
    stream = coder.encode([mosaic], lambda pixels: None)
    encoded = time.process_time()
    back = coder.decode(stream, [mosaic.shape], lambda pixels: None)
    decoded = time.process_time()
    if not np.array_equal(back[0], mosaic):
        raise ValueError(f"with {steps} steps the images do not come back")
    payload = stream.words.astype("<u4").tobytes()
    chunk = chunk_of("model", payload, content=mosaic.tobytes(), pieces=[mosaic], seed_words=stream.seed_words)
    header = front_of(Index(coding=settings, torch=torch.__version__, entries=(), chunks=(chunk,)), trained.hash)
    bits = {"payload": 32 * (len(stream.words) - stream.seed_words), "initial": 32 * stream.seed_words, "header": 8 * len(header)}
    return {
        "images": len(images), **{f"{name}_bits_per_dim": value / mosaic.size for name, value in bits.items()}, "bits_per_dim": sum(bits.values()) / mosaic.size,
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


def by_plain_coders(images: Sequence[Picture]) -> dict[str, dict[str, float] | None]:
    """Bits and seconds of processor time of what everybody has; None of a format that is not there.

    All images are one picture, nearly square, or for lzma bytes after one another, which is kinder than a file for each. Raises ValueError if one does not come back.
    """
    picture, found = mosaic_of(images), {}
    for name, coder in PLAIN.items():
        plane = np.concatenate(images, axis=0) if name == "lzma" else picture
        began = time.process_time()
        data = coder.encode(plane)
        if data is None:
            found[name] = None
            continue
        encoded = time.process_time()
        back = coder.decode(data, plane.shape)
        decoded = time.process_time()
        if not np.array_equal(back, plane):
            raise ValueError(f"{name} does not give the images back")
        found[name] = {"bits_per_dim": 8 * len(data) / sum(one.size for one in images), "encode_seconds": encoded - began, "decode_seconds": decoded - encoded}
    return found


def mosaic_of(images: Sequence[Picture]) -> Picture:
    """As near to a square as they fill, with black places at the end."""
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    filled = [*images, *[np.zeros_like(images[0])] * (rows * columns - len(images))]
    return np.concatenate([np.concatenate(filled[row * columns : (row + 1) * columns], axis=1) for row in range(rows)], axis=0)


# Samples


@config
class SamplesConfig:
    num: Annotated[int, Field(ge=0)] = 64
    """Of each way; 0: none."""
    steps: tuple[Positive, ...] = (8, 32, 128)
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
