"""Crops: inside the image, of the area that was asked for, and cut where they say."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from lcl.crops import Box, Crop, centre_box, cut, grid_within, random_box, random_box_of_same_aspect

sides = st.integers(1, 3000)
scales = st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted).map(tuple)
seeds = st.integers(0, 1 << 32)


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def is_inside(box: Box) -> bool:
    return -1e-9 <= box[0] < box[2] <= 1 + 1e-9 and -1e-9 <= box[1] < box[3] <= 1 + 1e-9


@given(sides, sides, scales, seeds)
def test_a_random_box_lies_inside_with_area_and_aspect_as_asked(width: int, height: int, scale: tuple[float, float], seed: int) -> None:
    box = random_box(width, height, scale, np.random.default_rng(seed))
    assert is_inside(box)
    w, h = (box[2] - box[0]) * width, (box[3] - box[1]) * height
    centred = abs(box[0] + box[2] - 1) < 1e-9 and abs(box[1] + box[3] - 1) < 1e-9
    if min(w, h) > 100 and not centred:  # in whole pixels, so that small ones are only nearly so
        assert scale[0] - 0.02 < area(box) < scale[1] + 0.02 and 0.73 < w / h < 1.36


@pytest.mark.parametrize(("width", "height"), [(1000, 100), (100, 1000), (300, 200), (200, 300), (1000, 990), (40, 30)])
def test_where_nothing_fits_the_box_is_torchvisions(width: int, height: int) -> None:
    from torchvision.transforms import RandomResizedCrop

    scale = (1.0, 1.0) if 0.75 <= width / height <= 4 / 3 else (0.9, 1.0)
    found = Counter(random_box(width, height, scale, np.random.default_rng(seed)) for seed in range(50))
    top, left, h, w = RandomResizedCrop.get_params(torch.zeros(3, height, width), list(scale), [3 / 4, 4 / 3])
    box, _ = found.most_common(1)[0]
    assert np.abs(np.array(box) * [width, height, width, height] - [left, top, left + w, top + h]).max() <= 1, "torchvision's is in whole pixels"


def measures(boxes: np.ndarray) -> list[np.ndarray]:
    """Area, logarithm of the aspect, left and top of boxes in pixels."""
    left, top, right, bottom = boxes.T
    return [(right - left) * (bottom - top) / (320 * 240), np.log((right - left) / (bottom - top)), left / 320, top / 240]


def test_random_boxes_are_spread_as_torchvisions() -> None:
    """Means and deviations of area, aspect and place over many boxes of an image that most of them fit."""
    from torchvision.transforms import RandomResizedCrop

    generator, image = np.random.default_rng(0), torch.zeros(1, 240, 320)
    torch.manual_seed(0)
    ours = np.array([random_box(320, 240, (0.1, 0.6), generator) for _ in range(3000)]) * [320, 240, 320, 240]
    params = np.array([RandomResizedCrop.get_params(image, [0.1, 0.6], [3 / 4, 4 / 3]) for _ in range(3000)], float)
    theirs = np.stack([params[:, 1], params[:, 0], params[:, 1] + params[:, 3], params[:, 0] + params[:, 2]], axis=1)
    for one, other in zip(measures(ours), measures(theirs), strict=True):
        assert abs(one.mean() - other.mean()) < 5 * other.std() * math.sqrt(2 / 3000) and one.std() == pytest.approx(other.std(), rel=0.08)


@given(scales, seeds)
def test_a_box_of_the_same_aspect_keeps_it(scale: tuple[float, float], seed: int) -> None:
    box = random_box_of_same_aspect(scale, np.random.default_rng(seed))
    assert is_inside(box) and scale[0] - 1e-9 < area(box) < scale[1] + 1e-9 and box[2] - box[0] == pytest.approx(box[3] - box[1])


@given(sides, sides)
def test_the_centre_is_the_largest_square_in_the_middle(width: int, height: int) -> None:
    box = centre_box(width, height)
    assert is_inside(box) and (box[2] - box[0]) * width == pytest.approx((box[3] - box[1]) * height) == pytest.approx(min(width, height))
    assert box[0] + box[2] == pytest.approx(1) and box[1] + box[3] == pytest.approx(1)


@given(st.floats(1, 20_000), st.floats(1, 20_000), st.sampled_from([8, 14, 16]), st.integers(1, 1024))
@example(11487.0, 10765.0, 8, 78)
def test_a_grid_keeps_within_its_patches(width: float, height: float, patch_px: int, max_patches: int) -> None:
    rows, columns = grid_within(width, height, patch_px=patch_px, max_patches=max_patches)
    assert rows >= 1 and columns >= 1 and rows * columns <= max_patches
    own = (max(1, round(height / patch_px)), max(1, round(width / patch_px)))
    if own[0] * own[1] <= max_patches and width * height <= max_patches * patch_px**2:
        assert (rows, columns) == own, "an image that fits keeps its size"
    assert width == height or rows == columns or (rows > columns) == (height > width), "a wide image has a wide grid"
    if min(rows, columns) >= 8:  # a side is up to half a patch off by rounding, and the longer one loses two more at most
        assert rows / columns == pytest.approx(height / width, rel=0.3) and rows * columns >= 0.75 * min(max_patches, own[0] * own[1])


def gradient(width: int, height: int) -> Image.Image:
    """Red is the column and green the row."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))


@given(scales, seeds, st.sampled_from([(2, 2), (3, 1), (1, 4)]), st.booleans())
def test_a_crop_shows_its_box(scale: tuple[float, float], seed: int, grid: tuple[int, int], mirrored: bool) -> None:
    """The image says where each pixel was: means are the box's centre, the ends its edges, and the order is kept. Of a box with fewer pixels than the crop,
    neighbours may show the same one, for 8 bits hold whole numbers."""
    box = random_box(200, 120, scale, np.random.default_rng(seed))
    shown = np.asarray(cut(gradient(200, 120), Crop(box, grid, mirrored), patch_px=8), float)
    assert shown.shape == (8 * grid[0], 8 * grid[1], 3)
    left, top, right, bottom = np.array(box) * [200, 120, 200, 120]
    assert shown[..., 0].mean() == pytest.approx((left + right - 1) / 2, abs=1.5) and shown[..., 1].mean() == pytest.approx((top + bottom - 1) / 2, abs=1.5)
    columns, rows = shown[..., 0].mean(axis=0)[:: -1 if mirrored else 1], shown[..., 1].mean(axis=1)
    assert columns[-1] - columns[0] == pytest.approx((right - left) * (1 - 1 / (8 * grid[1])), abs=4)
    for ordered, pixels in ((columns, right - left), (rows, bottom - top)):
        steps = np.diff(ordered)
        assert (steps > 0).all() if pixels > 2 * len(ordered) else (steps >= 0).all()


def test_crops_move_about() -> None:
    generator = np.random.default_rng(0)
    crops = [Crop(random_box(200, 120, (0.2, 0.5), generator), (2, 2)) for _ in range(50)]
    centres = np.array([np.asarray(cut(gradient(200, 120), crop, patch_px=8), int).mean(axis=(0, 1))[:2] for crop in crops])
    assert np.ptp(centres, axis=0).min() > 20
