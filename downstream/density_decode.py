"""Entry point: the files of an archive, all that its whole chunks give.

    python downstream/density_decode.py photos.lcld photos
"""

import logging
from pathlib import Path

import torch
import tyro

from downstream.density.archive import decode, read
from downstream.density.archive_index import shown
from downstream.density.model_file import load_density
from downstream.density.pictures import same_file
from downstream.folders import check_writable
from lcl.core.config import config, run_command
from lcl.core.files import open_aside
from lcl.core.logs import progress_bar, set_up_logging
from lcl.core.shipped import DENSITY, or_shipped

log = logging.getLogger(__name__)


@config
class DecodeConfig:
    input: tyro.conf.Positional[str]
    """The archive (.lcld)."""
    output: tyro.conf.Positional[str] = ""
    """Folder for the files; by default one beside the archive, of its name without the ending, or for `photo.png.lcld` of a photo.png alone the archive's own."""
    model: str = ""
    """The density model that wrote it; empty: the one that comes with lcl, or none for an archive that needs none."""


def main(settings: DecodeConfig) -> None:
    set_up_logging()
    torch.set_num_threads(1)  # as the encoder computed
    source = Path(settings.input)
    archive = read(source.read_bytes())
    target = Path(settings.output) if settings.output else default_folder(source, [entry.name for entry in archive.index.entries])
    if target.is_file():
        raise ValueError(f"{target} is a file: give a folder for the files behind the archive's name")
    check_writable(target)
    trained = load_density(or_shipped(settings.model, DENSITY)) if settings.model or archive.model else None
    lost: list[str] = []
    with progress_bar("decoding", total=sum(piece.height * piece.width for chunk in archive.index.chunks if chunk.kind == "model" for piece in chunk.pieces)) as bar:
        for name, found in decode(archive, trained, advance=lambda pixels: bar.advance(pixels)):
            try:
                if isinstance(found, ValueError):
                    raise found
                write(target / name, found)
            except ValueError as error:
                lost.append(name)
                log.error("%s is not written: %s", shown(name), error)
    num = len(archive.index.entries)
    if lost:
        raise ValueError(f"{source}: {len(lost)} of {num} files are not written, their messages are above" + ("; every other one is as it was" if len(lost) < num else ""))
    log.info("%s: %d files, each as it was", target, num)


def default_folder(source: Path, names: list[str]) -> Path:
    """photos/ of photos.lcld; of photo.png.lcld that holds photo.png alone the folder that it lies in."""
    named = source.with_suffix("")
    return named.parent if names == [named.name] else named


def write(path: Path, data: bytes) -> None:
    """Raises ValueError where another file or a folder is there, or nothing can be written."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give another folder for the files")
    try:
        if path.exists() and not same_file(data, path.read_bytes()):
            raise ValueError(f"{path} is another file: give another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_aside(path) as file:
            file.write(data)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}): give another folder, or make room") from error


if __name__ == "__main__":
    run_command(DecodeConfig, main, description=__doc__.splitlines()[0])
