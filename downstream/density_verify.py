"""Entry point: decodes an archive and writes nothing: whether every file comes back, and, beside the originals, whether it is the same.

    python downstream/density_verify.py photos.lcld --against photos
"""

import logging
from pathlib import Path

import torch
import tyro

from downstream.density.archive import decode, read
from downstream.density.archive_index import shown
from downstream.density.model_file import load_density
from downstream.density.pictures import same_file
from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.core.shipped import DENSITY, or_shipped

log = logging.getLogger(__name__)


@config
class VerifyConfig:
    input: tyro.conf.Positional[str]
    """The archive (.lcld)."""
    model: str = ""
    """The density model that wrote it; empty: the one that comes with lcl, or none for an archive that needs none."""
    against: str = ""
    """Folder of the files that went in, or the one file."""


def main(settings: VerifyConfig) -> None:
    set_up_logging()
    torch.set_num_threads(1)  # as the encoder computed
    archive, other = read(Path(settings.input).read_bytes()), Path(settings.against)
    if not other.exists():
        raise ValueError(f"--against {other}: no such file or folder")
    trained = load_density(or_shipped(settings.model, DENSITY)) if settings.model or archive.model else None
    lost, different = [], []
    for name, found in decode(archive, trained):
        if isinstance(found, ValueError):
            lost.append(name)
            log.error("%s is lost: %s", shown(name), found)
            continue
        path = other if other.is_file() else other / name
        if settings.against and not (path.is_file() and same_file(found, path.read_bytes())):
            different.append(name)
            log.error("%s differs from the one in %s" if path.is_file() else "%s is not in %s", shown(name), other)
    num = len(archive.index.entries)
    if lost or different:
        raise ValueError(f"{settings.input}: of {num} files {len(lost)} are lost and {len(different)} differ or are missing there, their messages are above")
    print(f"{settings.input}: {num} files come back" + (f", the same as in {settings.against}" if settings.against else ""))


if __name__ == "__main__":
    run_command(VerifyConfig, main, description=__doc__.splitlines()[0])
