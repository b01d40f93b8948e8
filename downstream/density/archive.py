"""Archives of image files, format LCLD version 3, little-endian.

    magic "LCLD" | version u8 | three zeros | model u64 | length of the index u32 | CRC-32 u32 of what is before and of the index | index | chunks

    files --take apart--> rests, planes --> chunks: planes by the model in one stream | a plane by PNG, WebP or lzma | bytes by lzma, or as they are

`model` begins the SHA-256 of the model's file, 0 where no chunk needs one. The index is JSON, deflated: how to put each file together, and of each chunk its length, the CRC-32 of its bytes,
and the CRC-32 of what it decodes to. An encoder decodes every chunk of the model before it writes it; one that would not come back, or that is not smaller, is stored by the plain coders.
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from downstream.density.archive_index import Chunk, CodingConfig, Entry, Index, Piece, Where, check_name, pack_index, unpack_index
from downstream.density.chain import Chain
from downstream.density.model_file import TrainedDensity
from downstream.density.pictures import Parts, Planes, join, put_together, split, take_apart
from downstream.density.plain import pack, pack_bytes, unpack, unpack_bytes
from downstream.density.tiles import MAX_TILES, Coded, TileCoder

MAGIC, VERSION = b"LCLD", 3
HEADER = struct.Struct("<4sB3xQI")
CRC = struct.Struct("<I")
PROBED_TILES, TRIED_TILES = 8, 128  # of a stream of more tiles than the second, so many are tried before all are
PROBE_MARGIN = 1.1
LARGER_TILES = 4  # than the images that the model was trained on: attention takes memory by the fourth power of a side
MAX_CALL_PX = 1 << 18  # of the tiles of one call of the network
MAX_LEVEL_PX = 1 << 23  # of these for all steps, for which a schedule of each pixel takes 56 bytes a channel

Plane = UInt8[np.ndarray, "_ _ _"]  # height, width, channels
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Archive:
    model: int
    index: Index
    payloads: tuple[memoryview, ...]
    damaged: Mapping[int, str]
    """Of the chunks that are not whole, what is wrong with them."""
    overhead_bytes: int
    """Header and index."""

    @property
    def lost(self) -> dict[str, str]:
        """Files of damaged chunks, with what is wrong with the first of these."""
        return {entry.name: self.damaged[min(bad)] for entry in self.index.entries if (bad := entry.needs & self.damaged.keys())}


# Writing


class Writer:
    def __init__(self, coder: TileCoder, coding: CodingConfig) -> None:
        self.coder, self.coding = coder, coding
        self.chunks: list[Chunk] = []
        self.payloads: list[bytes] = []
        self._waiting: list[tuple[Plane, list[Where], int]] = []
        self._waiting_px = 0

    def add_bytes(self, data: bytes) -> int:
        """The chunk that holds them."""
        packed = pack_bytes(data)
        kind, payload = ("compressed", packed) if len(packed) < len(data) else ("stored", data)
        return self._chunk(kind, payload, content=data)

    def add_plane(self, plane: Plane, *, picture: bool, advance: Advance) -> list[Where]:
        """Where its pieces will be, which is known when `finish` was called."""
        settings, tile_px = self.coder.chain.settings, self.coder.tile_px
        rows = max(1, self.coding.chunk_px // (plane.shape[1] * tile_px)) * tile_px
        places: list[Where] = []
        for number, top in enumerate(range(0, plane.shape[0], rows)):
            piece = plane[top : top + rows]
            places.append((-1, -1))
            if picture and plane.shape[2] == settings.channels and int(piece.max()) < settings.levels and self.coder.num_tiles(piece.shape) <= MAX_TILES:
                self._waiting.append((piece, places, number))
                self._waiting_px += piece.shape[0] * piece.shape[1]
                if self._waiting_px >= self.coding.chunk_px:
                    self.finish(advance)
            else:
                places[number] = (self._plain(piece), 0)
        return places

    def finish(self, advance: Advance) -> None:
        """Codes the planes that wait for a stream to be full."""
        waiting, self._waiting, self._waiting_px = self._waiting, [], 0
        if not waiting:
            return
        pieces = [piece for piece, _, _ in waiting]
        plain = [pack(piece) for piece in pieces]
        found = self._stream(pieces, sum(len(data) for _, data in plain), advance)
        if found is not None:
            payload, seed_words = found
            chunk = self._chunk("model", payload, content=b"".join(piece.tobytes() for piece in pieces), pieces=pieces, seed_words=seed_words)
            for number, (_, places, place) in enumerate(waiting):
                places[place] = (chunk, number)
        else:
            for (kind, data), (piece, places, place) in zip(plain, waiting, strict=True):
                places[place] = (self._chunk(kind, data, content=piece.tobytes(), pieces=[piece]), 0)

    def _stream(self, pieces: Sequence[Plane], plain_bytes: int, advance: Advance) -> tuple[bytes, int] | None:
        """The model's stream and its seed words, where it comes back and is smaller than plain coders; of a long one of which that cannot be hoped, nothing is tried but some tiles."""
        pixels = sum(piece.shape[0] * piece.shape[1] for piece in pieces)
        if sum(self.coder.num_tiles(piece.shape) for piece in pieces) > TRIED_TILES and self.coder.probe(pieces, PROBED_TILES) * pixels > PROBE_MARGIN * 8 * plain_bytes:
            advance(2 * pixels)
            return None
        coded = self.coder.encode(pieces, advance)
        payload = coded.words.astype("<u4").tobytes()
        return (payload, coded.seed_words) if len(payload) < plain_bytes and _comes_back(self.coder, coded, pieces, advance) else None

    def _plain(self, piece: Plane) -> int:
        kind, data = pack(piece)
        return self._chunk(kind, data, content=piece.tobytes(), pieces=[piece])

    def _chunk(self, kind: str, payload: bytes, *, content: bytes, pieces: Sequence[Plane] = (), seed_words: int = 0) -> int:
        self.chunks.append(chunk_of(kind, payload, content=content, pieces=pieces, seed_words=seed_words))
        self.payloads.append(payload)
        return len(self.chunks) - 1


def chunk_of(kind: str, payload: bytes, *, content: bytes, pieces: Sequence[Plane] = (), seed_words: int = 0) -> Chunk:
    shapes = tuple(Piece(height=one.shape[0], width=one.shape[1], channels=one.shape[2]) for one in pieces)
    return Chunk(kind=kind, length=len(payload), crc=zlib.crc32(payload), content_length=len(content), content_crc=zlib.crc32(content), pieces=shapes, seed_words=seed_words)


def _comes_back(coder: TileCoder, coded: Coded, pieces: Sequence[Plane], advance: Advance) -> bool:
    try:
        found = coder.decode(coded, [piece.shape for piece in pieces], advance)
    except ValueError:
        return False
    return all(np.array_equal(ours, theirs) for ours, theirs in zip(found, pieces, strict=True))


def tile_coder(trained: TrainedDensity, coding: CodingConfig) -> TileCoder:
    """Raises ValueError for tiles that take more memory than any picture should."""
    tile_px, size_px = coding.tile_px or trained.settings.size_px, trained.settings.size_px
    if tile_px > LARGER_TILES * size_px:
        raise ValueError(f"coding.tile_px is {tile_px}, and the model was trained on {size_px} px: take at most {LARGER_TILES * size_px}")
    call_px = coding.at_once * tile_px * tile_px
    if call_px > MAX_CALL_PX or call_px * coding.steps > MAX_LEVEL_PX:
        raise ValueError(
            f"coding.at_once {coding.at_once} of {tile_px} x {tile_px} px and {coding.steps} steps take too much memory: at most {MAX_CALL_PX} px at once, {MAX_LEVEL_PX} times steps"
        )
    return TileCoder(Chain(trained, coding.steps), tile_px, coding.at_once)


def encode(files: Iterable[tuple[str, bytes]], trained: TrainedDensity, coding: CodingConfig, *, advance: Advance = lambda pixels: None) -> bytes:
    """The archive of these files, by name; each is taken when the one before is coded, or waits for a stream to be full. `advance` counts pixels as they are coded and decoded again.

    Raises ValueError for names that a decoder would refuse, and for a model whose context comes from an encoder and that was loaded without it.
    """
    trained.check_sight()
    writer = Writer(tile_coder(trained, coding), coding)
    drafts = []
    for name, data in files:
        check_name(name)
        parts = take_apart(data)
        if parts is None:
            drafts.append((name, "file", writer.add_bytes(data), None, [], []))
            continue
        planes = split(parts.samples, parts.layout)
        pictures = [writer.add_plane(single, picture=True, advance=advance) for plane in planes.pictures for single in _for_channels(plane, trained.settings.channels)]
        others = [writer.add_plane(plane, picture=False, advance=advance) for plane in planes.others]
        drafts.append((name, parts.form, writer.add_bytes(parts.rest), parts.layout, pictures, others))
    writer.finish(advance)
    entries = tuple(
        Entry(name=name, form=form, rest=rest, layout=layout, pictures=tuple(map(tuple, pictures)), others=tuple(map(tuple, others)))
        for name, form, rest, layout, pictures, others in drafts
    )
    index = Index(coding=coding, torch=torch.__version__, entries=entries, chunks=tuple(writer.chunks))
    model = trained.hash if any(chunk.kind == "model" for chunk in writer.chunks) else 0
    index.check(model)
    return front_of(index, model) + b"".join(writer.payloads)


def front_of(index: Index, model: int) -> bytes:
    """Header and index."""
    body = pack_index(index)
    header = HEADER.pack(MAGIC, VERSION, model, len(body))
    return header + CRC.pack(zlib.crc32(body, zlib.crc32(header))) + body


def _for_channels(plane: Plane, channels: int) -> list[Plane]:
    """Colours as planes of their own for a model of grey images."""
    return [np.ascontiguousarray(plane[..., band : band + 1]) for band in range(plane.shape[2])] if channels == 1 else [plane]


# Reading


def read(data: bytes) -> Archive:
    """Index and chunks, damaged ones named. Raises ValueError for bytes that are no archive, of another version, with a damaged index, or with more behind a whole archive."""
    if data[:4] != MAGIC:
        raise ValueError("this is no archive of lcl density (it does not begin with LCLD)")
    start = HEADER.size + CRC.size
    if len(data) < start:
        raise ValueError(f"the file is cut short: {len(data)} bytes, and the header alone has {start}")
    _, version, model, length = HEADER.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"the file has version {version} of the format, this program reads {VERSION}: use the program that wrote it, or a newer one")
    body = data[start : start + length]
    if len(body) != length:
        raise ValueError(f"the file is cut short: its index has {length} bytes, {len(body)} are there")
    if CRC.unpack_from(data, HEADER.size)[0] != zlib.crc32(body, zlib.crc32(data[: HEADER.size])):
        raise ValueError("the file is damaged (the checksum of its index does not fit): take another copy")
    index = unpack_index(body, model)
    whole, place, payloads, damaged = memoryview(data), start + length, [], {}
    for number, chunk in enumerate(index.chunks):
        payload = whole[place : place + chunk.length]
        if zlib.crc32(payload) != chunk.crc:
            damaged[number] = f"chunk {number} of {len(index.chunks)} is {'cut short' if len(payload) < chunk.length else 'damaged'}: take another copy"
        payloads.append(payload)
        place += chunk.length
    if place < len(data) and not damaged:  # else bytes were added in the middle, and what is before them is whole
        raise ValueError(f"the file is too long: {len(data)} bytes, {place} were written; the first {place} of them are the archive")
    return Archive(model, index, tuple(payloads), damaged, start + length)


def decode(archive: Archive, trained: TrainedDensity | None, *, advance: Advance = lambda pixels: None) -> Iterator[tuple[str, bytes | ValueError]]:
    """The files by name, one after the other; in place of one that is lost what is wrong: a chunk that is damaged or does not decode to what was written.

    Raises ValueError before the first for another model than the one that wrote them. A stream of several files stays in memory until the last of them.
    """
    if archive.model and (trained is None or trained.hash != archive.model):
        raise ValueError(f"the archive needs the model {archive.model:016x} (--model), and " + ("none is given" if trained is None else f"this one is {trained.hash:016x}"))
    coder = tile_coder(trained, archive.index.coding) if archive.model and trained is not None else None
    streams = [chunk for chunk in archive.index.chunks if chunk.kind == "model"]
    if trained is not None and any(piece.channels != trained.settings.channels for chunk in streams for piece in chunk.pieces):
        raise ValueError(f"the archive's index says what no encoder writes (planes of other than the model's {trained.settings.channels} channels in its streams)")
    last = {chunk: number for number, entry in enumerate(archive.index.entries) for chunk in entry.needs}
    contents: dict[int, Content | ValueError] = {}
    for number, entry in enumerate(archive.index.entries):
        for chunk in sorted(entry.needs - contents.keys()):
            contents[chunk] = _content(archive, chunk, coder, advance)
        found = _file(entry, contents)
        for chunk in [chunk for chunk in contents if last[chunk] == number]:
            del contents[chunk]
        yield entry.name, found


Content = bytes | list[Plane]


def _content(archive: Archive, number: int, coder: TileCoder | None, advance: Advance) -> Content | ValueError:
    """What a chunk decodes to, or why it does not."""
    chunk, payload = archive.index.chunks[number], archive.payloads[number]
    if number in archive.damaged:
        return ValueError(archive.damaged[number])
    shapes = [(one.height, one.width, one.channels) for one in chunk.pieces]
    try:
        if chunk.is_bytes:
            content: Content = unpack_bytes(payload, length=chunk.content_length) if chunk.kind == "compressed" else bytes(payload)
        elif chunk.kind == "model":
            assert coder is not None
            content = coder.decode(Coded(np.frombuffer(payload, dtype="<u4").astype(np.uint32), chunk.seed_words), shapes, advance)
        else:
            height, width, channels = shapes[0]
            content = [unpack(chunk.kind, payload, height=height, width=width, channels=channels)]
        if _crc(content) != chunk.content_crc:
            raise ValueError("another checksum")
    except ValueError as error:
        return ValueError(
            _other_numbers(number, archive.index, error) if chunk.kind == "model" else f"chunk {number} does not decode to what was written ({error}): take another copy"
        )
    return content


def _crc(content: Content) -> int:
    """As of all planes after one another."""
    found = 0
    for part in [content] if isinstance(content, bytes) else content:
        found = zlib.crc32(part if isinstance(part, bytes) else np.ascontiguousarray(part), found)
    return found


def _other_numbers(number: int, index: Index, error: ValueError) -> str:
    return (
        f"chunk {number} does not decode to what was written ({error}), though its bytes are whole: this machine or PyTorch {torch.__version__} finds other numbers than PyTorch {index.torch} did; "
        "decode with that version, on a machine like the one that wrote it"
    )


def _file(entry: Entry, contents: Mapping[int, Content | ValueError]) -> bytes | ValueError:
    """The file, or why it is lost: its first chunk that does not decode, or a rest that no encoder writes."""
    for chunk in sorted(entry.needs):
        if isinstance(wrong := contents[chunk], ValueError):
            return wrong
    rest = contents[entry.rest]
    if entry.layout is None:
        return rest
    pictures, others = (tuple(np.concatenate([contents[chunk][piece] for chunk, piece in plane], axis=0) for plane in group) for group in (entry.pictures, entry.others))
    try:
        return put_together(Parts(entry.form, rest, join(Planes(pictures, others), entry.layout), entry.layout))
    except ValueError as error:
        return error


def sizes(archive: Archive) -> Mapping[str, int]:
    """Bytes by what they are: the model's streams, plain planes, other bytes, header and index; and of the streams the initial bits."""
    found = {"model": 0, "plain": 0, "bytes": 0, "overhead": archive.overhead_bytes, "initial": 0}
    for chunk in archive.index.chunks:
        kind = chunk.kind if chunk.kind == "model" else "bytes" if chunk.is_bytes else "plain"
        found[kind] += chunk.length
        found["initial"] += 4 * chunk.seed_words
    return found
