"""Entry point: image files to one archive without loss, by a density model.

    python downstream/density_encode.py photos photos.lcld
    python downstream/density_encode.py scan.tif --model density.safetensors --coding.steps 64
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch
import tyro

from downstream.density.archive import MAGIC, encode, read, sizes
from downstream.density.archive_index import CodingConfig, check_names
from downstream.density.model_file import load_density
from downstream.density.pictures import split, take_apart
from lcl.core.config import config, run_command
from lcl.core.files import files_below, open_aside
from lcl.core.logs import progress_bar, set_up_logging
from lcl.core.shipped import DENSITY, or_shipped
from lcl.features import load_encoder

log = logging.getLogger(__name__)


@config
class EncodeConfig:
    input: tyro.conf.Positional[str]
    """A file, or a folder of them; files that are no pictures are kept as they are."""
    output: tyro.conf.Positional[str] = ""
    """The archive (.lcld); beside the input by default. One that is there is replaced, any other file is not."""
    model: str = ""
    """The density model, as train_density.py wrote it; empty: the one that comes with lcl, of photographs."""
    encoder: str = ""
    """The frozen encoder (checkpoint, run or export), for a model whose context comes from it; decoding needs none."""
    coding: CodingConfig = CodingConfig()


def main(settings: EncodeConfig) -> None:
    set_up_logging()
    torch.set_num_threads(1)  # sums in another order round otherwise
    source = Path(settings.input)
    source = source if source.name not in ("", "..") else source.resolve()  # so that an archive beside it has a name, and is not in it
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    paths = [source] if source.is_file() else list(files_below(source))
    if not paths:
        raise ValueError(f"{source} holds no files")
    target = Path(settings.output) if settings.output else source.with_name(source.name + ".lcld")
    if target.is_dir():
        raise ValueError(f"{target} is a folder: give the archive a name")
    if target.exists() and not target.read_bytes().startswith(MAGIC):
        raise ValueError(f"{target} is there and is no archive of lcl density: give another name (of several files, give their folder)")
    if target.resolve() in {path.resolve() for path in paths}:
        raise ValueError(f"{target} is an input: give the archive another place")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(target.parent, os.W_OK):  # before hours of coding
        raise ValueError(f"{target.parent} is not to be written to: give the archive another place")
    names = [path.name if source.is_file() else path.relative_to(source).as_posix() for path in paths]
    check_names(names)
    trained = load_density(or_shipped(settings.model, DENSITY), encoder=load_encoder(Path(settings.encoder)) if settings.encoder else None)

    def files() -> Iterator[tuple[str, bytes]]:
        """One after the other, so that a folder may be larger than the memory."""
        return ((name, path.read_bytes()) for name, path in zip(names, paths, strict=True))

    with progress_bar("coding, and decoding again", total=2 * sum(picture_px(data) for _, data in files())) as bar:
        data = encode(files(), trained, settings.coding, advance=lambda pixels: bar.advance(pixels))
    found, before = sizes(read(data)), sum(path.stat().st_size for path in paths)
    with open_aside(target) as file:
        file.write(data)
    if found["plain"] and not found["model"]:
        log.info(
            "nothing by the model: PNG, WebP or lzma make these no larger than it would (other pictures than it was trained on, too few steps, "
            "or too few pictures for its initial bits; it takes pictures of %d channels alone)", trained.settings.channels,
        )  # fmt: skip
    log.info(
        "%s: %d files, %s bytes instead of %s; %s by the model (%s of them initial bits), %s by plain coders, %s as they were, %s header and index", target, len(paths),
        *(f"{value:,}" for value in (len(data), before, found["model"], found["initial"], found["plain"], found["bytes"], found["overhead"])),
    )  # fmt: skip


def picture_px(data: bytes) -> int:
    parts = take_apart(data)
    return sum(plane.shape[0] * plane.shape[1] for plane in split(parts.samples, parts.layout).pictures) if parts is not None else 0


if __name__ == "__main__":
    run_command(EncodeConfig, main, description=__doc__.splitlines()[0])
