"""Measures of quality against closed forms and published readings, and the classical filters on what they are made for."""

import math

import numpy as np
import pytest

from downstream.peak_memory import PeakMemory
from downstream.restore.baselines import BASELINES
from downstream.restore.quality import gmsd, luma, measure, psnr_db, ssim
from tests.test_image_codec import picture


def noisy(pixels: np.ndarray, deviation: float, seed: int = 0) -> np.ndarray:
    return np.clip(pixels + np.random.default_rng(seed).normal(0, deviation, pixels.shape), 0, 255).round().astype(np.uint8)


def test_equal_pictures_and_a_known_error() -> None:
    clean = picture(64, 80)
    same = measure(clean, clean)
    assert same.psnr_db == same.psnr_y_db == math.inf and same.ssim == same.ssim_y == 1 and same.gmsd == 0
    grey = np.full((40, 40, 3), 100, dtype=np.uint8)
    off = measure(grey, grey + np.uint8(10))
    assert off.psnr_db == pytest.approx(10 * math.log10(255**2 / 100)) and off.psnr_y_db == pytest.approx(off.psnr_db + 20 * math.log10(255 / 219), abs=1e-3)


def test_luma_is_that_of_matlab() -> None:
    """rgb2ycbcr of the corners of the cube: 16 for black, 235 for white, 81.48 for red, 144.55 for green, 40.97 for blue."""
    corners = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    np.testing.assert_allclose(luma(corners)[0], [16, 235, 81.481, 144.553, 40.966], atol=1e-3)


def test_the_border_is_left_out() -> None:
    clean = picture(64, 64)
    spoilt = clean.copy()
    spoilt[:3], spoilt[:, -3:] = 0, 255
    assert measure(clean, spoilt, border_px=3).psnr_db == math.inf > measure(clean, spoilt, border_px=2).psnr_db
    with pytest.raises(ValueError, match="are fewer than the 16 px"):
        measure(clean, clean, border_px=28)


def test_worse_is_worse_and_windows_are_those_of_the_paper() -> None:
    clean = picture(96, 96)
    found = [measure(clean, noisy(clean, deviation)) for deviation in (2, 10, 40)]
    for field, rises in (("psnr_db", False), ("psnr_y_db", False), ("ssim", False), ("ssim_y", False), ("gmsd", True)):
        values = [getattr(one, field) for one in found]
        assert values == sorted(values, reverse=not rises), field
    grey, other = np.full((32, 32), 100.0), np.full((32, 32), 120.0)
    assert ssim(grey, other) == pytest.approx((2 * 100 * 120 + 2.55**2) / (100**2 + 120**2 + 2.55**2), rel=1e-6), "flat pictures leave the term of means"


def test_gmsd_of_an_edge() -> None:
    """An edge of 90 levels that vanishes: at half the size two columns of 20 have a gradient of 90, so their similarity is c / (90^2 + c); elsewhere it is 1."""
    edge, flat, similarity = np.zeros((40, 40)), np.zeros((40, 40)), np.ones((20, 20))
    edge[:, 20:] = 90
    similarity[:, 9:11] = 170 / (90**2 + 170)
    assert gmsd(edge, flat) == pytest.approx(float(np.std(similarity))) and gmsd(flat, flat) == 0


@pytest.mark.parametrize("name", BASELINES)
def test_filters_keep_sizes_and_flat_pictures(name: str) -> None:
    for size in ((48, 60), (32, 33)):
        clean = picture(*size)
        found = BASELINES[name](clean)
        assert found.shape == clean.shape and found.dtype == np.uint8
    if name != "CLAHE":
        flat = np.full((32, 32, 3), 77, dtype=np.uint8)
        assert np.array_equal(BASELINES[name](flat), flat)


def test_filters_do_what_they_are_for() -> None:
    ramp = np.broadcast_to(np.linspace(60, 190, 96)[None, :, None], (96, 96, 3)).astype(np.uint8)
    spoilt = noisy(ramp, 20)
    for name in ("non-local means", "Wiener"):
        assert psnr_db(ramp, BASELINES[name](spoilt)) > psnr_db(ramp, spoilt) + 3, name
    dark = (picture(96, 96) * 0.2).astype(np.uint8)
    assert BASELINES["CLAHE"](dark).mean() > 1.5 * dark.mean()


def test_memory_is_that_of_the_work() -> None:
    with PeakMemory() as memory:
        np.ones(40_000_000, dtype=np.uint8).sum()
    assert memory.peak_bytes is None or 35e6 < memory.peak_bytes < 90e6
