"""Degradations: seeded, in their units, and each with the law that it stands for."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from downstream.photographs import to_tensor, window
from downstream.restore.degradations import (
    DegradationConfig,
    Task,
    blur,
    defocus_kernel,
    degrade,
    degrade_window,
    downscale,
    gaussian_noise,
    grain,
    haze,
    jpeg,
    low_light,
    motion_kernel,
    rain,
    reach_px,
    shot_noise,
)
from tests.test_image_codec import picture


def photo(height: int = 96, width: int = 120) -> torch.Tensor:
    return torch.from_numpy(picture(height, width)).permute(2, 0, 1).float() / 255


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def grey(value: float, side: int = 200) -> torch.Tensor:
    return torch.full((3, side, side), value)


@pytest.mark.parametrize("task", get_args(Task))
def test_each_is_seeded_and_leaves_its_input_alone(task: Task) -> None:
    settings, x = DegradationConfig(tasks=(task,)), photo()
    before = x.clone()
    one, again, other = (degrade(x, settings, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(x, before) and torch.equal(one.pixels, again.pixels) and not torch.equal(one.pixels, other.pixels)
    assert one.task == task and one.pixels.shape == x.shape and float((one.pixels - x).abs().max()) > 0.01
    levels = one.pixels * 255
    assert torch.allclose(levels, levels.round(), atol=1e-3) and levels.min() >= 0 and levels.max() <= 255, "as an 8-bit file has it"
    assert (one.noise_255 > 0) == (task == "noise")


def test_noise_has_the_deviation_it_says() -> None:
    for deviation in (5.0, 50.0):
        assert float((gaussian_noise(grey(0.5), rng(), deviation_255=deviation) - 0.5).std()) * 255 == pytest.approx(deviation, rel=0.02)
        shared = grain(grey(0.5), rng(), deviation_255=deviation) - 0.5
        assert float(shared.std()) * 255 == pytest.approx(deviation, rel=0.02) and torch.equal(shared[0], shared[1]) and torch.equal(shared[0], shared[2])
    for value in (0.2, 0.8):
        counts = shot_noise(grey(value), rng(), photons=50.0)
        assert float(counts.mean()) == pytest.approx(value, rel=0.01) and float(counts.var()) == pytest.approx(value / 50, rel=0.03)
    found = degrade(grey(0.5), DegradationConfig(noise_255=(20.0, 20.0), tasks=("noise",)), rng())
    assert found.noise_255 == 20 and float((found.pixels - 0.5).std()) * 255 == pytest.approx(20, rel=0.02)


def test_blurs_keep_flat_pictures_and_spread_a_point_over_their_length() -> None:
    for blurred in (blur(grey(0.3, 64), motion_kernel(9.0, 30.0)), blur(grey(0.3, 64), defocus_kernel(4.0))):
        torch.testing.assert_close(blurred, grey(0.3, 64), atol=1e-5, rtol=0)
    point = torch.zeros(3, 65, 65)
    point[:, 32, 32] = 1
    level, upright = (blur(point, motion_kernel(9.0, angle))[0] for angle in (0.0, 90.0))
    assert int((level.sum(dim=0) > 0.05).sum()) == 9 and int((level.sum(dim=1) > 1e-4).sum()) == 1
    torch.testing.assert_close(upright, level.T, atol=1e-5, rtol=0)
    slanted = blur(point, motion_kernel(21.0, 45.0))[0]
    assert slanted[27, 37] > 0.01 and slanted[27, 27] < 1e-4, "counter-clockwise from the horizontal"
    disc = blur(point, defocus_kernel(4.0))[0]
    assert float(disc.sum()) == pytest.approx(1, abs=1e-4) and disc[32, 36] > 0.005 and disc[32, 38] < 1e-5
    shifted = blur(torch.roll(point, (3, 5), dims=(1, 2)), defocus_kernel(4.0))[0]
    torch.testing.assert_close(shifted, torch.roll(disc, (3, 5), dims=(0, 1)), atol=1e-5, rtol=0)


def test_rain_only_brightens_and_grows_with_its_numbers() -> None:
    def fallen(**changed: float) -> torch.Tensor:
        return rain(grey(0.3), rng(), **{"streaks": 300.0, "length_px": 20.0, "width_px": 1.0, "angle_degrees": 10.0, "brightness": 0.5} | changed)

    light = fallen()
    assert light.min() > 0.3 - 1e-5 and light.max() <= 0.3 + 0.7 * 1.0
    assert float((fallen(streaks=900.0) - 0.3).mean()) > 2 * float((light - 0.3).mean()) > 0.001
    assert float((fallen(brightness=0.9) - 0.3).mean()) > float((light - 0.3).mean())
    assert torch.equal(light[0], light[1]), "rain is grey"
    upright = (fallen(angle_degrees=0.0) - 0.3)[0]
    assert float(upright.diff(dim=0).abs().mean()) < 0.5 * float(upright.diff(dim=1).abs().mean()), "streaks run along the vertical"


def test_low_light_haze_and_scale_follow_their_formulas() -> None:
    x = photo()
    torch.testing.assert_close(low_light(x, rng(), gain=0.25, gamma=2.0, noise_255=0.0), 0.25 * x**2)
    assert float((low_light(grey(0.5), rng(), gain=1.0, gamma=1.0, noise_255=3.0) - 0.5).std()) * 255 == pytest.approx(3, rel=0.03)
    hazy = haze(x, rng(), depth=2.0, airlight=0.9)
    t = (hazy - 0.9) / (x - 0.9)
    known = (x - 0.9).abs() > 0.05
    assert float(t[known].min()) > np.exp(-2.0) - 0.01 and float(t[known].max()) < 1.01
    torch.testing.assert_close(haze(grey(0.9, 50), rng(), depth=2.0, airlight=0.9), grey(0.9, 50))
    torch.testing.assert_close(downscale(grey(0.4, 50), factor=3.0), grey(0.4, 50), atol=1e-5, rtol=0)
    losses = [float((downscale(x, factor=factor) - x).square().mean()) for factor in (2.0, 4.0)]
    assert 0 < losses[0] < losses[1]
    errors = [float((jpeg(x, quality=quality) - x).square().mean()) for quality in (90, 30, 5)]
    assert errors == sorted(errors) and errors[0] > 0


@pytest.mark.parametrize("task", ["motion_blur", "defocus", "downscale", "haze", "mixed"])
def test_a_part_is_what_it_is_in_the_degraded_photograph(task: Task) -> None:
    """Of parts at corners, edges and inside; by the same draws. `reach_px` is enough for the farthest strengths, and no more than a few times what is needed."""
    settings = DegradationConfig(tasks=(task,), mixed_parts=("motion_blur", "downscale"))
    pixels = picture(150, 170)
    reach = reach_px(settings)
    for seed, corner in enumerate(((0, 0), (118, 138), (57, 61), (5, 100), (60, 64))):
        part = window(pixels, corner, (32, 32), margin_px=reach)
        whole = degrade(to_tensor(pixels), settings, rng(seed)).pixels[:, corner[0] : corner[0] + 32, corner[1] : corner[1] + 32]
        torch.testing.assert_close(degrade_window(part, settings, rng(seed)).pixels, whole, atol=1e-6, rtol=0)
    alone = degrade(to_tensor(window(pixels, (57, 61), (32, 32)).pixels), settings, rng(2)).pixels
    middle = degrade(to_tensor(pixels), settings, rng(2)).pixels[:, 57:89, 61:93]
    assert float(((alone - middle).abs() > 1 / 256).any(dim=0).float().mean()) > 0.05, "a crop that is degraded by itself is another"
    assert reach_px(DegradationConfig(tasks=("rain", "noise", "jpeg", "haze"))) == 0


def test_mixed_does_two_of_its_parts() -> None:
    settings = DegradationConfig(tasks=("mixed",), mixed_parts=("noise", "low_light"), low_light_gain=(0.2, 0.2), low_light_noise_255=(0.0, 0.0), noise_255=(10.0, 10.0))
    found = degrade(grey(0.5), settings, rng()).pixels
    assert float(found.mean()) == pytest.approx(0.2 * 0.5**1.5, rel=0.6) and 0.2 < float(found.std()) * 255 < 4


def test_ranges_are_checked() -> None:
    with pytest.raises(ValueError, match="degradations.jpeg_quality goes from 40 down to 10"):
        replace(DegradationConfig(), jpeg_quality=(40.0, 10.0)).check()
    DegradationConfig().check()
