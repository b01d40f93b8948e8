"""Entry point: what is in an archive, and whether its bytes are whole.

    python downstream/density_info.py photos.lcld
"""

from pathlib import Path

import tyro

from downstream.density.archive import Archive, Entry, read, sizes
from downstream.density.archive_index import shown
from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging


@config
class InfoConfig:
    input: tyro.conf.Positional[str]
    """The archive (.lcld)."""


def main(settings: InfoConfig) -> None:
    set_up_logging()
    data = Path(settings.input).read_bytes()
    archive = read(data)
    coding, found, lost = archive.index.coding, sizes(archive), archive.lost
    model = f"model {archive.model:016x}, {coding.steps} steps, PyTorch {archive.index.torch}" if archive.model else "no model needed"
    print(
        f"{settings.input}: {len(archive.index.entries)} files, {len(data):,} bytes, {model}, {f'{len(archive.damaged)} of {len(archive.index.chunks)} chunks damaged' if archive.damaged else 'whole'}"
    )
    print(
        f"  {found['model']:,} bytes by the model ({found['initial']:,} of them initial bits), {found['plain']:,} by plain coders, {found['bytes']:,} as they were, "
        f"{found['overhead']:,} header and index"
    )
    for entry in archive.index.entries:
        print(f"  {shown(entry.name)}: {lost.get(entry.name) or describe(entry, archive)}")
    if lost:
        raise ValueError(f"{settings.input}: {len(lost)} of {len(archive.index.entries)} files are lost, as their lines say; lcl density decode writes the others")


def describe(entry: Entry, archive: Archive) -> str:
    if entry.layout is None:
        chunk = archive.index.chunks[entry.rest]
        return f"kept as it was, {f'{chunk.length:,} for ' if chunk.kind == 'compressed' else ''}{chunk.content_length:,} bytes"
    kinds = sorted({archive.index.chunks[chunk].kind for plane in (*entry.pictures, *entry.others) for chunk, _ in plane})
    layout = entry.layout
    return f"{entry.form}, {layout.width} x {layout.height}, {layout.bands} bands of {8 * layout.bytes} bits, by {', '.join(kinds)}"


if __name__ == "__main__":
    run_command(InfoConfig, main, description=__doc__.splitlines()[0])
