"""Entry point: compressed pictures back to PNG.

    python downstream/codec_decode.py photo.lclc photo.png
    python downstream/codec_decode.py photo.lclc photo.png --model codec.safetensors
"""

import io
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import torch
import tyro
from PIL import Image
from pydantic import Field

from downstream.codec.container import unpack
from downstream.codec.image_codec import TILE_PX, decode, tile_of
from downstream.codec.model_file import TrainedCodec, load_codec
from downstream.folders import Made, convert, names_folder, pairs_of
from downstream.origin_marks import Mark, saving_options
from downstream.tensor_file import model_file
from lcl.core.config import config, run_command
from lcl.core.files import sha256_of
from lcl.core.logs import set_up_logging
from lcl.core.shipped import CODEC, or_shipped


@config
class DecodeConfig:
    input: tyro.conf.Positional[str]
    """A compressed picture (.lclc), or a folder of them."""
    output: tyro.conf.Positional[str] = ""
    """File or folder for the pictures; beside the input by default."""
    model: str = ""
    """The codec that wrote them; empty: the one that comes with lcl."""
    tile_px: Annotated[int, Field(ge=0, multiple_of=64)] = TILE_PX
    """Side of the tiles in which large pictures are computed, to bound memory; 0: at once."""
    threads: Annotated[int, Field(ge=1)] = 1


def main(settings: DecodeConfig) -> None:
    set_up_logging()
    torch.set_num_threads(settings.threads)
    model = model_file(or_shipped(settings.model, CODEC), made_by="lcl train codec")
    trained = load_codec(model)
    if settings.output and Path(settings.input).is_file() and not names_folder(settings.output) and Path(settings.output).suffix.lower() != ".png":
        raise ValueError(f"{settings.output}: pictures are written as PNG; give a name that ends in .png, or a folder: one that is there, or with a slash behind it")
    pairs = pairs_of(Path(settings.input), settings.output, endings=(".lclc",), ending=".png")
    convert(pairs, partial(expand, trained=trained, settings=settings, model_sha256=sha256_of(model)), title="decoding", may_replace=lambda there: False)


def expand(path: Path, *, trained: TrainedCodec, settings: DecodeConfig, model_sha256: str) -> Made:
    data = path.read_bytes()
    header, _ = unpack(data)
    pixels = decode(trained, data, tile_px=tile_of((header.height, header.width), settings.tile_px))
    buffer = io.BytesIO()
    options = saving_options("PNG", Mark("algorithmicallyEnhanced", model_sha256, sha256(data).hexdigest(), "semantic refinement")) if header.semantic else {}
    Image.fromarray(pixels if header.channels == 3 else pixels[:, :, 0]).save(buffer, "PNG", **options)
    return Made(buffer.getvalue(), f"{header.width} x {header.height}{', marked: its latents were fitted to what an encoder sees' * header.semantic}")


if __name__ == "__main__":
    run_command(DecodeConfig, main, description=__doc__.splitlines()[0])
