"""Entry point: what is in a compressed picture, and whether it is whole; with its codec, whether it decodes.

    python downstream/codec_info.py photo.lclc
    python downstream/codec_info.py compressed --model codec.safetensors
"""

import logging
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from downstream.codec.container import HEADER_BYTES, unpack
from downstream.codec.image_codec import TILE_PX, decode, tile_of
from downstream.codec.model_file import TrainedCodec, load_codec
from lcl.core.config import config, run_command
from lcl.core.files import files_below
from lcl.core.logs import progress_bar, set_up_logging

log = logging.getLogger(__name__)


@config
class InfoConfig:
    input: tyro.conf.Positional[str]
    """A compressed picture (.lclc), or a folder of them."""
    model: str = ""
    """The codec that wrote them: they are decoded too."""
    tile_px: Annotated[int, Field(ge=0, multiple_of=64)] = TILE_PX
    """Side of the tiles in which large pictures are decoded, to bound memory; 0: at once."""


def main(settings: InfoConfig) -> None:
    set_up_logging()
    source = Path(settings.input)
    files = [source] if source.is_file() else [path for path in files_below(source) if path.suffix == ".lclc"]
    if not files:
        raise ValueError(f"{source} is no compressed picture (.lclc) and holds none")
    trained = load_codec(Path(settings.model)) if settings.model else None
    failed = 0
    with progress_bar("looking", total=len(files)) as bar:
        for path in files:
            try:
                print(f"{path}: {describe(path, trained, tile_px=settings.tile_px)}")
            except (ValueError, OSError) as error:
                failed += 1
                log.error("%s: %s", path, error)
            bar.advance()
    if failed:
        raise ValueError(f"{failed} of {len(files)} files are not whole; their messages are above")


def describe(path: Path, trained: TrainedCodec | None, *, tile_px: int) -> str:
    data = path.read_bytes()
    header, _ = unpack(data)
    kind = {1: "grey", 3: "colour"}[header.channels]
    said = f"{header.width} x {header.height} {kind}, {len(data):,} bytes ({HEADER_BYTES} of them header), {8 * len(data) / (header.width * header.height):.3f} bits per pixel"
    said += f", level {header.level:g}, {header.profile}{', semantic' * header.semantic}, model {header.model:016x}, whole"
    if trained is None:
        return said
    decode(trained, data, tile_px=tile_of((header.height, header.width), tile_px))
    return f"{said}, decodes"


if __name__ == "__main__":
    run_command(InfoConfig, main, description=__doc__.splitlines()[0])
