"""Symbols to bytes and back: exact, near the ideal length, and damage is an error."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.codec import integer
from downstream.codec.cca import CCA, CCAConfig
from downstream.codec.coding import EntropyTables, Latents, Reader, Writer, walk
from downstream.codec.container import HEADER_BYTES, Header, pack, unpack
from downstream.codec.gaussian import likelihood, scale_table, scale_thresholds
from downstream.codec.integer import ONE, IntegerSynthesis, to_integers
from downstream.codec.mean_scale import MeanScale, MeanScaleConfig
from downstream.codec.model import Codec
from downstream.codec.range_coder import Decoder, Encoder, Models
from downstream.codec.tables import TOTAL, Table, normal_tables, prior_tables, whole_counts

NORMAL = Models(normal_tables())


@settings(max_examples=50, deadline=None)
@given(
    parts=st.lists(st.lists(st.tuples(st.one_of(st.integers(-3, 3), st.integers(-(2**31) + 1, 2**31 - 1)), st.integers(0, 63)), max_size=40), max_size=4)
)
def test_any_distances_come_back(parts: list[list[tuple[int, int]]]) -> None:
    encoder = Encoder()
    for part in parts:
        encoder.push(np.array([one for one, _ in part], dtype=np.int64), np.array([table for _, table in part], dtype=np.int64), NORMAL)
    decoder = Decoder(encoder.bytes())
    for part in parts:
        assert decoder.pop(np.array([table for _, table in part], dtype=np.int64), NORMAL).tolist() == [one for one, _ in part]


def test_the_bytes_are_as_many_as_the_likelihoods_say() -> None:
    rng = np.random.default_rng(0)
    scales = np.exp(rng.uniform(np.log(0.11), np.log(60), 100_000))
    distances = np.rint(rng.normal(0, scales)).astype(np.int64)
    which = torch.bucketize(torch.from_numpy(scales), scale_thresholds()).numpy()
    encoder = Encoder()
    encoder.push(distances, which, NORMAL)
    ideal = -likelihood(torch.from_numpy(distances).double(), torch.zeros(100_000, dtype=torch.float64), torch.from_numpy(scales)).log2().sum() / 8
    assert 1 <= len(encoder.bytes()) / float(ideal) < 1.005


def test_tables_are_whole_and_near_their_distributions() -> None:
    for scale, table in zip(scale_table().tolist(), NORMAL.tables, strict=True):
        assert table.counts.sum() == TOTAL and table.counts.min() >= 1
        steps = torch.arange(table.least, -table.least + 1, dtype=torch.float64)
        wanted = likelihood(steps, torch.zeros_like(steps), torch.full_like(steps, scale)).numpy()
        np.testing.assert_allclose(table.probabilities[:-1], wanted, atol=2 * len(table.counts) / TOTAL)
    with pytest.raises(ValueError, match="is damaged"):
        Table(0, np.array([5, 5]))
    assert whole_counts(np.array([0.0, 1.0, 1e-12])).tolist() == [1, TOTAL - 2, 1]


def made(kind: str, seed: int = 0) -> Codec:
    torch.manual_seed(seed)
    if kind == "mean_scale":
        codec: Codec = MeanScale(MeanScaleConfig(width=8, latent_width=12))
    else:
        small = CCAConfig(widths=(8, 10, 12), latent_width=20, hyper_width=8, num_groups=3, num_bottlenecks=1, num_blocks=1, entropy_width=12, entropy_blocks=1, head_widths=(12, 8))
        codec = CCA(small)
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if "weight" in name and parameter.ndim == 4:
                parameter.mul_(1.5)  # latents of more than one step
        codec.z_entropy_bottleneck.quantiles[:, 0, 1] = torch.randn(codec.z_entropy_bottleneck.num_channels)
    return codec.eval()


def tables_of(codec: Codec) -> EntropyTables:
    prior = codec.z_entropy_bottleneck
    integers = None
    if isinstance(codec, MeanScale):
        integers = to_integers(codec.h_s, prior.medians.flatten(), [10 * torch.randn(2, prior.num_channels, 2, 2)])
    return EntropyTables(NORMAL, Models(prior_tables(prior)), integers)


@pytest.mark.parametrize(("kind", "profile"), [("mean_scale", "fast"), ("mean_scale", "portable"), ("cca", "fast")])
@torch.no_grad()
def test_latents_come_back_exactly(kind: str, profile: str) -> None:
    codec = made(kind)
    tables = tables_of(codec)
    y = codec.analysis(torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(0)))
    z = codec.hyper_analysis(y)
    writer = Writer()
    written = walk(codec, tables, writer, tuple(z.shape[-2:]), profile, Latents(y, z))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        reader = Reader(writer.coder.bytes())
        read = walk(codec, tables, reader, tuple(z.shape[-2:]), profile)
        assert torch.equal(read, written) and reader.checksum == writer.checksum
    torch.set_num_threads(1)
    if profile == "fast":
        assert torch.allclose(written, codec.code(y, z).y_hat, atol=1e-5)


def test_whole_numbers_follow_the_float_network() -> None:
    codec = made("mean_scale")
    steps = torch.randint(-20, 21, (1, 8, 4, 5))
    integers = tables_of(codec).integers
    assert integers is not None
    means, scales = integers(steps)
    with torch.no_grad():
        wanted_means, wanted_scales = codec.hyper_synthesis(steps + codec.z_entropy_bottleneck.medians)
    assert (means / ONE - wanted_means).abs().max() < 0.06 * wanted_means.abs().max() + 2 / ONE
    wanted = torch.bucketize(wanted_scales.double(), scale_thresholds())
    assert (scales - wanted).abs().float().mean() < 1.0
    again = IntegerSynthesis.from_tensors(integers.tensors())(steps)
    assert torch.equal(again[0], means) and torch.equal(again[1], scales)


@pytest.mark.parametrize("stretch", [1, 2])
@pytest.mark.parametrize("most", [integer.MOST_AT_ONCE, 1, 2 * 22 * 6 * 25])
def test_whole_number_convolutions_are_exact(stretch: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal to the same sums in int64, whatever the order and in how many strips: PyTorch's own integer convolution is the plain version."""
    monkeypatch.setattr(integer, "MOST_AT_ONCE", most)
    rng = torch.Generator().manual_seed(0)
    convolution = torch.nn.ConvTranspose2d(6, 7, 5, 2, padding=2, output_padding=1) if stretch == 2 else torch.nn.Conv2d(6, 7, 5, padding=2)
    layer = to_integers(torch.nn.Sequential(convolution, torch.nn.LeakyReLU(), torch.nn.Conv2d(7, 4, 3, padding=1)), torch.zeros(6), [torch.randn(1, 6, 5, 5)]).layers[0]
    x = torch.randint(-(2**15) + 1, 2**15, (2, 6, 9, 11), generator=rng)
    stretched = x
    if stretch == 2:
        stretched = torch.zeros(2, 6, 18, 22, dtype=torch.int64)
        stretched[:, :, ::2, ::2] = x
    summed = torch.nn.functional.conv2d(stretched, layer.weight.long(), padding=2) + layer.bias.reshape(1, -1, 1, 1)
    shift = layer.shift.reshape(1, -1, 1, 1)
    wanted = ((summed * layer.multiplier.reshape(1, -1, 1, 1) + (1 << (shift - 1))) >> shift).clamp(-(2**15) + 1, 2**15 - 1)
    wanted = torch.where(wanted < 0, (wanted * 82 + 4096) >> 13, wanted)
    assert torch.equal(layer(x), wanted)


HEADER = Header("fast", 3, 0x0123456789ABCDEF, 640, 480, 1.5, 77)


def test_a_file_comes_back_and_its_header_is_forty_bytes() -> None:
    data = pack(HEADER, b"payload.")
    assert unpack(data) == (HEADER, b"payload.") and len(data) == HEADER_BYTES + 8 == 48


def test_any_flipped_bit_is_an_error() -> None:
    data = pack(HEADER, b"some bytes of payload...")
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match="file|no compressed image"):
            unpack(bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_payloads_that_no_encoder_wrote_end(payload: bytes) -> None:
    """Any bytes give symbols or an error, and never more of either than was asked for."""
    try:
        found = Decoder(payload).pop(np.arange(64).repeat(3), NORMAL)
    except ValueError as error:
        assert "payload" in str(error)
    else:
        assert len(found) == 192
