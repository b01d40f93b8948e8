"""The index of an archive: how to put each file together, and what each chunk holds. Read from bytes that anybody may have written, whose checksums fit.

    bytes --inflate, at most 32 MiB--> JSON --ranges of single values--> Index --check: what fits together--> files and chunks that can be decoded

A chunk is at most as large as its bytes can make it: no allocation follows from a number alone.
"""

import json
import re
import zlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import FailFast, Field

from downstream.density.pictures import MAX_PIXELS, PNG_MODES, Channels, Layout, Side
from downstream.density.plain import MOST_PIXELS, WEBP_SIDE
from lcl.core.config import config, from_dict, to_dict

MAX_INDEX_BYTES = 1 << 25
MAX_FILES = 1 << 15  # whose entries and chunks take less than that
MAX_NAME_BYTES = 255  # of a file in a folder, on Linux and most others
MAX_KEYS, KEY = 16, re.compile(r"[a-z_]{1,32}")  # of an object in the index
INFLATION = {"compressed": 1 << 13, "lzma": 1 << 13, "png": 1 << 11}  # at the most: of bytes alike lzma makes a 7088th (14 bits of 0.022 for 273 bytes), deflate a 1032nd

Crc = Annotated[int, Field(ge=0, lt=1 << 32)]
Length = Annotated[int, Field(ge=0, lt=1 << 40)]
Number = Annotated[int, Field(ge=0, lt=1 << 32)]


@config
class CodingConfig:
    steps: Annotated[int, Field(ge=1, le=4096)] = 32
    """T: more steps make smaller files, and take as many times longer."""
    tile_px: Annotated[int, Field(ge=0, le=4096)] = 0
    """Side of the tiles, up to four times that of the images that the model was trained on; 0: of these."""
    at_once: Annotated[int, Field(ge=1, le=4096)] = 1
    """Tiles of one call of the network: faster, and as many times the initial bits."""
    chunk_px: Annotated[int, Field(ge=1, le=1 << 26)] = 1 << 20
    """Pixels of a stream, about: what damage can take with it, and what the initial bits are paid for."""


@config
class Piece:
    height: Side
    width: Side
    channels: Channels

    @property
    def pixels(self) -> int:
        return self.height * self.width


@config
class Chunk:
    kind: Literal["model", "png", "webp", "lzma", "compressed", "stored"]
    """compressed, stored: bytes, not planes."""
    length: Length
    crc: Crc
    content_length: Length
    """Of what it decodes to, in bytes; and its CRC-32."""
    content_crc: Crc
    pieces: Annotated[tuple[Piece, ...], FailFast()] = ()
    seed_words: Number = 0

    @property
    def is_bytes(self) -> bool:
        return self.kind in ("compressed", "stored")

    def check(self, coding: CodingConfig) -> None:
        """Raises ValueError for what a chunk of its kind and length cannot hold."""
        num, pixels = len(self.pieces), [piece.pixels for piece in self.pieces]
        if num != 0 if self.is_bytes else num == 0 if self.kind == "model" else num != 1:
            raise ValueError(f"{num} pieces in a chunk of kind {self.kind}")
        if not self.is_bytes and sum(piece.pixels * piece.channels for piece in self.pieces) != self.content_length:
            raise ValueError(f"{self.content_length} bytes, another size than that of their pieces")
        if self.kind == "stored" and (self.length, self.crc) != (self.content_length, self.content_crc):
            raise ValueError("stored bytes with two lengths or checksums")
        if self.content_length > INFLATION.get(self.kind, self.content_length) * self.length:
            raise ValueError(f"{self.content_length} bytes in {self.length} of {self.kind}")
        most = MOST_PIXELS if self.kind in ("png", "webp") else MAX_PIXELS
        if max(pixels, default=0) > most or self.kind == "webp" and max(self.pieces[0].height, self.pieces[0].width) > WEBP_SIDE:
            raise ValueError(f"a piece of {self.pieces[0].width} x {self.pieces[0].height} pixels in a chunk of kind {self.kind}")
        if sum(pixels[:-1]) >= coding.chunk_px:
            raise ValueError(f"a stream of {sum(pixels)} pixels, and coding.chunk_px is {coding.chunk_px}")
        if self.kind == "model" and (self.length % 4 or 4 * self.seed_words > self.length) or self.kind != "model" and self.seed_words:
            raise ValueError(f"{self.seed_words} words of initial bits in {self.length} bytes of a chunk of kind {self.kind}")


Where = tuple[Number, Number]
"""A chunk, and a piece in it."""
Places = Annotated[tuple[Annotated[tuple[Where, ...], Field(min_length=1), FailFast()], ...], FailFast()]


@config
class Entry:
    name: Annotated[str, Field(max_length=4096)]
    form: Literal["file", "png", "tiff"]
    rest: Number
    """Chunk of the file, or of the file without its samples."""
    layout: Layout | None = None
    pictures: Places = ()
    """Of each plane its pieces, from above."""
    others: Places = ()

    @property
    def places(self) -> Iterator[Where]:
        return (where for plane in (*self.pictures, *self.others) for where in plane)

    @property
    def needs(self) -> set[int]:
        """Its chunks."""
        return {self.rest, *(chunk for chunk, _ in self.places)}

    def check(self, chunks: Sequence[Chunk]) -> None:
        """Raises ValueError for planes that do not make its samples. Its pieces must be there."""
        if self.form == "file" or self.layout is None:
            if self.form != "file" or self.layout is not None or self.pictures or self.others:
                raise ValueError("planes without a layout, or of a file that was not taken apart")
            return
        self.layout.check()
        if self.form == "png" and (self.layout.bands * self.layout.bytes not in PNG_MODES or self.layout.kind != "unsigned"):
            raise ValueError(f"a PNG of {self.layout.bands} bands of {self.layout.bytes} bytes")
        found = []
        for group in (self.pictures, self.others):
            planes = [[chunks[chunk].pieces[piece] for chunk, piece in plane] for plane in group]
            for plane in planes:
                if sum(piece.height for piece in plane) != self.layout.height or {(piece.width, piece.channels) for piece in plane} != {(self.layout.width, plane[0].channels)}:
                    raise ValueError(f"pieces that make no plane of {self.layout.width} x {self.layout.height} pixels")
            found.append(sum(plane[0].channels for plane in planes))
        if tuple(found) != self.layout.num_bands or any(chunks[plane[0][0]].pieces[plane[0][1]].channels != 1 for plane in self.others):
            raise ValueError(f"planes of {found[0]} and {found[1]} bands, and the layout has {self.layout.num_bands[0]} and {self.layout.num_bands[1]}")


@config
class Index:
    coding: CodingConfig
    torch: Annotated[str, Field(pattern=r"^[\w.+-]{1,64}$")]
    """Version of PyTorch that computed the streams."""
    entries: Annotated[tuple[Entry, ...], Field(max_length=MAX_FILES), FailFast()]
    chunks: Annotated[tuple[Chunk, ...], FailFast()]

    def check(self, model: int) -> None:
        """Raises ValueError, of one line, unless every chunk can be what it says and each piece is part of one file. `model`: as the header names it."""
        check_names([entry.name for entry in self.entries])
        for number, chunk in enumerate(self.chunks):
            with _inside(f"chunk {number}"):
                chunk.check(self.coding)
        if (model != 0) != any(chunk.kind == "model" for chunk in self.chunks):
            raise ValueError("chunks of a model, and the header names none" if model == 0 else "the header names a model, and no chunk is of one")
        _used_once((entry.rest for entry in self.entries), (number for number, chunk in enumerate(self.chunks) if chunk.is_bytes), what="bytes of chunk")
        pieces = ((number, piece) for number, chunk in enumerate(self.chunks) for piece in range(len(chunk.pieces)))
        _used_once((where for entry in self.entries for where in entry.places), pieces, what="chunk and piece")
        for entry in self.entries:
            with _inside(f"the file {entry.name!r}"):
                entry.check(self.chunks)


def pack_index(index: Index) -> bytes:
    """JSON, deflated. Raises ValueError for more than a decoder reads."""
    text = json.dumps(to_dict(index), separators=(",", ":")).encode()
    if len(text) > MAX_INDEX_BYTES:
        raise ValueError(f"the archive's index would have {len(text)} bytes, more than {MAX_INDEX_BYTES}: put the files in several archives, or raise --coding.chunk-px")
    return zlib.compress(text, 9)


def unpack_index(data: bytes, model: int) -> Index:
    """The inverse. Raises ValueError, of one line, for what no encoder writes."""
    try:
        inflating = zlib.decompressobj()
        text = inflating.decompress(data, MAX_INDEX_BYTES)
        if not inflating.eof or inflating.unused_data:
            raise ValueError(f"it has more than {MAX_INDEX_BYTES} bytes, or no end")
        index = from_dict(Index, json.loads(text, object_pairs_hook=_object), origin="values")
        index.check(model)
    except (zlib.error, ValueError, RecursionError) as error:
        raise ValueError(f"the archive's index says what no encoder writes ({error})") from error
    return index


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for names that lead out of a folder or that no folder can hold, and for two that cannot be in one."""
    if len(names) > MAX_FILES:
        raise ValueError(f"{len(names)} files, and an archive holds {MAX_FILES}: put them in several")
    for name in names:
        check_name(name)
    for before, after in pairwise(sorted(PurePosixPath(name).parts for name in names)):
        if after[: len(before)] == before:  # whatever begins with a path stands right behind it
            raise ValueError(f"two files called {'/'.join(before)!r}" if after == before else f"{'/'.join(before)!r} is a file and a folder")


def check_name(name: str) -> None:
    path, encoded = PurePosixPath(name), name.encode(errors="ignore")
    if "\\" in name:
        raise ValueError(f"a file called {name!r}: a backslash parts folders on other systems; rename it")
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"a file called {name!r}, which lies outside of its folder")
    if str(path) != name or "\0" in name or encoded.decode() != name or max(map(len, encoded.split(b"/"))) > MAX_NAME_BYTES:
        raise ValueError(f"a file called {name!r}, which is no name of UTF-8 that a folder can hold: rename it")


def shown(name: str) -> str:
    """A name for a terminal, which control characters would move or rename."""
    return name if name.isprintable() else repr(name)


def _used_once(used: Iterable[Hashable], there: Iterable[Hashable], *, what: str) -> None:
    left = set(there)
    for one in used:
        if one not in left:
            raise ValueError(f"{what} {one} is not there, or used twice")
        left.remove(one)
    if left:
        raise ValueError(f"{what} {min(left)} is part of no file")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the index, with so few and short keys that a complaint about them is a line."""
    found = dict(pairs)
    if not len(pairs) == len(found) <= MAX_KEYS or not all(KEY.fullmatch(key) for key in found):
        raise ValueError("an object with keys that are none of ours")
    return found


@contextmanager
def _inside(what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
