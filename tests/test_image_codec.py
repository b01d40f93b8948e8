"""Pictures to files and back: any size, tiles, refinement, damage."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.codec.cca import CCAConfig
from downstream.codec.coding import Latents
from downstream.codec.complexity import complexity_of
from downstream.codec.container import HEADER_BYTES, Header, pack
from downstream.codec.image_codec import analyse_in_tiles, decode, encode, synthesise_in_tiles
from downstream.codec.mean_scale import MeanScale, MeanScaleConfig
from downstream.codec.model import Codec
from downstream.codec.model_file import CodecConfig, TrainedCodec, finish, load_codec, save_codec
from downstream.codec.refine import RefineConfig, reconstruct, refine, refine_in_tiles, squared_error
from downstream.codec.rounding import RoundingConfig
from downstream.codec.train_config import PRESETS
from downstream.photographs import to_levels
from downstream.tiles import padded
from tests.made_weights import made_weights

KINDS = {
    "mean_scale": CodecConfig(mean_scale=MeanScaleConfig(width=8, latent_width=12), num_levels=3),
    "cca": CodecConfig(kind="cca", cca=CCAConfig(widths=(8, 10, 12), latent_width=20, hyper_width=8, num_groups=3, num_bottlenecks=1, num_blocks=1, entropy_width=12, entropy_blocks=1, head_widths=(12, 8), window=3)),
}  # fmt: skip


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth waves with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * rng.uniform(0.02, 0.2) + y * rng.uniform(0.02, 0.2) + rng.uniform(0, 6)) for _ in range(channels)]
    return np.clip(128 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 6, (height, width, channels)), 0, 255).astype(np.uint8)


@torch.no_grad()
def widen(codec: Codec) -> None:
    """Scales near those of the latents, as training makes them."""
    if isinstance(codec, MeanScale):
        codec.h_s[4].bias[: sum(codec.group_sizes)] += 1.5
    else:
        for head in codec.scale_cc_transforms:
            head[4].bias += 3


@pytest.fixture(scope="module", params=list(KINDS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainedCodec:
    made = KINDS[request.param]
    codec = made.build()
    codec.load_state_dict(made_weights(codec.state_dict()))
    widen(codec)
    lmbdas = (0.002, 0.01, 0.05)[: made.num_levels]
    path = tmp_path_factory.mktemp("codec") / "codec.safetensors"
    save_codec(finish(codec, made, lmbdas, {"data": "made"}, [torch.rand(2, 3, 64, 64)]), path)
    return load_codec(path)


def profiles(trained: TrainedCodec) -> list[str]:
    return ["fast"] + ["portable"] * (trained.tables.integers is not None)


@settings(max_examples=12, deadline=None)
@given(height=st.integers(1, 150), width=st.integers(1, 150), channels=st.sampled_from([1, 3]), level=st.floats(0, 2))
def test_any_size_comes_back(trained: TrainedCodec, height: int, width: int, channels: int, level: float) -> None:
    level = round(level * 256) / 256 if trained.codec.gains is not None else 0.0
    for profile in profiles(trained):
        encoded = encode(trained, picture(height, width, channels), level=level, profile=profile)
        found = decode(trained, encoded.data)
        assert found.shape == (height, width, channels) and np.array_equal(found, decode(trained, encoded.data))


def test_the_file_is_as_long_as_estimated(trained: TrainedCodec) -> None:
    encoded = encode(trained, picture(512, 768))
    assert abs(len(encoded.data) - encoded.estimated_bits / 8) < 0.01 * encoded.estimated_bits / 8 + HEADER_BYTES


def test_a_picture_equals_its_reconstruction(trained: TrainedCodec) -> None:
    """What is decoded is what the model's own pass gives, to a step of 8 bits."""
    pixels = picture(128, 192)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        wanted = trained.codec(x, trained.level(0)).x_hat[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
    assert np.abs(decode(trained, encode(trained, pixels).data).astype(float) - wanted).max() <= 1


def test_levels_move_along_the_curve() -> None:
    made = KINDS["mean_scale"]
    codec = made.build()
    codec.load_state_dict(made_weights(codec.state_dict()))
    assert codec.gains is not None
    with torch.no_grad():
        codec.gains.before.copy_(torch.tensor([-1.0, 0.0, 1.5])[:, None])
    trained = finish(codec, made, (0.002, 0.01, 0.05), {}, [torch.rand(2, 3, 64, 64)])
    sizes = [len(encode(trained, picture(128, 128), level=level).data) for level in (0.0, 0.5, 1.0, 1.5, 2.0)]
    assert sizes == sorted(set(sizes))
    assert [trained.lmbda(level) for level in (0, 0.5, 2)] == pytest.approx([0.002, (0.002 * 0.01) ** 0.5, 0.05])


@pytest.mark.parametrize("side", [(1, 1), (5, 64), (64, 3), (63, 65), (2, 130)])
def test_padding_mirrors_and_keeps_the_picture(side: tuple[int, int]) -> None:
    x = torch.rand(1, 3, *side)
    found = padded(x, 64)
    assert found.shape[-1] % 64 == found.shape[-2] % 64 == 0 and torch.equal(found[:, :, : side[0], : side[1]], x)
    if side[0] > 1 and side[0] % 64:
        assert torch.equal(found[:, :, side[0], : side[1]], x[:, :, side[0] - 2])


@pytest.mark.parametrize("tile_px", [128, 192])
@torch.no_grad()
def test_tiles_change_nothing(trained: TrainedCodec, tile_px: int) -> None:
    x = padded(torch.from_numpy(picture(330, 450)).permute(2, 0, 1)[None].float() / 255, 64)
    level = trained.level(0)
    whole, tiled = analyse_in_tiles(trained.codec, x, level, tile_px=0), analyse_in_tiles(trained.codec, x, level, tile_px=tile_px)
    assert torch.allclose(tiled.y, whole.y, atol=1e-5) and torch.allclose(tiled.z, whole.z, atol=1e-5)
    y_hat = whole.y.round()
    for grey in (False, True):
        one, other = (synthesise_in_tiles(trained.codec, y_hat, level, grey=grey, tile_px=side, finish=to_levels).int() for side in (tile_px, 0))
        assert one.shape == (1, 1 if grey else 3, 384, 512) and (one - other).abs().max() <= 1 and (one != other).float().mean() < 1e-3


def test_a_codec_that_sees_the_whole_picture_has_no_tiles() -> None:
    published = CodecConfig(kind="cca", cca=CCAConfig(widths=(8, 8, 8), latent_width=40, num_blocks=1)).build()
    with pytest.raises(ValueError, match="averages over the whole picture"):
        analyse_in_tiles(published, torch.rand(1, 3, 64, 64), None, tile_px=128)


@pytest.mark.parametrize("method", ["sga", "ssl", "ssl3", "ste"])
def test_refinement_lowers_the_true_loss_and_codes_what_it_found(trained: TrainedCodec, method: str) -> None:
    seen = []

    def refined(codec: object, x: torch.Tensor, level: torch.Tensor | None, inside: torch.Tensor) -> Latents:
        found = refine(trained.codec, x, RefineConfig(iterations=30, rounding=RoundingConfig(method=method), learning_rate=0.02, check_every=10), lmbda=0.01, level=level)
        seen.append({done: float(loss) for done, loss in found.losses.items()})
        return found.latents

    pixels = picture(64, 64)
    plain, better = encode(trained, pixels), encode(trained, pixels, refine=refined)
    assert list(seen[0]) == [0, 10, 20, 30] and min(seen[0].values()) < seen[0][0]

    def loss(data: bytes) -> float:
        return 0.01 * float(((decode(trained, data).astype(float) - pixels) ** 2).mean()) + 8 * (len(data) - HEADER_BYTES) / 64**2

    assert loss(better.data) < loss(plain.data) + 0.02  # 4 bytes are 0.008, rounding to 8 bits the rest
    assert all(parameter.requires_grad for name, parameter in trained.codec.named_parameters() if "quantiles" not in name)


def test_what_fills_a_picture_up_costs_nothing(trained: TrainedCodec) -> None:
    """The refinement is told where the picture is, and what lies beyond has no part in its error."""
    x = padded(torch.from_numpy(picture(70, 90)).permute(2, 0, 1)[None].float() / 255, 64)
    seen: list[torch.Tensor] = []

    def look(codec: object, pixels: torch.Tensor, level: torch.Tensor | None, inside: torch.Tensor) -> Latents:
        seen.append(inside)
        return refine(trained.codec, pixels, RefineConfig(iterations=0), lmbda=0.01, level=level, weights=inside).latents

    encode(trained, picture(70, 90), refine=look)
    assert torch.equal(seen[0][0, 0].bool(), (torch.arange(128)[:, None] < 70) & (torch.arange(128) < 90))
    found, other = torch.rand_like(x), torch.rand_like(x)
    other[:, :, :70, :90] = found[:, :, :70, :90]
    assert torch.equal(squared_error(x, found, seen[0]), squared_error(x, other, seen[0]))


def test_pictures_and_profiles_that_cannot_be_coded(trained: TrainedCodec) -> None:
    with pytest.raises(ValueError, match="2500000 x 1 px, with sides filled up to multiples of 64 more than is coded"):
        encode(trained, np.zeros((1, 2_500_000, 3), np.uint8))
    if trained.tables.integers is None:
        with pytest.raises(ValueError, match="no portable profile"):
            decode(trained, pack(Header("portable", 3, trained.hash, 64, 64, 0.0, 0), b""))


def test_pictures_of_a_batch_are_refined_each_for_itself(trained: TrainedCodec) -> None:
    """Without noise, a picture's latents do not depend on what is beside it."""
    x = torch.stack([torch.from_numpy(picture(64, 64, seed=seed)).permute(2, 0, 1).float() / 255 for seed in range(3)])
    settings = RefineConfig(iterations=8, rounding=RoundingConfig(method="anneal"), learning_rate=0.02, check_every=4)
    level = trained.level(0)
    together = refine(trained.codec, x, settings, lmbda=0.01, level=None if level is None else level.expand(3))
    for number in range(3):
        alone = refine(trained.codec, x[number : number + 1], settings, lmbda=0.01, level=level)
        for iteration, loss in alone.losses.items():
            assert float(loss) == pytest.approx(float(together.losses[iteration][number]), rel=1e-4)
        assert float(alone.bpp) == pytest.approx(float(together.bpp[number]), rel=1e-3)
    least = torch.stack(list(together.losses.values())).min(dim=0).values
    assert torch.allclose(0.01 * together.squared_error + together.bpp, least, rtol=1e-5)


def test_tiles_are_refined_nearly_as_well_as_the_whole(trained: TrainedCodec) -> None:
    x = torch.from_numpy(picture(256, 320)).permute(2, 0, 1)[None].float() / 255
    settings, level = RefineConfig(iterations=20, learning_rate=0.02, check_every=10), trained.level(0)
    weights = torch.linspace(0.5, 1.5, 320).expand(1, 1, 256, 320)
    whole = refine(trained.codec, x, settings, lmbda=0.01, level=level, weights=weights)
    tiled = refine_in_tiles(trained.codec, x, settings, side_px=128, lmbda=0.01, level=level, weights=weights)
    with torch.no_grad():
        found = reconstruct(trained.codec, *tiled, level)
    loss = float(0.01 * squared_error(x, found.x_hat, weights) + found.coded.bits / (256 * 320))
    gained = float(whole.losses[0]) - float(min(whole.losses.values()))
    assert gained > 0 and float(whole.losses[0]) - loss > 0.8 * gained


def test_the_mobile_preset_keeps_its_promise() -> None:
    """At most 20 thousand multiplications a pixel to decode, as counted; its parts by hand."""
    kind = PRESETS["mobile"].model
    found = complexity_of(finish(kind.build(), kind, PRESETS["mobile"].objective.lmbdas, {}, [torch.rand(1, 3, 64, 64)]))
    n, m = 64, 128
    synthesis = 25 * (m * n / 16**2 + n * n / 8**2 + n * n / 4**2 + n * 3 / 2**2) + n * n * (1 / 8**2 + 1 / 4**2 + 1 / 2**2)
    hyper = (25 * n * m / 64**2 + 25 * m * m * 1.5 / 32**2 + 9 * 1.5 * m * 2 * m / 16**2)
    assert found.decoder == pytest.approx((synthesis + hyper) / 1000, rel=0.01) and found.decoder <= 20 < found.encoder


def test_files_of_others_and_damage(trained: TrainedCodec) -> None:
    data = encode(trained, picture(70, 90)).data
    rng = np.random.default_rng(0)
    for place in rng.choice(8 * len(data), 60, replace=False).tolist():
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match="file|compressed image"):
            decode(trained, bytes(damaged))
    with pytest.raises(ValueError, match="cut short"):
        decode(trained, data[:-3])
    with pytest.raises(ValueError, match="no compressed image"):
        decode(trained, b"\x89PNG....")


@settings(max_examples=25, deadline=None)
@given(payload=st.binary(max_size=120), width=st.integers(1, 300), height=st.integers(1, 300), channels=st.sampled_from([1, 3]), level=st.floats(0, 3), data=st.data())
def test_files_that_no_encoder_wrote_end(trained: TrainedCodec, payload: bytes, width: int, height: int, channels: int, level: float, data: st.DataObject) -> None:
    """With a right checksum of the whole: an error, or a picture of the size that the header says."""
    header = Header(data.draw(st.sampled_from(profiles(trained))), channels, trained.hash, width, height, level, data.draw(st.integers(0, 2**32 - 1)))
    with pytest.raises(ValueError, match="payload|symbols|level|whole"):
        decode(trained, pack(header, payload))
    for size in ((10_000, 6401), (2_500_000, 1), (1, 3_000_000)):  # the last two would be filled up to more than twice the limit
        with pytest.raises(ValueError, match="says what no encoder writes"):
            decode(trained, pack(Header("fast", 3, trained.hash, *size, 0.0, 0), payload))


def test_models_come_back_and_are_told_apart(trained: TrainedCodec, tmp_path: Path) -> None:
    path = tmp_path / "again.safetensors"
    save_codec(trained, path)
    again = load_codec(path)
    assert again.hash == trained.hash
    data = encode(trained, picture(64, 64)).data
    assert np.array_equal(decode(again, data), decode(trained, data))
    other = TrainedCodec(trained.codec, trained.tables, trained.settings, trained.lmbdas, {"data": "other"}, 0)
    save_codec(other, path)
    with pytest.raises(ValueError, match="compressed with another model"):
        decode(load_codec(path), data)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is no codec, or damaged"):
        load_codec(path)
    with pytest.raises(ValueError, match="level 7: this model has levels from 0 to"):
        encode(trained, picture(64, 64), level=7.0)
