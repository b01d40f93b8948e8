"""Archives that are damaged or forged: the same files, or one line that says what is wrong; never another exception, nor more memory than they can hold."""

import json
import lzma
import resource
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from downstream import density_decode, density_encode, density_info, density_verify
from downstream.density import archive as archives
from downstream.density import archive_index
from downstream.density.archive import decode, encode, read, sizes, tile_coder
from downstream.density.archive_index import MAX_INDEX_BYTES, CodingConfig, check_names
from downstream.density.chain import Chain
from downstream.density.model_file import TrainedDensity, load_density, save_density
from downstream.density.pictures import put_together, same_file, take_apart
from downstream.density.plain import PACKERS, unpack, unpack_bytes
from lcl.core.config import to_dict
from tests.test_density_codec import FAST, decoded, files_of_all_kinds, made_model, pixels_of, png

ROOM = 1 << 29  # bytes that reading and decoding small archives may take beyond what is there before


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "density.safetensors"
    save_density(made_model("colour"), path)
    return path


@pytest.fixture(scope="module")
def trained(model: Path) -> TrainedDensity:
    return load_density(model)


@contextmanager
def by_the_model(channels: int) -> Iterator[None]:
    """Whatever plain coders could do: its weights are random."""
    with pytest.MonkeyPatch.context() as patch:
        pack = archives.pack
        patch.setattr(archives, "pack", lambda piece: ("lzma", b"x" * 10_000_000) if piece.shape[2] == channels else pack(piece))
        yield


FILES = [(name, files_of_all_kinds()[name]) for name in ("profile.png", "notes.txt", "deep.tif", "text.png")] + [("flat/webp.png", png(np.full((30, 40, 1), 7, np.uint8))), ("empty.bin", b"")]


@pytest.fixture(scope="module")
def archive(trained: TrainedDensity) -> bytes:
    """Of all kinds of chunks; the colours of two files are in one stream."""
    with by_the_model(3):
        data = encode(FILES, trained, FAST)
    found = read(data)
    assert {chunk.kind for chunk in found.index.chunks} >= {"model", "webp", "compressed", "stored"} and not found.damaged
    assert sum(any(found.index.chunks[chunk].kind == "model" for chunk in entry.needs) for entry in found.index.entries) == 2
    return data


@pytest.fixture(scope="module")
def whole(archive: bytes, trained: TrainedDensity) -> dict[str, bytes]:
    files = dict(decoded(read(archive), trained))
    assert list(files) == [name for name, _ in FILES] and files["deep.tif"] == dict(FILES)["deep.tif"] and files["notes.txt"] == dict(FILES)["notes.txt"]
    return files


@contextmanager
def bounded(num_bytes: int = ROOM) -> Iterator[None]:
    """No more address space than there is and so much: an allocation beyond it fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def forged(index: Any, payloads: bytes = b"", *, header_model: int) -> bytes:
    """With right checksums. `index` as JSON values, or as text."""
    body = zlib.compress(index if isinstance(index, bytes) else json.dumps(index).encode())
    front = struct.pack("<4sB3xQI", b"LCLD", archives.VERSION, header_model, len(body))
    return front + struct.pack("<I", zlib.crc32(body, zlib.crc32(front))) + body + payloads


def outcome(data: bytes, trained: TrainedDensity) -> dict[str, bytes | ValueError] | ValueError:
    """The files, or the one line."""
    try:
        found: Any = dict(decode(read(data), trained))
    except ValueError as error:
        found = error
    for one in found.values() if isinstance(found, dict) else [found]:
        assert not isinstance(one, ValueError) or (str(one) and "\n" not in str(one) and len(str(one)) < 6000), one
    return found


# Forged


def at(index: Any, *path: Any) -> Any:
    for key in path:
        index = index[key]
    return index


def setting(*path: Any, to: Any) -> Callable[[Any], None]:
    def change(index: Any) -> None:
        at(index, *path[:-1])[path[-1]] = to

    return change


def of_kind(index: Any, kind: str) -> dict[str, Any]:
    return next(chunk for chunk in index["chunks"] if chunk["kind"] == kind)


HOSTILE: dict[str, tuple[Callable[[Any], object], str]] = {
    "no pieces": (lambda index: of_kind(index, "webp").update(pieces=[]), "0 pieces in a chunk of kind webp"),
    "no pieces in a stream": (lambda index: of_kind(index, "model").update(pieces=[]), "0 pieces in a chunk of kind model"),
    "bytes with pieces": (lambda index: of_kind(index, "stored").update(pieces=[{"height": 1, "width": 1, "channels": 1}]), "1 pieces in a chunk of kind stored"),
    "no height": (lambda index: of_kind(index, "webp")["pieces"][0].update(height=0), "pieces.0.height"),
    "two channels": (lambda index: of_kind(index, "model")["pieces"][0].update(channels=2), "pieces.0.channels"),
    "other channels": (lambda index: of_kind(index, "model")["pieces"][0].update(channels=1), "another size than that of their pieces"),
    "2^40 pixels": (lambda index: of_kind(index, "webp").update(pieces=[{"height": 1 << 20, "width": 1 << 20, "channels": 1}], content_length=1 << 40), "content_length"),
    "2^36 pixels": (lambda index: of_kind(index, "webp").update(pieces=[{"height": 1 << 18, "width": 1 << 18, "channels": 1}], content_length=1 << 36), "a piece of 262144 x 262144 pixels"),
    "a long stream": (lambda index: of_kind(index, "model").update(pieces=[{"height": 1 << 14, "width": 1 << 14, "channels": 3}] * 9, content_length=27 << 28), "and coding.chunk_px is"),
    "much of little": (lambda index: of_kind(index, "compressed").update(content_length=1 << 39), "of compressed"),
    "two lengths": (lambda index: of_kind(index, "stored").update(content_length=1), "two lengths"),
    "initial bits of nothing": (lambda index: of_kind(index, "model").update(seed_words=1 << 30), "words of initial bits"),
    "half a word": (lambda index: of_kind(index, "model").update(length=of_kind(index, "model")["length"] - 1), "words of initial bits"),
    "shift": (setting("entries", 2, "layout", "shift", to=10**12), "layout.shift"),
    "least": (setting("entries", 2, "layout", "least", to=1 << 40), "samples of 2 bytes from"),
    "bands": (setting("entries", 2, "layout", "bands", to=60_000), "planes of 1 and 1 bands"),
    "colours": (setting("entries", 2, "layout", "colours", to=[3, 3]), "pictures of 6 bands"),
    "more pixels than a picture": (lambda index: index["entries"][2]["layout"].update(height=1 << 20, width=1 << 20), "more than 268435456"),
    "bytes": (setting("entries", 2, "layout", "bytes", to=3), "layout.bytes"),
    "long bytes": (setting("entries", 2, "layout", "bytes", to=16), "whole numbers of 16 bytes"),
    "a form without a layout": (setting("entries", 2, "layout", to=None), "planes without a layout"),
    "a PNG of eight bytes": (lambda index: index["entries"][2].update(form="png") or index["entries"][2]["layout"].update(bytes=8), "a PNG of 1 bands of 8 bytes"),
    "steps": (setting("coding", "steps", to=10**9), "coding.steps"),
    "tiles": (setting("coding", "tile_px", to=4096), "the model was trained on 16 px"),
    "all at once": (setting("coding", "at_once", to=4096), "too much memory"),
    "all steps at once": (lambda index: index["coding"].update(at_once=1024, steps=4096), "too much memory"),
    "pieces that are nowhere": (lambda index: index["entries"][0]["pictures"][0].append([99, 0]), r"chunk and piece \(99, 0\) is not there"),
    "a piece twice": (lambda index: index["entries"][0]["pictures"].append(index["entries"][3]["pictures"][0]), "or used twice"),
    "a chunk twice": (lambda index: index["entries"][0].update(rest=index["entries"][1]["rest"]), "is not there, or used twice"),
    "bytes from a stream": (lambda index: index["entries"][1].update(rest=index["entries"][0]["pictures"][0][0][0]), "is not there, or used twice"),
    "no use": (lambda index: index["entries"].pop(), "is part of no file"),
    "a plane of nothing": (lambda index: index["entries"][0]["pictures"].append([]), "entries.0.pictures"),
    "the same name": (setting("entries", 1, "name", to="text.png"), "two files called 'text.png'"),
    "a file as folder": (setting("entries", 1, "name", to="text.png/x"), "'text.png' is a file and a folder"),
    "another name of a file": (setting("entries", 1, "name", to="./text.png"), "no name of UTF-8 that a folder can hold"),
    "a name with an end in it": (setting("entries", 1, "name", to="a\0b"), "no name of UTF-8 that a folder can hold"),
    "outside": (setting("entries", 1, "name", to="../x"), "outside of its folder"),
    "version": (setting("torch", to="2\n3"), "torch"),
    "an unknown key": (setting("x" * 10_000, to=1), "keys that are none of ours"),
    "many keys": (lambda index: index.update({f"{'a' * (1 + i % 30)}_{'b' * (i // 30)}": 1 for i in range(60)}), "keys that are none of ours"),
    "many mistakes": (lambda index: index["coding"].update(dict.fromkeys("abcdefghij", 1)), "unknown key"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_what_no_encoder_writes_is_a_line(archive: bytes, trained: TrainedDensity, kind: str) -> None:
    change, said = HOSTILE[kind]
    found = read(archive)
    index = json.loads(json.dumps(to_dict(found.index)))
    assert isinstance(outcome(forged(index, archive[found.overhead_bytes :], header_model=found.model), trained), dict)
    change(index)
    with bounded(), pytest.raises(ValueError, match=said):
        raise outcome(forged(index, archive[found.overhead_bytes :], header_model=found.model), trained)  # a dict is no exception, and TypeError


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"[" * 1_000_000, "no encoder writes"), (b'{"chunks":' * 1000 + b"1" + b"}" * 1000, "no encoder writes"), (b"[" + b"[]," * (1 << 18) + b"0]", "no encoder writes"), (b"0" * (MAX_INDEX_BYTES + 1), "more than 33554432 bytes"),
     (b'{"entries":' + b"[" + b"0," * (1 << 20) + b'0],"chunks":[0,0]}', "entries.0"), (b"1" * 5000, "no encoder writes"), (b"NaN", "no encoder writes"), (b"\xff", "no encoder writes")],
)  # fmt: skip
def test_indices_of_any_depth_and_length_are_a_line(trained: TrainedDensity, text: bytes, said: str) -> None:
    with bounded(), pytest.raises(ValueError, match=said) as error:
        read(forged(text, header_model=0))
    assert len(str(error.value)) < 1000 and "\n" not in str(error.value)


def test_a_header_names_a_model_where_there_is_one_to_name(archive: bytes, trained: TrainedDensity) -> None:
    found = read(archive)
    with pytest.raises(ValueError, match="the header names none"):
        read(forged(to_dict(found.index), archive[found.overhead_bytes :], header_model=0))
    kept = encode([("a.txt", b"text")], trained, FAST)
    with pytest.raises(ValueError, match="no chunk is of one"):
        read(forged(to_dict(read(kept).index), kept[read(kept).overhead_bytes :], header_model=7))


def test_planes_of_other_channels_than_the_models_are_a_line(archive: bytes, trained: TrainedDensity) -> None:
    found = read(archive)
    grey = replace(found.index.chunks[0], kind="model", pieces=(archive_index.Piece(height=1, width=1, channels=1),), content_length=1, length=4)
    with pytest.raises(ValueError, match="other than the model's 3 channels"):
        decoded(replace(found, index=replace(found.index, chunks=(grey, *found.index.chunks[1:]))), trained)


VALUES = [-1, 0, 1, 3, 7, 1 << 16, 1 << 28, 1 << 31, 1 << 40, 10**12, 10**30, 0.5, "", "x", "../x", None, [], {}, [[]], [0, 0], True]


def mutate(index: Any, rng: np.random.Generator) -> None:
    """A random value, wherever it is in the tree, becomes another one, goes, comes twice, or changes places with its neighbour."""
    node = index
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = keys[rng.integers(len(keys))]
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.1:
            break
        node = node[key]
    act = rng.integers(5)
    if act == 0:
        del node[key]
    elif act == 1 and isinstance(node, list):
        node.insert(int(rng.integers(len(node) + 1)), node[key])
    elif act == 2:
        other = keys[rng.integers(len(keys))]
        node[key], node[other] = node[other], node[key]
    elif act == 3 and isinstance(node[key], int):
        node[key] += int(rng.choice([-1, 1, 8, -8]))
    else:
        node[key] = VALUES[rng.integers(len(VALUES))]


def test_any_forged_index_is_files_or_a_line(archive: bytes, trained: TrainedDensity) -> None:
    """With right checksums of the index, so what it says is believed as far as it can be: whatever files come, their chunks were whole."""
    found, rng = read(archive), np.random.default_rng(0)
    text, files, lines = json.dumps(to_dict(found.index)), 0, 0
    for _ in range(250):
        index = json.loads(text)
        for _ in range(rng.integers(1, 3)):
            mutate(index, rng)
        with bounded():
            result = outcome(forged(index, archive[found.overhead_bytes :], header_model=found.model), trained)
        files, lines = files + isinstance(result, dict), lines + isinstance(result, ValueError)
    assert files > 10 and lines > 100


# Damaged


def test_any_damage_is_the_same_files_or_a_line(archive: bytes, whole: dict[str, bytes], trained: TrainedDensity) -> None:
    """Bits flipped, bytes overwritten, cut out or put in, the end missing: a file that comes back is as it was, and something is always noticed."""
    rng, saved = np.random.default_rng(0), 0
    for number in range(150):
        damaged = bytearray(archive)
        place, length = int(rng.integers(len(archive))), int(rng.integers(1, 50))
        if number % 4 == 0:
            damaged[place] ^= 1 << int(rng.integers(8))
        elif number % 4 == 1:
            del damaged[place:]
        elif number % 4 == 2:
            del damaged[place : place + length]
        else:
            damaged[place : place + length] = rng.bytes(length)
        if damaged == archive:
            continue
        with bounded():
            found = outcome(bytes(damaged), trained)
        if isinstance(found, dict):
            saved += 1
            assert list(found) == list(whole) and any(isinstance(one, ValueError) for one in found.values())
            assert all(isinstance(one, ValueError) or one == whole[name] for name, one in found.items())
    assert saved > 30


def test_damage_of_the_front_is_an_error(archive: bytes, trained: TrainedDensity) -> None:
    front = read(archive).overhead_bytes
    for length in (0, 3, 10, 30, front - 1):
        with pytest.raises(ValueError, match="cut short|no archive"):
            read(archive[:length])
    for place in range(0, front, 3):
        damaged = bytearray(archive)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(ValueError, match="damaged|no archive|version|cut short"):
            read(bytes(damaged))
    with pytest.raises(ValueError, match="too long"):
        read(archive + b"\0")
    last = len(archive) - read(archive).index.chunks[-1].length
    assert read(archive[:last] + b"\0" + archive[last:]).damaged.keys() == {len(read(archive).index.chunks) - 1}, "what is before an added byte is whole"
    with pytest.raises(ValueError, match="none is given"):
        decoded(read(archive), None)
    with pytest.raises(ValueError, match="needs the model"):
        decoded(read(archive), replace(trained, sha256="f" * 64))
    with pytest.raises(ValueError, match="version 9"):
        read(archive[:4] + b"\x09" + archive[5:])


def test_other_numbers_are_an_error_and_no_wrong_picture(archive: bytes, whole: dict[str, bytes], trained: TrainedDensity, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another machine rounds differently: one eps_hat in the middle of the stream is another. Files without streams come back."""
    step_back, calls = Chain._step_back, []

    def other(self: Chain, *arguments: object) -> tuple[np.ndarray, np.ndarray]:
        mean, scale = step_back(self, *arguments)
        calls.append(1)
        if len(calls) == 2:
            mean = mean.copy()
            mean[7] += 0.5
        return mean, scale

    monkeypatch.setattr(Chain, "_step_back", other)
    found = dict(decode(read(archive), trained))
    for name, data in found.items():
        if name in ("text.png", "profile.png"):
            assert isinstance(data, ValueError) and "finds other numbers than PyTorch" in str(data)
        else:
            assert data == whole[name]


def test_one_damaged_chunk_takes_no_other_file_with_it(archive: bytes, whole: dict[str, bytes], trained: TrainedDensity) -> None:
    place = read(archive).overhead_bytes
    for number, chunk in enumerate(read(archive).index.chunks):
        damaged = bytearray(archive)
        if not chunk.length:
            continue
        damaged[place] ^= 1
        place += chunk.length
        found = read(bytes(damaged))
        wanted = {entry.name for entry in found.index.entries if number in entry.needs}
        assert found.lost.keys() == wanted and list(found.damaged) == [number]
        for name, data in decode(found, trained):
            if name in wanted:
                assert isinstance(data, ValueError) and str(data) == found.lost[name] == f"chunk {number} of {len(found.index.chunks)} is damaged: take another copy"
            else:
                assert data == whole[name]


def test_the_commands_write_what_is_whole_and_name_what_is_lost(archive: bytes, whole: dict[str, bytes], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found, path, back = read(archive), tmp_path / "a.lcld", tmp_path / "back"
    stream = next(number for number, chunk in enumerate(found.index.chunks) if chunk.kind == "model")
    damaged = bytearray(archive)
    damaged[found.overhead_bytes + sum(chunk.length for chunk in found.index.chunks[:stream]) + 5] ^= 1
    path.write_bytes(damaged)
    lost = {"profile.png", "text.png"}
    with pytest.raises(ValueError, match="2 of 6 files are not written"):
        density_decode.main(density_decode.DecodeConfig(input=str(path), output=str(back), model=str(model)))
    said = [line.partition(" ERROR ")[2] for line in capsys.readouterr().err.splitlines() if " ERROR " in line]
    assert sorted(said) == [f"{name} is not written: chunk {stream} of {len(found.index.chunks)} is damaged: take another copy" for name in sorted(lost)]
    assert {one.relative_to(back).as_posix(): one.read_bytes() for one in back.rglob("*") if one.is_file()} == {name: data for name, data in whole.items() if name not in lost}
    with pytest.raises(ValueError, match="2 of 6 files are not written"):
        density_decode.main(density_decode.DecodeConfig(input=str(path), output=str(back), model=str(model)))
    with pytest.raises(ValueError, match="of 6 files 2 are lost and 0 differ"):
        density_verify.main(density_verify.VerifyConfig(input=str(path), model=str(model), against=str(back)))
    with pytest.raises(ValueError, match="2 of 6 files are lost"):
        density_info.main(density_info.InfoConfig(input=str(path)))
    assert f"1 of {len(found.index.chunks)} chunks damaged" in (said := capsys.readouterr().out) and "text.png: chunk" in said and "notes.txt: kept" in said
    path.write_bytes(archive)
    (back / "notes.txt").write_text("something else")
    with pytest.raises(ValueError, match="1 of 6 files are not written"):
        density_decode.main(density_decode.DecodeConfig(input=str(path), output=str(back), model=str(model)))
    assert (back / "notes.txt").read_text() == "something else" and (back / "text.png").read_bytes() == whole["text.png"] and not list(back.rglob(".*"))
    with pytest.raises(ValueError, match="needs the model"):
        density_decode.main(density_decode.DecodeConfig(input=str(path), output=str(tmp_path / "none")))
    assert not (tmp_path / "none").exists()


def test_a_file_coded_alone_comes_back_beside_its_archive(tmp_path: Path) -> None:
    """As of other compressors: photo.png, photo.png.lcld, and photo.png again."""
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "photo.png")
    before = (tmp_path / "photo.png").read_bytes()
    for source, archive in (("photo.png", "photo.png.lcld"), ("photo.png", "other.lcld")):
        density_encode.main(density_encode.EncodeConfig(input=str(tmp_path / source), output=str(tmp_path / archive), coding=CodingConfig(steps=1)))
    density_decode.main(density_decode.DecodeConfig(input=str(tmp_path / "photo.png.lcld")))  # over the same file, which stays
    (tmp_path / "photo.png").unlink()
    for archive, back in (("photo.png.lcld", "photo.png"), ("other.lcld", "other/photo.png")):
        density_decode.main(density_decode.DecodeConfig(input=str(tmp_path / archive)))
        assert same_file((tmp_path / back).read_bytes(), before)


def test_bombs_are_damage_and_take_no_memory() -> None:
    """Small files of large pictures in place of the small plane that the index names."""
    large = np.zeros((9000, 9000, 1), np.uint8)
    bombs = {kind: PACKERS[kind](large) for kind in ("png", "webp", "lzma")}
    taken = lzma.compress(b"x" * 300, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}])
    with bounded(1 << 26):
        for kind, data in bombs.items():
            assert data is not None
            with pytest.raises(ValueError, match="damaged"):
                unpack(kind, data, height=10, width=10, channels=1)
        with pytest.raises(ValueError, match="damaged"):
            unpack_bytes(taken, length=300)


@pytest.mark.parametrize(
    ("rest", "said"),
    [(b"", "cut short"), (b"\xff" * 4, "cut short"), (struct.pack("<I2Q", 1, 0, 1), "places for 1 bytes of samples"), (struct.pack("<I2Q", 1, 1 << 60, 1200), "lie beyond"), (struct.pack("<I4Q", 2, 0, 1000, 500, 200), "lie beyond")],
    ids=["empty", "many", "few", "far", "overlapping"],
)  # fmt: skip
def test_the_rest_of_a_tiff_says_where_its_samples_lie(rest: bytes, said: str) -> None:
    parts = take_apart(dict(FILES)["deep.tif"])
    assert parts is not None and len(parts.samples) == 1200
    with bounded(), pytest.raises(ValueError, match=said):
        put_together(replace(parts, rest=rest))


def test_a_stream_of_too_few_bits_ends_at_once(trained: TrainedDensity) -> None:
    coder, calls = tile_coder(trained, CodingConfig(steps=2)), []
    with pytest.raises(ValueError, match="end before the last tile"):
        coder.decode(archives.Coded(np.ones(4, dtype=np.uint32), 0), [(16, 16_000, 3)], calls.append)
    assert len(calls) < 5


# Pictures and names


def photograph(height: int, width: int) -> np.ndarray:
    """Smooth noise of several scales, alike in the colours, as photographs have."""
    rng, found = np.random.default_rng(0), np.zeros((height, width, 3))
    for side in (3, 9, 30):
        noise = rng.normal(size=(side, side, 1)) + 0.3 * rng.normal(size=(side, side, 3))
        found += np.stack([np.asarray(Image.fromarray(noise[..., band].astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)) for band in range(3)], axis=-1) * 120 / side
    return np.clip(128 + found + rng.normal(0, 2, found.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("kind", "pixels"),
    [("colour", photograph(50, 70)), ("colour", np.full((40, 90, 3), 9, np.uint8)), ("colour", photograph(1, 1)), ("grey", photograph(300, 700)[..., :1])], ids=["photograph", "flat", "dot", "large"],
)  # fmt: skip
def test_pictures_by_the_model_come_back(tmp_path: Path, kind: str, pixels: np.ndarray) -> None:
    save_density(made_model(kind), tmp_path / "density.safetensors")
    trained = load_density(tmp_path / "density.safetensors")
    with by_the_model(pixels.shape[2]):
        found = read(encode([("photo.png", png(pixels))], trained, CodingConfig(steps=1, at_once=1 if kind == "colour" else 64)))
    assert sizes(found)["plain"] == 0 and [chunk.kind for chunk in found.index.chunks if not chunk.is_bytes] == ["model"]
    assert np.array_equal(pixels_of(decoded(found, trained)[0][1]), pixels)


def test_names_of_any_letters_come_back(trained: TrainedDensity, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = ["Æther/日本語 🦊.png", "a b.txt", "é" * 127, "\n", "-x", "con"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode())
    archive = tmp_path / "new" / "in.lcld"
    density_encode.main(density_encode.EncodeConfig(input=str(tmp_path / "in"), output=str(archive), model=str(model), coding=FAST))
    density_decode.main(density_decode.DecodeConfig(input=str(archive), output=str(tmp_path / "back")))
    assert {name: (tmp_path / "back" / name).read_bytes() for name in names} == {name: name.encode() for name in names}
    capsys.readouterr()
    density_info.main(density_info.InfoConfig(input=str(archive)))
    said = capsys.readouterr().out
    assert r"  '\n': kept as it was, 1 bytes" in said.splitlines() and "  -x: kept as it was, 2 bytes" in said.splitlines()


def test_a_file_where_a_folder_is_and_the_reverse(trained: TrainedDensity, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Each is a line, and the others are written."""
    (tmp_path / "back" / "a").mkdir(parents=True)
    (tmp_path / "back" / "b").write_text("a file")
    (tmp_path / "x.lcld").write_bytes(encode([("a", b"1"), ("b/c", b"2"), ("d", b"3")], trained, FAST))
    with pytest.raises(ValueError, match="2 of 3 files are not written"):
        density_decode.main(density_decode.DecodeConfig(input=str(tmp_path / "x.lcld"), output=str(tmp_path / "back")))
    said = capsys.readouterr().err
    assert "back/a is a folder" in said and "back/b/c cannot be written (" in said
    assert (tmp_path / "back" / "d").read_bytes() == b"3" and (tmp_path / "back" / "b").read_text() == "a file"
    with pytest.raises(ValueError, match="back/b is a file, so nothing can be written below it"):
        density_decode.main(density_decode.DecodeConfig(input=str(tmp_path / "x.lcld"), output=str(tmp_path / "back" / "b" / "c")))
    with pytest.raises(ValueError, match="gone: no such file or folder"):
        density_verify.main(density_verify.VerifyConfig(input=str(tmp_path / "x.lcld"), against=str(tmp_path / "gone")))
    with pytest.raises(ValueError, match="of 3 files 0 are lost and 2 differ or are missing there"):
        density_verify.main(density_verify.VerifyConfig(input=str(tmp_path / "x.lcld"), against=str(tmp_path / "back")))
    assert "a is not in " in capsys.readouterr().err


def test_the_folder_that_one_stands_in(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its archive lies beside it; and what cannot be written is said before anything is coded."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text("a")
    for inside, name in (("in", "."), ("in/deep", "..")):
        monkeypatch.chdir(tmp_path / inside)
        density_encode.main(density_encode.EncodeConfig(input=name, model=str(model), coding=FAST))
        assert [entry.name for entry in read((tmp_path / "in.lcld").read_bytes()).index.entries] == ["a.txt"]
        (tmp_path / "in.lcld").unlink()
    monkeypatch.setattr(density_encode, "encode", lambda *given, **more: pytest.fail("coded first"))
    with pytest.raises(OSError, match="a.txt"):
        density_encode.main(density_encode.EncodeConfig(input=str(tmp_path / "in"), output=str(tmp_path / "in" / "a.txt" / "x.lcld"), model=str(model), coding=FAST))


def test_names_that_cannot_be_decoded_are_not_encoded(trained: TrainedDensity, model: Path, tmp_path: Path) -> None:
    for name in ("../x", "/etc/x", "a/../../x", ""):
        with pytest.raises(ValueError, match="outside of its folder"):
            encode([(name, b"data")], trained, FAST)
    with pytest.raises(ValueError, match="a backslash parts folders"):
        encode([("a\\b", b"data")], trained, FAST)
    for name in ("a//b", "./a", "a\0", "x" * 256, "\udcff"):
        with pytest.raises(ValueError, match="no name of UTF-8"):
            encode([(name, b"data")], trained, FAST)
    with pytest.raises(ValueError, match="two files called 'a'"):
        encode([("a", b"1"), ("a", b"2")], trained, FAST)
    with pytest.raises(ValueError, match="an archive holds 32768"):
        check_names([f"{number}" for number in range(32_769)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no files"):
        density_encode.main(density_encode.EncodeConfig(input=str(tmp_path / "empty"), model=str(model)))


class File(bytes):
    """Bytes that say when they go."""

    gone = 0

    def __del__(self) -> None:
        File.gone += 1


def test_files_are_taken_one_by_one(trained: TrainedDensity) -> None:
    """So that a folder may be larger than the memory: when a file comes, only the one before it is still there."""

    def files() -> Iterator[tuple[str, bytes]]:
        for number in range(5):
            assert File.gone >= number - 1
            yield f"{number}.bin", File(b"%d" % number * 1000)

    assert len(decoded(read(encode(files(), trained, FAST)), None)) == File.gone == 5
