"""Where images to embed come from: the files below a folder, or the documents of shards. In units that are done one at a time.

    folder --> files of known endings, by name, some thousand a unit
    shards, selections --> a unit for each shard
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc

from lcl.core.document import Document, ImageSegment, from_members
from lcl.core.files import files_below
from lcl.core.images import ENDINGS, is_image_name
from lcl.core.selection import is_selection
from lcl.core.shards import Shard, find_shards, fingerprint_of, read_bytes, read_members


class Item(NamedTuple):
    """An image's bytes, its name in its source, and the source's: a folder's or a shard's."""

    id: str
    source: str
    data: bytes


@dataclass(frozen=True)
class Shown:
    """An image with what stands next to it: of a file nothing, of a document the texts before and behind it. Empty where there is none."""

    data: bytes
    page_url: str = ""
    alt: str = ""
    before: str = ""
    behind: str = ""


@dataclass(frozen=True)
class FileUnit:
    folder: Path
    names: tuple[str, ...]

    def __iter__(self) -> Iterator[Item]:
        return (Item(name, self.folder.name, (self.folder / name).read_bytes()) for name in self.names)


@dataclass(frozen=True)
class ShardUnit:
    shard: Shard

    def __iter__(self) -> Iterator[Item]:
        places = self.shard.catalogue(("offset", "length"))
        for offset, length in zip(places["offset"].to_pylist(), places["length"].to_pylist(), strict=True):
            document = _read_document(self.shard, offset, length)
            for number, image in enumerate(document.images):
                yield Item(f"{document.key}.{number:03d}", self.shard.path.stem, image.data)


class ImageFolder:
    """The images below a folder, at any depth, by their endings; `num_passed_over` counts the other files."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError if there is no image, or one whose name is no UTF-8."""
        self.folder = folder.resolve()
        files = sorted(path.relative_to(self.folder).as_posix() for path in files_below(self.folder))
        self.names = [name for name in files if is_image_name(name)]
        self.num_images, self.num_passed_over = len(self.names), len(files) - len(self.names)
        if not self.names:
            raise ValueError(f"--input {folder} holds neither images ({', '.join(sorted(ENDINGS))}) nor shards")
        if unnamed := [name for name in self.names if not _is_utf8(name)]:
            raise ValueError(f"{folder}: the name {unnamed[0]!r} is no UTF-8: rename the file")

    @cached_property
    def fingerprint(self) -> str:
        """Changes when a name or a size in bytes does; contents are not read for it."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(f"{name}\n{(self.folder / name).stat().st_size}\n".encode())
        return digest.hexdigest()[:16]

    def units(self, files_per_unit: int) -> list[FileUnit]:
        return [FileUnit(self.folder, tuple(self.names[at : at + files_per_unit])) for at in range(0, len(self.names), files_per_unit)]

    def show(self, row: Mapping[str, Any]) -> Shown:
        """The image of a row of features. Raises ValueError if it is not there any more."""
        path = self.folder / row["id"]
        if not path.is_file():
            raise ValueError(f"{path}: no such file; say with --input where the images are now")
        return Shown(path.read_bytes())


class ShardImages:
    """The images of shards and selections, in the order of shards, documents and pages."""

    num_passed_over = 0

    def __init__(self, folders: Sequence[Path]) -> None:
        """Raises ValueError as `find_shards` does."""
        self.shards = find_shards(folders)
        self.num_images = sum(pc.sum(shard.catalogue(("num_images",))["num_images"]).as_py() or 0 for shard in self.shards)
        self.fingerprint = fingerprint_of(self.shards)

    def units(self, files_per_unit: int) -> list[ShardUnit]:
        return [ShardUnit(shard) for shard in self.shards]

    def show(self, row: Mapping[str, Any]) -> Shown:
        """The image of a row of features, with its texts. Raises ValueError if it is not there any more."""
        key, _, number = row["id"].rpartition(".")
        for shard in self.shards:
            if shard.path.stem == row["source"]:
                places = shard.catalogue(("key", "offset", "length"))
                place = pc.index(places["key"], key).as_py()
                if place >= 0:
                    return _shown(_read_document(shard, places["offset"][place].as_py(), places["length"][place].as_py()), int(number))
        raise ValueError(f"no shard {row['source']} with document {key} is among --input; say there where the shards are now")


Source = ImageFolder | ShardImages


def open_source(inputs: Sequence[str]) -> Source:
    """One folder of images, or folders of shards and selections. Raises ValueError for another mixture, and for folders that hold neither."""
    folders = [Path(item) for item in inputs]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"--input {folder}: no such folder")
    with_shards = [is_selection(folder) or any(folder.glob("*.tar")) for folder in folders]
    if all(with_shards):
        return ShardImages(folders)
    if len(folders) > 1:
        raise ValueError(f"--input {folders[with_shards.index(False)]} holds no shards: give one folder of images (all below it are taken), or shards and selections only")
    return ImageFolder(folders[0])


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)  # what Python makes of other bytes in a file's name (PEP 383)


def _read_document(shard: Shard, offset: int, length: int) -> Document:
    try:
        return from_members(read_members(read_bytes(shard.tar, offset=offset, length=length)))
    except ValueError as error:
        raise ValueError(f"{shard.tar}, at byte {offset}: {error}") from error


def _shown(document: Document, number: int) -> Shown:
    places = [place for place, segment in enumerate(document.segments) if segment.kind == "image"]
    segment = document.segments[places[number]]
    assert isinstance(segment, ImageSegment)
    before = next((item.text for item in reversed(document.segments[: places[number]]) if item.kind == "text"), "")
    behind = next((item.text for item in document.segments[places[number] :] if item.kind == "text"), "")
    return Shown(segment.data, document.page_url, segment.metadata.alt, before, behind)
