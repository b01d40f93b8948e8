"""Rate and quality of codecs on pictures: ours with real files, the classic ones beside them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import UInt8
from pytorch_msssim import ms_ssim

from downstream.codec.bd_rate import Curve, bd_rate
from downstream.codec.classic import CLASSIC, compress, expand
from downstream.codec.image_codec import Refine, decode, encode, tile_of
from downstream.codec.model_file import TrainedCodec
from downstream.photographs import middle, read_photograph, to_tensor

Pixels = UInt8[np.ndarray, "height width 3"]
TILE_PX = 1024  # as the commands have it by default
LEAST_SIDE_PX = 161  # that MS-SSIM's five scales take


@dataclass(frozen=True)
class Measured:
    """One picture at one setting. Quality is of the 8-bit pixels that a viewer gets."""

    picture: str
    bpp: float
    psnr_db: float
    ms_ssim: float | None
    estimated_bpp: float | None
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Point:
    """The means over pictures at one setting."""

    setting: float
    bpp: float
    psnr_db: float
    ms_ssim: float | None
    encode_seconds: float
    decode_seconds: float
    pictures: list[dict[str, Any]]


def psnr_db(pixels: Pixels, found: Pixels) -> float:
    """Of 8-bit values, in decibels; infinite for equal ones."""
    error = float(np.mean((pixels.astype(np.float64) - found) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def similarity(pixels: Pixels, found: Pixels) -> float | None:
    """MS-SSIM (Wang et al. 2003) by pytorch-msssim; None for pictures too small for its five scales."""
    if min(pixels.shape[:2]) < LEAST_SIDE_PX:
        return None
    return float(ms_ssim(to_tensor(pixels)[None], to_tensor(found)[None], data_range=1.0))


def measure_ours(trained: TrainedCodec, path: Path, *, crop_px: int, level: float, refine: Refine | None = None, **options: Any) -> Measured:
    pixels = middle(read_photograph(path), crop_px)
    started = time.perf_counter()
    tile_px = tile_of(pixels, TILE_PX)
    encoded = encode(trained, pixels, level=level, refine=refine, tile_px=tile_px, **options)
    between = time.perf_counter()
    found = decode(trained, encoded.data, tile_px=tile_px)
    ended = time.perf_counter()
    num_pixels = pixels.shape[0] * pixels.shape[1]
    rates = (8 * len(encoded.data) / num_pixels, encoded.estimated_bits / num_pixels)
    return Measured(path.name, rates[0], psnr_db(pixels, found), similarity(pixels, found), rates[1], between - started, ended - between)


def measure_classic(name: str, path: Path, *, crop_px: int, quality: float) -> Measured:
    pixels = middle(read_photograph(path), crop_px)
    started = time.perf_counter()
    data = compress(pixels, CLASSIC[name], quality)
    between = time.perf_counter()
    found = expand(data)
    ended = time.perf_counter()
    return Measured(path.name, 8 * len(data) / (pixels.shape[0] * pixels.shape[1]), psnr_db(pixels, found), similarity(pixels, found), None, between - started, ended - between)


def curve_of(settings: Sequence[float], measure: Callable[[float, Path], Measured], files: Sequence[Path], done: Callable[[], None]) -> list[Point]:
    points = []
    for setting in settings:
        found = []
        for path in files:
            found.append(measure(setting, path))
            done()
        similarities = [one.ms_ssim for one in found if one.ms_ssim is not None]
        means = {name: fmean(getattr(one, name) for one in found) for name in ("bpp", "psnr_db", "encode_seconds", "decode_seconds")}
        points.append(Point(setting=setting, **means, ms_ssim=fmean(similarities) if similarities else None, pictures=[asdict(one) for one in found]))
    return points


def bd_rates(curves: Mapping[str, Sequence[Point]], anchor: str) -> dict[str, dict[str, float | str]]:
    """BD-rate (PSNR) of every curve against the anchor by each interpolation; a sentence where it cannot be said."""
    plain: dict[str, Curve] = {name: [(point.bpp, point.psnr_db) for point in points] for name, points in curves.items()}
    found: dict[str, dict[str, float | str]] = {}
    for name, curve in plain.items():
        if name == anchor:
            continue
        found[name] = {}
        for interpolation in ("pchip", "cubic", "akima"):
            try:
                found[name][interpolation] = bd_rate(plain[anchor], curve, interpolation)
            except ValueError as error:
                found[name][interpolation] = str(error)
    return found
