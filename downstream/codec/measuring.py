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
from downstream.codec.classic import CLASSIC
from downstream.codec.image_codec import TILE_PX, Refine, encode, pixels_of, read_latents, synthesise_in_tiles, tile_of
from downstream.codec.model_file import TrainedCodec
from downstream.perceptual_distance import LPIPS
from downstream.photographs import middle, read_photograph, to_tensor

Pixels = UInt8[np.ndarray, "height width 3"]
LEAST_SIDE_PX = 161  # that MS-SSIM's five scales take


@dataclass(frozen=True)
class Measured:
    """One picture at one setting. Quality is of the 8-bit pixels that a viewer gets, but for `psnr_float_db`."""

    picture: str
    bpp: float
    psnr_db: float
    psnr_float_db: float | None
    """Before rounding to 8 bits, as papers have it; None of codecs that give 8 bits alone."""
    ms_ssim: float | None
    lpips: float | None
    estimated_bpp: float | None
    encode_seconds: float
    decode_seconds: float


MEANS = ("bpp", "psnr_db", "psnr_float_db", "ms_ssim", "lpips", "encode_seconds", "decode_seconds")


@dataclass(frozen=True)
class Point:
    """The means over pictures at one setting; None where no picture has a value."""

    setting: float
    bpp: float
    psnr_db: float
    psnr_float_db: float | None
    ms_ssim: float | None
    lpips: float | None
    encode_seconds: float
    decode_seconds: float
    pictures: list[dict[str, Any]]


def psnr_db(pixels: Pixels, found: Pixels) -> float:
    """Of 8-bit values, in decibels; infinite for equal ones."""
    return decibels(float(np.mean((pixels.astype(np.float64) - found) ** 2)))


def decibels(squared_error: float) -> float:
    """PSNR of a mean squared error of values up to 255."""
    return 10 * math.log10(255**2 / squared_error) if squared_error else math.inf


def similarity(pixels: Pixels, found: Pixels) -> float | None:
    """MS-SSIM (Wang et al. 2003) by pytorch-msssim; None for pictures too small for its five scales."""
    if min(pixels.shape[:2]) < LEAST_SIDE_PX:
        return None
    return float(ms_ssim(to_tensor(pixels)[None], to_tensor(found)[None], data_range=1.0))


def measure_ours(trained: TrainedCodec, path: Path, *, crop_px: int, level: float, refine: Refine | None = None, lpips: LPIPS | None = None, **options: Any) -> Measured:
    pixels = middle(read_photograph(path), crop_px)
    tile_px = tile_of(pixels.shape[:2], TILE_PX)
    started = time.perf_counter()
    encoded = encode(trained, pixels, level=level, refine=refine, tile_px=tile_px, **options)
    between = time.perf_counter()
    header, y_hat = read_latents(trained, encoded.data)
    found = pixels_of(trained, header, y_hat, tile_px=tile_px)
    seconds = (between - started, time.perf_counter() - between)
    floats = synthesise_in_tiles(trained.codec, y_hat, trained.level(header.level), tile_px=tile_px, finish=lambda x_hat: x_hat.clamp(0, 1))
    error = 255**2 * float((to_tensor(pixels) - floats[0, :, : header.height, : header.width]).double().square().mean())
    return _measured(path, pixels, found, encoded.data, seconds, lpips=lpips, psnr_float_db=decibels(error), estimated_bits=encoded.estimated_bits)


def measure_classic(name: str, path: Path, *, crop_px: int, quality: float, lpips: LPIPS | None = None) -> Measured:
    pixels = middle(read_photograph(path), crop_px)
    started = time.perf_counter()
    data = CLASSIC[name].compress(pixels, quality)
    between = time.perf_counter()
    found = CLASSIC[name].expand(data)
    return _measured(path, pixels, found, data, (between - started, time.perf_counter() - between), lpips=lpips)


def _measured(
    path: Path, pixels: Pixels, found: Pixels, data: bytes, seconds: tuple[float, float], *, lpips: LPIPS | None, psnr_float_db: float | None = None, estimated_bits: float | None = None
) -> Measured:
    num_pixels = pixels.shape[0] * pixels.shape[1]
    return Measured(
        path.name, 8 * len(data) / num_pixels, psnr_db(pixels, found), psnr_float_db, similarity(pixels, found), None if lpips is None else lpips(pixels, found),
        None if estimated_bits is None else estimated_bits / num_pixels, *seconds,
    )  # fmt: skip


def curve_of(settings: Sequence[float], measure: Callable[[float, Path], Measured], files: Sequence[Path], done: Callable[[], None]) -> list[Point]:
    points = []
    for setting in settings:
        found = []
        for path in files:
            found.append(measure(setting, path))
            done()
        values = {name: [value for one in found if (value := getattr(one, name)) is not None] for name in MEANS}
        points.append(Point(setting=setting, **{name: fmean(some) if some else None for name, some in values.items()}, pictures=[asdict(one) for one in found]))
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
