"""Pictures beside each other on one sheet, each under its label."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from downstream.origin_marks import Mark, saving_options
from lcl.core.files import open_aside

LABEL_PX, CELL_PX = 16, 256  # of a line of text; of a picture, at most

Row = Sequence[tuple[str, UInt8[np.ndarray, "height width 3"]]]


def draw_sheet(rows: Sequence[Row], path: Path, mark: Mark | None) -> None:
    """Writes a PNG, or what else the name ends in: .jpg, .webp."""
    images = [_joined([_cell(label, pixels) for label, pixels in row], across=True) for row in rows]
    whole = _joined(images, across=False)
    form = Image.registered_extensions()[path.suffix]
    with open_aside(path) as file:
        whole.save(file, form, quality=90, **({} if mark is None else saving_options(form, mark)))


def _cell(label: str, pixels: UInt8[np.ndarray, "height width 3"]) -> Image.Image:
    image = Image.fromarray(pixels)
    image.thumbnail((CELL_PX, CELL_PX))
    cell = Image.new("RGB", (CELL_PX + 4, image.height + LABEL_PX), "white")
    cell.paste(image, (0, LABEL_PX))
    ImageDraw.Draw(cell).text((2, 2), label, fill="black")
    return cell


def _joined(images: Sequence[Image.Image], *, across: bool) -> Image.Image:
    widths, heights = [image.width for image in images], [image.height for image in images]
    whole = Image.new("RGB", (sum(widths), max(heights)) if across else (max(widths), sum(heights)), "white")
    place = 0
    for image in images:
        whole.paste(image, (place, 0) if across else (0, place))
        place += image.width if across else image.height
    return whole
