"""Entry point: the files of an archive.

    python downstream/density_decode.py photos.lcld photos --model density.safetensors
"""

import logging
from pathlib import Path

import torch
import tyro

from downstream.density.archive import decode, read
from downstream.density.model_file import load_density
from downstream.density.pictures import same_file
from lcl.core.config import config, run_command
from lcl.core.files import open_aside
from lcl.core.logs import progress_bar, set_up_logging

log = logging.getLogger(__name__)


@config
class DecodeConfig:
    input: tyro.conf.Positional[str]
    """The archive (.lcld)."""
    output: tyro.conf.Positional[str] = ""
    """Folder for the files; by default one beside the archive, of its name without .lcld."""
    model: str = ""
    """The density model that wrote it; not needed for an archive that `lcl density info` says to need none."""


def main(settings: DecodeConfig) -> None:
    set_up_logging()
    torch.set_num_threads(1)  # as the encoder computed
    source = Path(settings.input)
    target = Path(settings.output) if settings.output else source.with_suffix("")
    if target.is_file():
        raise ValueError(f"{target} is a file: give a folder for the files")
    archive = read(source.read_bytes())
    trained = load_density(Path(settings.model)) if settings.model else None
    with progress_bar("decoding", total=sum(piece.height * piece.width for chunk in archive.index.chunks if chunk.kind == "model" for piece in chunk.pieces)) as bar:
        files = decode(archive, trained, advance=lambda pixels: bar.advance(pixels))
    others = [name for name, data in files if (target / name).exists() and not same_file(data, (target / name).read_bytes())]
    if others:
        raise ValueError(f"{target} holds {len(others)} other files of these names ({', '.join(others[:5])}): give another folder")
    for name, data in files:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_aside(path) as file:
            file.write(data)
    log.info("%s: %d files, each as it was", target, len(files))


if __name__ == "__main__":
    run_command(DecodeConfig, main, description=__doc__.splitlines()[0])
