"""Entry point: decodes an archive and writes nothing: whether every file comes back, and, beside the originals, whether it is the same.

    python downstream/density_verify.py photos.lcld --model density.safetensors --against photos
"""

import logging
from pathlib import Path

import torch
import tyro

from downstream.density.archive import decode, read
from downstream.density.model_file import load_density
from downstream.density.pictures import same_file
from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging

log = logging.getLogger(__name__)


@config
class VerifyConfig:
    input: tyro.conf.Positional[str]
    """The archive (.lcld)."""
    model: str = ""
    """The density model that wrote it."""
    against: str = ""
    """Folder of the files that went in, or the one file."""


def main(settings: VerifyConfig) -> None:
    set_up_logging()
    torch.set_num_threads(1)  # as the encoder computed
    archive = read(Path(settings.input).read_bytes())
    files = decode(archive, load_density(Path(settings.model)) if settings.model else None)
    if settings.against:
        other = Path(settings.against)
        paths = {name: other if other.is_file() else other / name for name, _ in files}
        different = [name for name, data in files if not (paths[name].is_file() and same_file(data, paths[name].read_bytes()))]
        if different:
            raise ValueError(f"{len(different)} of {len(files)} files differ from {other}: {', '.join(different[:5])}")
    print(f"{settings.input}: {len(files)} files come back" + (f", the same as in {settings.against}" if settings.against else ""))


if __name__ == "__main__":
    run_command(VerifyConfig, main, description=__doc__.splitlines()[0])
