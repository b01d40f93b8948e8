"""Attention maps of some images, as PNG files and one HTML page that holds them.

    image --cut as in evaluation--> patch tokens --> weights of the pooling query, for each head --> heat over the image
"""

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from pydantic import Field

from lcl.core.config import config
from lcl.core.files import files_below, folder_aside, open_aside
from lcl.core.html_page import data_url, page_at, page_template
from lcl.core.images import ENDINGS, is_image_name
from lcl.core.rejected import Rejected
from lcl.core.shipped import ENCODER, or_shipped
from lcl.features import Weights, load_encoder
from lcl.rows import ImageInput
from lcl.use.image_features import VisionModel, patch_tokens
from lcl.use.pooling_attention import pooling_weights

SIDE_PX = 176   # of the pictures' longer side, at least
HEAT = "inferno"
MIX = 0.6       # of the heat in the picture; the rest is the image in grey


@config
class AttentionMapsConfig:
    images: Annotated[tuple[str, ...], Field(min_length=1)]
    """Image files, and folders of them."""
    output: str
    """The HTML file to write; the PNG files go into a folder of its name beside it."""
    encoder: str = ""
    """A run folder (its newest checkpoint), one checkpoint (step-N), a folder of `lcl export`, or a file of published weights; empty: the encoder that comes with lcl."""
    weights: Weights = "model"
    """Weights of the last step, or their moving average."""
    num_images: Annotated[int, Field(ge=1)] = 24
    """So many are shown, evenly spread over those that were given."""


@dataclass(frozen=True)
class AttentionMap:
    """What the encoder sees of an image, and how much each head's query takes of each patch (each sums to 1)."""

    pixels: UInt8[np.ndarray, "height width 3"]
    weights: Float[np.ndarray, "heads rows columns"]


def write_attention_page(settings: AttentionMapsConfig) -> tuple[Path, int, int]:
    """Writes the page and the PNG files; returns its path, how many images it shows, and how many were given.

    Raises ValueError for an output that is no HTML file or another one, for paths that hold no image, and as `load_encoder` does.
    """
    path = Path(settings.output)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--output {path} is no HTML file: give a name that ends in .html")
    folder, again = path.with_suffix(""), page_at(path).exists()
    if folder.exists() and not again:
        raise ValueError(f"{folder} is there, and the pictures would go into a folder of this name: give another --output, or remove it")
    files = find_images(settings.images)
    model = load_encoder(or_shipped(settings.encoder, ENCODER), weights=settings.weights)
    chosen = [files[place] for place in np.linspace(0, len(files) - 1, min(settings.num_images, len(files))).round().astype(int)]
    inputs = [read_input(file, model) for file in chosen]  # all of them before anything is written
    cards = []
    with folder_aside(folder) as aside:
        for number, (file, image) in enumerate(zip(chosen, inputs, strict=True), 1):
            (found,) = attention_maps(model, [image])
            cards.append(_card(f"{number:04d}", file, found, aside))
        if again:
            shutil.rmtree(folder, ignore_errors=True)  # the pictures of the page that is written again
    page = page_template(Path(__file__).with_name("attention_page.html")).render(
        cards=cards, num_given=len(files), encoder=settings.encoder, folder=folder.name, num_latents=model.settings.image_latents
    )
    with open_aside(path) as out:
        out.write(page.encode("utf-8", "replace"))
    return path, len(cards), len(files)


def find_images(paths: Sequence[str]) -> list[Path]:
    """The files, and the images below the folders, each in the order of names. Raises ValueError for a path that is neither, and for a folder without one."""
    found: list[Path] = []
    for path in map(Path, paths):
        inside = [file for file in files_below(path) if is_image_name(file.name)] if path.is_dir() else [path]
        if not path.exists() or not inside:
            raise ValueError(f"--images {path} is no image, nor a folder with some ({', '.join(sorted(ENDINGS))})")
        found += inside
    return found


def read_input(file: Path, model: VisionModel) -> ImageInput:
    """Raises ValueError for a file that is no image."""
    try:
        return model.settings.vision.evaluation_input(file.read_bytes())
    except Rejected as rejected:
        raise ValueError(f"{file} cannot be read as an image ({rejected})") from rejected


@torch.no_grad()
def attention_maps(model: VisionModel, inputs: Sequence[ImageInput]) -> list[AttentionMap]:
    """The attention of the pooling query over what the encoder takes of some images."""
    weights = pooling_weights(model.pool_project, *patch_tokens(model, inputs)).float().cpu().numpy()
    patch_px = model.settings.vision.tower().patch_px
    return [
        AttentionMap(
            _as_picture(image, patch_px), rearrange(own[:, : image.grid[0] * image.grid[1]], "heads (rows columns) -> heads rows columns", rows=image.grid[0])
        )
        for image, own in zip(inputs, weights, strict=True)
    ]  # fmt: skip


def _as_picture(image: ImageInput, patch_px: int) -> UInt8[np.ndarray, "height width 3"]:
    if image.values.ndim == 3:
        return image.values
    rows, _ = image.grid
    return rearrange(image.values, "(rows columns) (ph pw channels) -> (rows ph) (columns pw) channels", rows=rows, ph=patch_px, pw=patch_px)


def heat_over(pixels: UInt8[np.ndarray, "height width 3"], weights: Float[np.ndarray, "rows columns"], *, size: tuple[int, int]) -> Image.Image:
    """The image in grey under the weights as colours, from black (0) to the brightest (their largest), one block for each patch; width and height in px."""
    grey = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB").resize(size, Image.Resampling.BICUBIC), np.float64)
    colours = matplotlib.colormaps[HEAT](weights / weights.max())[:, :, :3]
    heat = np.asarray(Image.fromarray(np.rint(255 * colours).astype(np.uint8)).resize(size, Image.Resampling.NEAREST), np.float64)
    return Image.fromarray(np.rint((1 - MIX) * grey + MIX * heat).astype(np.uint8))


def _card(number: str, file: Path, found: AttentionMap, folder: Path) -> dict[str, Any]:
    """The pictures of an image for the template, also written as files."""
    height, width = found.pixels.shape[:2]
    scale = max(1, -(-SIDE_PX // max(height, width)))
    size = (scale * width, scale * height)
    mean = found.weights.mean(axis=0)
    pictures = [{"name": "seen", "image": Image.fromarray(found.pixels).resize(size, Image.Resampling.NEAREST), "weights": None}]
    pictures.append({"name": "mean", "image": heat_over(found.pixels, mean, size=size), "weights": mean})
    pictures += [{"name": f"head-{head}", "image": heat_over(found.pixels, own, size=size), "weights": own} for head, own in enumerate(found.weights, 1)]
    shown = []
    for picture in pictures:
        buffer = io.BytesIO()
        picture["image"].save(buffer, "PNG")
        with open_aside(folder / f"{number}-{picture['name']}.png") as out:
            out.write(buffer.getvalue())
        weights = picture["weights"]
        shown.append({"name": picture["name"], "data": data_url("image/png", buffer.getvalue()), **({} if weights is None else _spread(weights))})
    return {"file": file.name, "number": number, "size": size, "pictures": shown, "num_patches": mean.size}


def _spread(weights: Float[np.ndarray, "rows columns"]) -> dict[str, float]:
    """The largest weight, and over how many patches the weights spread: exp of their entropy, from 1 to all."""
    positive = weights[weights > 0].astype(np.float64)
    return {"largest": float(weights.max()), "patches": float(np.exp(-(positive * np.log(positive)).sum()))}
