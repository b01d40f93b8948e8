"""The lossless codec: any stack, any picture, any file comes back; its length is that of the bound. Damage: test_density_archive.py."""

import io
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from torch import Tensor
from torch.nn import functional

from downstream.density import archive as archives
from downstream.density import likelihood
from downstream.density.archive import Archive, Writer, decode, encode, read, sizes, tile_coder
from downstream.density.archive_index import CodingConfig
from downstream.density.bit_stack import BitStack
from downstream.density.calibration import Calibration, calibrate
from downstream.density.chain import Chain
from downstream.density.coding_times import evenly
from downstream.density.contexts import ContextConfig
from downstream.density.likelihood import discrete_vlb
from downstream.density.model import DensityConfig, DensityModel
from downstream.density.model_file import TrainedDensity, load_density, save_density
from downstream.density.pictures import Layout, Parts, Planes, join, put_together, split, take_apart, with_range
from downstream.density.plain import PACKERS, from_jxl, to_jxl, unpack
from downstream.density.schedules import NoiseConfig
from downstream.density.subsets import most_likely
from downstream.density.unet import UNetConfig
from downstream.sight import Sight
from lcl.features import Encoder
from tests.made_encoders import SQUARE, random_model

UNET = UNetConfig(widths=(8, 8), blocks=1)
MODELS = {
    "grey": DensityConfig(channels=1, size_px=8, noise=NoiseConfig(kind="linear"), context=ContextConfig(kind="none"), unet=UNET),
    "colour": DensityConfig(channels=3, size_px=16, noise=NoiseConfig(width=4), context=ContextConfig(size=6, chosen=2, width=8), unet=UNET, parametrisation="v"),
    "monotone": DensityConfig(channels=1, size_px=8, noise=NoiseConfig(kind="monotone", width=4), context=ContextConfig(size=4, chosen=1, width=8), unet=UNET),
}
FAST = CodingConfig(steps=2)
NOTHING_KNOWN = Calibration(torch.ones(2, 1, 1, 1), evenly())  # the network is as wrong as it expects to be


def waves(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """Smooth waves with a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    found = [np.sin(x * rng.uniform(0.02, 0.3) + y * rng.uniform(0.02, 0.3) + rng.uniform(0, 6)) for _ in range(channels)]
    return np.clip(128 + 90 * np.stack(found, axis=-1) + rng.normal(0, 3, (height, width, channels)), 0, 255).astype(np.uint8)


def made_model(name: str) -> TrainedDensity:
    """Weights that disturb every part a little, calibrated on waves, so that eps is nearly found at no time: not good, but a model."""
    made = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DensityModel(made).eval().requires_grad_(False)
        for value in model.parameters():
            value += 0.02 * torch.randn(value.shape)
    u = torch.stack([torch.from_numpy(waves(made.size_px, made.size_px, made.channels, seed)).permute(2, 0, 1).long() for seed in range(8)])
    return TrainedDensity(model, calibrate(model, u, aligned=False), {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainedDensity]:
    folder = tmp_path_factory.mktemp("models")
    for name in MODELS:
        save_density(made_model(name), folder / f"{name}.safetensors")
    return {name: load_density(folder / f"{name}.safetensors") for name in MODELS}


def png(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[:, :, 0]).save(buffer, "PNG", **options)
    return buffer.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).reshape(image.height, image.width, -1)


# The stack


MEANS = st.floats(-1e6, 1e6)
SCALES = st.floats(1e-3, 1e5)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.lists(st.tuples(st.integers(-(2**30), 2**30), MEANS, SCALES), max_size=30), max_size=4))
def test_what_is_pushed_is_popped(parts: list[list[tuple[int, float, float]]]) -> None:
    stack = BitStack()
    arrays = [tuple(np.array([row[one] for row in part], dtype=kind) for one, kind in enumerate((np.int64, np.float64, np.float64))) for part in parts]
    for values, means, scales in arrays:
        stack.push(values, means, scales)
    for values, means, scales in reversed(arrays):
        assert np.array_equal(stack.pop(means, scales), values)
    assert stack.left_as_seeded(stack.seed_words)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(MEANS, SCALES), min_size=1, max_size=200), choices=st.integers(2, 5))
def test_what_is_popped_can_be_pushed_back(rows: list[tuple[float, float]], choices: int) -> None:
    """Bits-back: a draw takes bits, and gives them back to the last one; the stack has grown from below meanwhile."""
    stack = BitStack()
    means, scales = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    probabilities = np.random.default_rng(len(rows)).dirichlet(np.ones(choices), size=len(rows))
    drawn, chosen, bit = stack.pop(means, scales), stack.pop_choices(probabilities), stack.pop_bit(0.3)
    stack.push_bit(bit, 0.3)
    stack.push_choices(chosen, probabilities)
    stack.push(drawn, means, scales)
    assert stack.left_as_seeded(stack.seed_words) and len(stack.words()) == stack.seed_words


def test_draws_have_their_distribution_and_lengths_their_entropy() -> None:
    num = 20_000
    stack = BitStack()
    means, scales = np.full(num, 0.3), np.full(num, 4.0)
    drawn = stack.pop(means, scales)
    assert abs(drawn.mean() - 0.3) < 4 * 4 / math.sqrt(num) and abs(drawn.std() - 4) < 0.1 and np.abs(drawn).max() < 40
    empty = BitStack()
    before = empty.num_bits
    empty.push(drawn, means, scales)
    assert (empty.num_bits - before) / num == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * 16), rel=0.005)


def test_a_draw_beyond_the_window_is_near_it() -> None:
    """2^-24 of all draws lie there, several in a large picture; a far one would throw the network off."""
    stack = BitStack()
    drawn = np.array([stack._pop_number() for _ in range(2000)])
    for digits in (1, 3, 6):
        assert (drawn >= (1 << digits) - 1).mean() == pytest.approx(2.0**-digits, abs=0.035)
    for value in drawn[::-1].tolist():
        stack._push_number(value)
    assert stack.left_as_seeded(stack.seed_words)


def test_numbers_without_bounds_are_damage() -> None:
    for mean, scale in ((np.nan, 1.0), (1e300, 1.0), (0.0, np.inf)):
        with pytest.raises(ValueError, match="damaged"):
            BitStack().pop(np.array([mean]), np.array([scale]))


# The chain


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("height", "width", "tiles"), [(8, 8, 3), (1, 1, 1), (5, 3, 2), (1, 9, 1)])
def test_tiles_come_back(trained: dict[str, TrainedDensity], name: str, height: int, width: int, tiles: int) -> None:
    chain, stack = Chain(trained[name], 4), BitStack()
    rng = np.random.default_rng(0)
    given_ = [rng.integers(0, 256, (tiles, trained[name].settings.channels, height, width)) for _ in range(3)]
    for u in given_:
        chain.encode(stack, u)
    receiver = BitStack(stack.words())
    for u in reversed(given_):
        assert np.array_equal(Chain(trained[name], 4).decode(receiver, u.shape), u)
    assert receiver.left_as_seeded(stack.seed_words)


class FromElsewhere(Chain):
    """Draws its latents with the bits of another stack, which are random."""

    def __init__(self, trained: TrainedDensity, num_steps: int) -> None:
        super().__init__(trained, num_steps)
        self.clean = BitStack(np.random.default_rng(1).integers(1, 2**32, 60_000, dtype=np.uint32))
        self._first = self.clean.num_bits

    def _pop_latents(self, stack: BitStack, *arguments: Any) -> np.ndarray:
        return super()._pop_latents(self.clean, *arguments)

    @property
    def taken_bits(self) -> int:
        return self._first - self.clean.num_bits


@pytest.mark.parametrize("name", MODELS)
def test_the_length_is_that_of_the_bound(trained: dict[str, TrainedDensity], name: str) -> None:
    """Net bits at two numbers of steps, the initial ones apart.

    The bound is of latents that are drawn at random. Those of a codec are drawn with the bits that it wrote before, which are random only as far as the model is
    right (arXiv:1901.04866): with random weights they are not, and lengths are up to 1 % less. With bits from elsewhere they are those of the bound.
    """
    model, num = trained[name], 20 if name == "colour" else 64
    u = torch.stack([torch.from_numpy(waves(8, 8, model.settings.channels, seed)).permute(2, 0, 1).long() for seed in range(num)])
    for steps in (3, 8):
        wanted = np.mean([float(discrete_vlb(model, u, torch.Generator().manual_seed(seed), num_steps=steps).total.sum()) / math.log(2) for seed in range(8)])
        chain, stack, clean, others = Chain(model, steps), BitStack(), FromElsewhere(model, steps), BitStack()
        for one in u:
            chain.encode(stack, one[None].numpy())
            clean.encode(others, one[None].numpy())
        assert others.num_bits - 32 * others.seed_words - clean.taken_bits == pytest.approx(wanted, rel=0.006)
        assert stack.num_bits - 32 * stack.seed_words == pytest.approx(wanted, rel=0.02)
        assert 5 * u[0].numel() < 32 * stack.seed_words < 10 * u[0].numel() + 600


def test_a_short_step_beside_long_ones_costs_no_more_than_the_bound(trained: dict[str, TrainedDensity]) -> None:
    """With a grid as wide as the long step's noise, the normals of the short one fell between two whole numbers: here 0.5 bits a pixel, and 0.1 in photographs by 64 steps."""
    model = replace(trained["grey"], calibration=trained["grey"].calibration._replace(times=torch.tensor([0.0, 2e-4, 0.5, 0.5002, 1.0])))
    u = torch.stack([torch.from_numpy(waves(8, 8, 1, seed)).permute(2, 0, 1).long() for seed in range(64)])
    wanted = np.mean([float(discrete_vlb(model, u, torch.Generator().manual_seed(seed), num_steps=4).total.sum()) / math.log(2) for seed in range(8)])
    chain, stack = Chain(model, 4), BitStack()
    for one in u:
        chain.encode(stack, one[None].numpy())
    assert stack.num_bits - 32 * stack.seed_words == pytest.approx(wanted, rel=0.02)
    receiver = BitStack(stack.words())
    assert all(np.array_equal(Chain(model, 4).decode(receiver, (1, 1, 8, 8))[0], one.numpy()) for one in reversed(u))


def test_all_dequantisations_of_an_image_share_their_probe(trained: dict[str, TrainedDensity], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a probe for each, the bound of K samples took the estimate that was luckiest: far above the exact value."""
    probes = []

    def look(z_0: Tensor, path: object, denoise: object, probe: Tensor, *, tolerance: float) -> Tensor:
        probes.append(probe)
        return z_0.flatten(1).sum(dim=1)

    monkeypatch.setattr(likelihood, "ode_log_density", look)
    u = torch.from_numpy(waves(8, 8, 1)).permute(2, 0, 1).long()[None].repeat(2, 1, 1, 1)
    found = likelihood.ode_nats(trained["grey"], u, torch.Generator().manual_seed(0), tolerance=0.1, samples=3)
    assert found.shape == (3, 2) and len(probes) == 3 and all(torch.equal(one, probes[0]) for one in probes) and set(probes[0].unique().tolist()) == {-1.0, 1.0}


# Files


def round_trip(model: TrainedDensity, files: list[tuple[str, bytes]], coding: CodingConfig = FAST) -> list[tuple[str, bytes]]:
    return decoded(read(encode(files, model, coding)), model)


def decoded(archive: Archive, model: TrainedDensity | None) -> list[tuple[str, bytes]]:
    """All files. Raises the ValueError of the first that is lost."""
    files = []
    for name, found in decode(archive, model):
        if isinstance(found, ValueError):
            raise found
        files.append((name, found))
    return files


@settings(max_examples=10, deadline=None)
@given(height=st.integers(1, 30), width=st.integers(1, 30), channels=st.sampled_from([1, 2, 3, 4]), kind=st.sampled_from(["waves", "noise", "flat"]), name=st.sampled_from(["grey", "colour"]), at_once=st.integers(1, 3))  # fmt: skip
def test_any_picture_comes_back(trained: dict[str, TrainedDensity], height: int, width: int, channels: int, kind: str, name: str, at_once: int) -> None:
    rng = np.random.default_rng(height * width)
    pixels = {"waves": waves(height, width, channels), "noise": rng.integers(0, 256, (height, width, channels), dtype=np.uint8), "flat": np.full((height, width, channels), 77, dtype=np.uint8)}[kind]
    (name_back, data), = round_trip(trained[name], [("a/b.png", png(pixels))], CodingConfig(steps=3, at_once=at_once, chunk_px=500))
    assert name_back == "a/b.png" and np.array_equal(pixels_of(data), pixels)


def test_the_model_codes_what_it_fits_and_plain_coders_the_rest(trained: dict[str, TrainedDensity], monkeypatch: pytest.MonkeyPatch) -> None:
    flat = [("flat.png", png(np.full((64, 64, 3), 9, dtype=np.uint8)))]
    data = encode(flat, trained["colour"], FAST)
    assert read(data).model == 0 and sizes(read(data))["model"] == 0, "WebP stores a flat picture in a few bytes"
    assert np.array_equal(pixels_of(decoded(read(data), None)[0][1]), np.full((64, 64, 3), 9))
    monkeypatch.setattr(archives, "pack", lambda piece: ("lzma", b"x" * 10_000_000))
    assert sizes(read(encode(flat, trained["colour"], FAST)))["model"] > 0


def test_a_stream_that_would_not_come_back_is_stored_plainly(trained: dict[str, TrainedDensity], monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a network computed other numbers the second time."""
    files = [("w.png", png(waves(32, 32, 3)))]
    monkeypatch.setattr(archives, "pack", lambda piece: ("png", PACKERS["png"](piece) + bytes(50_000)))
    assert sizes(read(encode(files, trained["colour"], FAST)))["model"] > 0
    right = Chain.decode
    monkeypatch.setattr(Chain, "decode", lambda self, stack, shape: right(self, stack, shape) ^ 1)
    archive = read(encode(files, trained["colour"], FAST))
    assert sizes(archive)["model"] == 0 and np.array_equal(pixels_of(decoded(archive, None)[0][1]), waves(32, 32, 3))


def tiff(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **options)
    return buffer.getvalue()


def smaller_copy() -> bytes:
    """A picture and a smaller one behind it, as maps have them."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for side in (20, 10):
            writer.write(waves(side, side, 1)[..., 0], photometric="minisblack", metadata=None)
    return buffer.getvalue()


def files_of_all_kinds() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "waves")
    deep = (waves(20, 30, 1).astype(np.uint16) << 8) | rng.integers(0, 256, (20, 30, 1), dtype=np.uint16)
    jpeg, palette, gif = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(waves(20, 30, 3)).save(jpeg, "JPEG")
    Image.fromarray(waves(20, 30, 3)).convert("P").save(palette, "PNG")
    Image.fromarray(waves(20, 30, 3)).convert("P").save(gif, "GIF")
    deep_png = io.BytesIO()
    Image.fromarray(deep[..., 0]).save(deep_png, "PNG")
    return {
        "text.png": png(waves(20, 30, 3), pnginfo=text, dpi=(300, 300)), "profile.png": png(waves(9, 9, 4), icc_profile=b"not really a profile" * 9),
        "deep.png": deep_png.getvalue(), "palette.png": palette.getvalue(), "photo.jpg": jpeg.getvalue(), "some.gif": gif.getvalue(),
        "deep.tif": tiff(deep[..., 0], description="a scan"), "big_endian.tif": tiff(deep[..., 0], byteorder=">"), "bands.tif": tiff(np.moveaxis(waves(20, 30, 7), 2, 0), photometric="minisblack", planarconfig="separate"),
        "colour.tif": tiff(waves(20, 30, 3), photometric="rgb", rowsperstrip=7), "float.tif": tiff(rng.normal(size=(9, 11)).astype(np.float32)), "packed.tif": tiff(waves(20, 30, 3), compression="zlib", photometric="rgb"),
        "pages.tif": tiff(np.stack([waves(9, 9, 1, seed)[..., 0] for seed in range(3)]), photometric="minisblack"), "signed.tif": tiff(rng.integers(-99, 99, (9, 11)).astype(np.int16)),
        "tiled.tif": tiff(waves(40, 50, 3), photometric="rgb", tile=(16, 32)), "big.tif": tiff(deep[..., 0], bigtiff=True), "alpha.tif": tiff(waves(9, 11, 4), photometric="rgb", extrasamples=["unassalpha"]),
        "infrared.tif": tiff(waves(9, 11, 4), photometric="rgb", extrasamples=["unspecified"]), "small.tif": smaller_copy(), "scan.tif": tiff(rng.integers(-1024, 3072, (12, 13)).astype(np.int16)),
        "wide.tif": tiff(rng.integers(0, 1 << 40, (5, 6)).astype(np.uint64), photometric="minisblack"), "bytes.tif": tiff(rng.integers(-128, 128, (5, 6)).astype(np.int8)),
        "planes.tif": tiff(rng.normal(size=(3, 5, 6)).astype(np.float32), photometric="minisblack", planarconfig="separate"), "bits.tif": tiff(rng.integers(0, 2, (9, 16)).astype(bool)),
        "dot.png": png(waves(1, 1, 4)), "row.png": png(waves(1, 77, 1)), "empty.bin": b"", "notes.txt": "no picture".encode() * 20,
        "cut.png": png(waves(20, 30, 3))[:-30], "lies.tif": b"II*\0" + b"\xff" * 40,
    }  # fmt: skip


def test_files_of_all_kinds_come_back_with_their_metadata(trained: dict[str, TrainedDensity]) -> None:
    files = files_of_all_kinds()
    for name in ("grey", "colour"):
        back = dict(round_trip(trained[name], list(files.items())))
        assert list(back) == list(files)
        for one, data in files.items():
            if one.endswith(".png") and take_apart(data) is not None:
                ours, theirs = take_apart(back[one]), take_apart(data)
                assert ours is not None and ours == theirs, one
            else:
                assert back[one] == data, one
    with Image.open(io.BytesIO(back["text.png"])) as image:
        assert image.text["Title"] == "waves" and round(image.info["dpi"][0]) == 300
    with Image.open(io.BytesIO(back["deep.png"])) as image:
        assert image.mode.startswith("I;16") and np.array_equal(np.asarray(image), pixels_of(files["deep.png"])[..., 0])


def test_which_files_are_taken_apart() -> None:
    taken = {name for name, data in files_of_all_kinds().items() if take_apart(data) is not None}
    assert taken == {
        "text.png", "profile.png", "deep.png", "dot.png", "row.png", "deep.tif", "big_endian.tif", "bands.tif", "colour.tif", "float.tif", "signed.tif", "pages.tif", "tiled.tif", "big.tif", "alpha.tif",
        "infrared.tif", "small.tif", "scan.tif", "wide.tif", "bytes.tif", "planes.tif",
    }  # fmt: skip
    for name in taken:
        parts = take_apart(files_of_all_kinds()[name])
        assert parts is not None and join(split(parts.samples, parts.layout), parts.layout) == parts.samples
        if parts.form == "tiff":
            assert put_together(parts) == files_of_all_kinds()[name]


def with_stream(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A PNG of one IDAT chunk with other bytes in it."""
    place = data.index(b"IDAT") - 4
    length = struct.unpack_from(">I", data, place)[0]
    body = b"IDAT" + change(data[place + 8 : place + 8 + length])
    return data[:place] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[place + 12 + length :]


HIDDEN: dict[str, Callable[[bytes], bytes]] = {
    "behind the stream": lambda stream: stream + bytes(range(120)),
    "beyond the last row": lambda stream: zlib.compress(zlib.decompress(stream) + bytes(range(120))),
    "rows missing": lambda stream: zlib.compress(zlib.decompress(stream)[: 3 * 9]),
    "without its checksum": lambda stream: stream[:-4],
}


@pytest.mark.parametrize("kind", list(HIDDEN))
def test_what_a_png_hides_comes_back(trained: dict[str, TrainedDensity], kind: str) -> None:
    """Decoders show all of these; a file made anew of the pixels that they show would lack something, or have more."""
    plain = png(waves(8, 8, 1))
    data = with_stream(plain, HIDDEN[kind])
    assert take_apart(plain) is not None and with_stream(plain, lambda stream: stream) == plain
    assert take_apart(data) is None
    assert round_trip(trained["grey"], [("a.png", data)]) == [("a.png", data)]


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_a_picture_without_pixels_comes_back(trained: dict[str, TrainedDensity], shape: tuple[int, int]) -> None:
    with pytest.warns(UserWarning, match="nonconformant"):
        data = tiff(np.zeros(shape, np.uint8))
    assert round_trip(trained["grey"], [("a.tif", data)]) == [("a.tif", data)]


def parts_of(name: str) -> tuple[Layout, Planes]:
    parts = take_apart(files_of_all_kinds()[name])
    assert parts is not None
    return parts.layout, split(parts.samples, parts.layout)


def test_deep_samples_become_a_picture_of_the_bits_in_use() -> None:
    """12 bits of 16: their highest eight, which rise with the value, signed or not, and one plane of four."""
    values = np.random.default_rng(0).integers(-1024, 3072, (12, 13)).astype(np.int16)
    values[0, :2] = -1024, 3071
    parts = take_apart(tiff(values))
    assert parts is not None and parts.layout.shift == 4
    planes = split(parts.samples, parts.layout)
    assert np.array_equal(planes.pictures[0][..., 0], (values.astype(int) + 1024) >> 4) and np.array_equal(planes.others[0][..., 0], (values.astype(int) + 1024) & 15)
    assert len(parts_of("wide.tif")[1].others) == 4 and parts_of("signed.tif")[1].others == ()


def test_pages_and_tiles_lie_below_each_other_and_bands_are_what_the_file_says() -> None:
    assert [parts_of(name)[0].shape for name in ("pages.tif", "tiled.tif", "small.tif")] == [(27, 9, 1), (96, 32, 3), (20, 20, 1)]
    assert np.array_equal(parts_of("pages.tif")[1].pictures[0][9:18], waves(9, 9, 1, 1))
    for name, colours, others in (("alpha.tif", (3,), 1), ("infrared.tif", (3, 1), 0), ("bands.tif", (1,) * 7, 0), ("profile.png", (3,), 1)):
        layout, planes = parts_of(name)
        assert (layout.colours, len(planes.others)) == (colours, others), name


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4"]), planar=st.booleans(), big_endian=st.booleans())
def test_any_samples_come_back(data: st.DataObject, kind: str, planar: bool, big_endian: bool) -> None:
    height, width, bands = (data.draw(st.integers(1, 4)) for _ in range(3))
    size = int(kind[1])
    samples = data.draw(st.binary(min_size=height * width * bands * size, max_size=height * width * bands * size))
    colours = (3,) if bands > 2 else (1,)
    layout = Layout(height=height, width=width, bands=bands, bytes=size, colours=colours, planar=planar, big_endian=big_endian, kind={"u": "unsigned", "i": "signed", "f": "other"}[kind[0]])
    layout = with_range(layout, samples)
    assert join(split(samples, layout), layout) == samples


def test_bytes_that_are_nearly_a_file_come_back(trained: dict[str, TrainedDensity]) -> None:
    """TIFFs and PNGs with bytes changed: whatever a decoder makes of them, they are what comes back."""
    rng = np.random.default_rng(0)
    for name in ("colour.tif", "tiled.tif", "small.tif", "text.png"):
        original, changed = files_of_all_kinds()[name], []
        for number in range(40):
            data = bytearray(original)
            for place in rng.integers(0, min(len(data), 400), 3):
                data[place] = int(rng.integers(256))
            changed.append((f"{number}-{name}", bytes(data)))
        parts = [take_apart(data) for _, data in changed]
        for (one, data), found in zip(changed, parts, strict=True):
            if found is not None:
                again = put_together(Parts(found.form, found.rest, join(split(found.samples, found.layout), found.layout), found.layout))
                assert again == data if found.form == "tiff" else take_apart(again) == found, one


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_plain_coders_lose_nothing(kind: str, channels: int) -> None:
    plane = waves(17, 23, channels)
    packed = PACKERS[kind](plane)
    assert PACKERS[kind](np.zeros((1, 1, channels), dtype=np.uint8)) is not None
    assert packed is not None and np.array_equal(unpack(kind, packed, height=17, width=23, channels=channels), plane)
    with pytest.raises(ValueError, match="damaged"):
        unpack(kind, packed[: len(packed) // 2], height=17, width=23, channels=channels)


def test_jpeg_xl_loses_nothing() -> None:
    pytest.importorskip("imagecodecs", reason="needs imagecodecs, of the extra peers")
    for channels in (1, 3):
        plane = waves(17, 23, channels)
        packed = to_jxl(plane)
        assert packed is not None and np.array_equal(from_jxl(packed, plane.shape), plane)


def test_a_large_picture_that_the_model_cannot_help_is_not_coded_in_vain(trained: dict[str, TrainedDensity], monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, encoded = [], Chain.encode
    monkeypatch.setattr(Chain, "encode", lambda self, stack, u: (tiles.append(len(u)), encoded(self, stack, u)))
    flat, counted = np.full((900, 1300, 3), 200, dtype=np.uint8), []
    data = encode([("flat.png", png(flat))], trained["colour"], FAST, advance=counted.append)
    assert 8 <= sum(tiles) <= 17 and sum(counted) == 2 * 900 * 1300, "of 4,674 tiles"
    assert np.array_equal(pixels_of(decoded(read(data), None)[0][1]), flat) and len(data) < 3000
    row = png(waves(1, 20_000, 1))  # longer than WebP's longest side
    assert np.array_equal(pixels_of(round_trip(trained["grey"], [("row.png", row)])[0][1]), pixels_of(row)) and sum(tiles) < 40


def test_large_planes_become_several_streams(trained: dict[str, TrainedDensity]) -> None:
    writer = Writer(tile_coder(trained["grey"], FAST), CodingConfig(steps=2, chunk_px=256))
    places = writer.add_plane(waves(40, 16, 1), picture=True, advance=lambda pixels: None)
    writer.finish(lambda pixels: None)
    assert len(places) == 3 and {chunk for chunk, _ in places} == {0, 1, 2}


def test_levels_beyond_the_models_are_stored_plainly() -> None:
    settings_of = DensityConfig(channels=1, levels=17, size_px=8, noise=NoiseConfig(kind="linear"), context=ContextConfig(kind="none"), unet=UNET)
    model = DensityModel(settings_of).eval().requires_grad_(False)
    trained = TrainedDensity(model, NOTHING_KNOWN, {}, sha256="0" * 15 + "7")
    files = [("digit.png", png(waves(8, 8, 1) // 16)), ("photo.png", png(waves(8, 8, 1)))]
    assert [pixels_of(data).tolist() for _, data in round_trip(trained, files)] == [pixels_of(data).tolist() for _, data in files]
    with pytest.raises(ValueError, match="beyond the model's 17 levels"):
        Chain(trained, 2).encode(BitStack(), np.full((1, 1, 2, 2), 17))


# A context from an encoder's tokens


TOKENS = DensityConfig(channels=1, size_px=8, noise=NoiseConfig(width=4), context=ContextConfig(kind="tokens", size=6, chosen=2, width=8), unet=UNET)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(random_model(SQUARE))


@pytest.fixture(scope="module")
def of_tokens(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's file."""
    sight = Sight(encoder, TOKENS.context.sight)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DensityModel(TOKENS, num_features=sight.num_features).eval().requires_grad_(False)
        for value in model.parameters():
            value += 0.1 * torch.randn(value.shape)
    path = tmp_path_factory.mktemp("tokens") / "density.safetensors"
    save_density(TrainedDensity(model, NOTHING_KNOWN, {}, sight.record), path)
    return path


def test_contexts_follow_what_the_encoder_sees(encoder: Encoder, of_tokens: Path) -> None:
    model = load_density(of_tokens, encoder=encoder).model
    x = torch.stack([torch.from_numpy(waves(8, 8, 1, seed)).permute(2, 0, 1) for seed in range(12)]).float() / 127.5 - 1
    logits = model.logits(x)
    tokens = encoder(functional.interpolate((x + 1) / 2, size=(16, 16), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)).tokens
    wanted = model.context_logits.layers(torch.cat([tokens.mean(dim=1), tokens.std(dim=1, correction=0)], dim=1))
    assert torch.allclose(logits, wanted, atol=1e-4) and len({tuple(row) for row in most_likely(logits, 2).tolist()}) > 1
    assert model.logits(x[:, :, :3, :5]).shape == (12, 6)


def test_only_encoding_needs_the_encoder(encoder: Encoder, of_tokens: Path) -> None:
    pixels = [waves(8, 8, 1, seed) for seed in range(3)]
    with pytest.raises(ValueError, match=f"this model's context looks at pictures through the encoder {encoder.fingerprint[:16]}: give --encoder"):
        encode([("w.png", png(pixels[0]))], load_density(of_tokens), FAST)
    with pytest.raises(ValueError, match="the context of .* was trained with"):
        load_density(of_tokens, encoder=Encoder(random_model(SQUARE, seed=1)))
    chain, stack, u = Chain(load_density(of_tokens, encoder=encoder), 3), BitStack(), np.stack([one[None, :, :, 0] for one in pixels]).astype(np.int64)
    chain.encode(stack, u)
    receiver = BitStack(stack.words())
    assert np.array_equal(Chain(load_density(of_tokens), 3).decode(receiver, u.shape), u) and receiver.left_as_seeded(stack.seed_words)


def test_an_encoder_that_has_no_use_is_refused(trained: dict[str, TrainedDensity], encoder: Encoder, tmp_path: Path) -> None:
    save_density(trained["colour"], tmp_path / "density.safetensors")
    with pytest.raises(ValueError, match="--encoder is for models whose context comes from an encoder's tokens"):
        load_density(tmp_path / "density.safetensors", encoder=encoder)


def test_a_context_that_is_sent_is_in_the_bound_at_its_full_cost(encoder: Encoder, of_tokens: Path) -> None:
    model = load_density(of_tokens, encoder=encoder)
    u = torch.stack([torch.from_numpy(waves(8, 8, 1, seed)).permute(2, 0, 1).long() for seed in range(16)])
    bounds = [discrete_vlb(model, u, torch.Generator().manual_seed(seed), num_steps=2) for seed in range(4)]
    assert torch.allclose(bounds[0].context, torch.full((16,), math.log(15)))
    wanted = np.mean([float(bound.total.sum()) for bound in bounds]) / math.log(2)
    chain, stack = FromElsewhere(model, 2), BitStack()
    for one in u:
        chain.encode(stack, one[None].numpy())
    assert stack.num_bits - 32 * stack.seed_words - chain.taken_bits == pytest.approx(wanted, rel=0.01)


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match="is no density model, or damaged"):
        load_density(tmp_path / "no.safetensors")
    with pytest.raises(ValueError, match="no such file"):
        load_density(tmp_path / "gone.safetensors")
