"""What an encoder adds to a codec: an adapter of the encoding side, and a distortion of what it sees, in training and refinement."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from downstream import codec_decode, codec_encode, eval_codec
from downstream.codec.adapter import AdapterConfig
from downstream.codec.image_codec import analyse_in_tiles, decode, encode
from downstream.codec.mean_scale import MeanScaleConfig
from downstream.codec.model import Codec
from downstream.codec.model_file import CodecConfig, TrainedCodec, finish, load_codec, save_codec
from downstream.codec.objective import CodecObjective, ObjectiveConfig
from downstream.codec.refine import RefineConfig, Refined, Semantic, reconstruct, refine
from downstream.codec.train_config import PRESETS
from downstream.origin_marks import Mark, read_mark
from downstream.sight import Sight, SightConfig, resized, spread_layers
from downstream.tiles import padded
from lcl.core.files import sha256_of
from lcl.features import Encoder
from tests.made_encoders import FLEXIBLE, KINDS, SQUARE, checkpoint_of, random_model
from tests.made_weights import made_weights
from tests.processes import run_ranks
from tests.test_image_codec import KINDS as CODECS
from tests.test_image_codec import picture, widen

TOKENS = AdapterConfig(source="tokens", width=8, num_blocks=2, window=3)
PLAIN = CodecConfig(mean_scale=MeanScaleConfig(width=8, latent_width=12))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(random_model(SQUARE))


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


# --- How an encoder looks

def test_layers_are_spread_and_end_with_the_last() -> None:
    assert spread_layers(12, 3) == [3, 7, 11] and spread_layers(2, 3) == [0, 1] and spread_layers(3, 1) == [2] and spread_layers(24, 4) == [5, 11, 17, 23]
    assert all(spread_layers(depth, num)[-1] == depth - 1 and len(spread_layers(depth, num)) == min(depth, num) for depth in range(1, 30) for num in range(1, 40))


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), max_patches=st.integers(1, 40))
def test_a_picture_of_any_size_is_seen_in_few_patches(height: int, width: int, max_patches: int) -> None:
    seen = resized(torch.rand(1, 3, height, width), patch_px=4, max_patches=max_patches)
    rows, columns = seen.shape[-2] / 4, seen.shape[-1] / 4
    assert rows.is_integer() and columns.is_integer() and 1 <= rows * columns <= max_patches
    assert 0 <= seen.min() and seen.max() <= 1


@KINDS
def test_a_square_of_the_trained_size_is_seen_as_it_is(settings: object) -> None:
    sight, x = Sight(Encoder(random_model(settings)), SightConfig()), torch.rand(2, 3, 16, 16)
    assert torch.allclose(resized(x, patch_px=4, max_patches=sight.max_patches), x, atol=1e-6)
    features = sight.encoder(x, layers=[0, 1])
    assert torch.allclose(sight.tokens(x), torch.stack([*features.layers, features.tokens]), atol=1e-5) and sight.layers == [0, 1, 2]
    found = sight.feature_map(x)
    assert found.shape == (2, sight.num_features, 4, 4)
    assert torch.allclose(found[1, 24:48, 2, 3], features.layers[1][1, 2 * 4 + 3], atol=1e-5)


@KINDS
def test_the_distance_is_one_less_the_cosine_token_by_token(settings: object) -> None:
    sight = Sight(Encoder(random_model(settings)), SightConfig(num_layers=2))
    x, x_hat = torch.rand(2, 3, 40, 64), torch.rand(2, 3, 40, 64)
    wanted, found = sight.tokens(x), sight.tokens(x_hat)
    layers, images, patches, _ = wanted.shape
    assert layers == 2 and patches == 3 * 5
    for image in range(images):
        one_by_one = [1 - float(wanted[layer, image, patch] @ found[layer, image, patch] / wanted[layer, image, patch].norm() / found[layer, image, patch].norm()) for layer in range(layers) for patch in range(patches)]  # fmt: skip
        assert float(sight.distance(wanted, x_hat)[image]) == pytest.approx(np.mean(one_by_one), abs=1e-5)
    assert torch.allclose(sight.distance(wanted, x), torch.zeros(2), atol=1e-5)
    assert torch.allclose(sight.distance(found, x), sight.distance(wanted, x_hat), atol=1e-5)


def test_gradients_reach_the_picture_and_nothing_beyond_white(encoder: Encoder) -> None:
    """Along the gradient the distance falls as fast as the gradient says; pixels that a viewer gets cut have none."""
    sight, x = Sight(encoder, SightConfig()), torch.rand(1, 3, 48, 32)
    wanted, x_hat = sight.tokens(x), (0.7 * x + 0.1).requires_grad_()
    (slope,) = torch.autograd.grad(sight.distance(wanted, x_hat).sum(), x_hat)
    step = 1e-2 * slope / slope.norm()
    with torch.no_grad():
        change = sight.distance(wanted, x_hat + step) - sight.distance(wanted, x_hat - step)
    assert float(change) == pytest.approx(2 * float((slope * step).sum()), rel=0.03) and float(slope.norm()) > 0
    (none,) = torch.autograd.grad(sight.distance(wanted, x_hat + 5).sum(), x_hat)
    assert not none.any() and not any(parameter.requires_grad for parameter in encoder.parameters())


# --- The adapter

def with_adapter(made: CodecConfig, encoder: Encoder, adapter: AdapterConfig = TOKENS) -> Codec:
    """A codec of made weights, whose adapter adds something."""
    sight = Sight(encoder, adapter.sight)
    codec = replace(made, adapter=adapter).build(num_features=sight.num_features)
    codec.load_state_dict(made_weights(codec.state_dict()))
    widen(codec)
    codec.adapter.sight = sight
    with torch.no_grad():
        codec.adapter.gate.fill_(0.7)
    return codec


@pytest.mark.parametrize("source", ["tokens", "latents"])
def test_the_codec_starts_as_the_plain_one(encoder: Encoder, source: str) -> None:
    adapter = replace(TOKENS, source=source)
    torch.manual_seed(1)
    plain = PLAIN.build()
    torch.manual_seed(1)
    codec = replace(PLAIN, adapter=adapter).build(num_features=Sight(encoder, adapter.sight).num_features)
    codec.adapter.sight = Sight(encoder, adapter.sight)
    x = torch.rand(2, 3, 64, 128)
    assert torch.equal(codec.analysis(x), plain.analysis(x))
    codec.analysis(x).square().sum().backward()
    assert codec.adapter.gate.grad.abs().min() > 0 and not any(name.startswith("adapter.sight") for name in codec.state_dict())


@pytest.mark.parametrize("kind", list(CODECS))
@pytest.mark.parametrize("source", ["tokens", "latents"])
@pytest.mark.parametrize("tile_px", [64, 192])
@torch.no_grad()
def test_tiles_see_what_the_whole_picture_does(encoder: Encoder, kind: str, source: str, tile_px: int) -> None:
    codec = with_adapter(CODECS[kind], encoder, replace(TOKENS, source=source))
    x = padded(tensor(picture(330, 450)), 64)
    level = None if codec.gains is None else torch.zeros(1)
    whole, tiled = analyse_in_tiles(codec, x, level, tile_px=0), analyse_in_tiles(codec, x, level, tile_px=tile_px)
    assert torch.allclose(tiled.y, whole.y, atol=1e-5) and torch.allclose(tiled.z, whole.z, atol=1e-5)
    assert (codec.adapter(x, codec.g_a(x)) - codec.g_a(x)).abs().max() > 0.01


@pytest.fixture(scope="module")
def adapted(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec = with_adapter(PLAIN, encoder)
    path = tmp_path_factory.mktemp("adapted") / "codec.safetensors"
    save_codec(finish(codec, replace(PLAIN, adapter=TOKENS), (0.01,), {}, [torch.rand(2, 3, 64, 64)]), path)
    return path


def test_only_the_encoding_side_needs_the_encoder(encoder: Encoder, adapted: Path) -> None:
    seeing, blind = load_codec(adapted, encoder=encoder), load_codec(adapted)
    assert seeing.encoder is not None and seeing.encoder.fingerprint == encoder.fingerprint and blind.encoder == seeing.encoder
    pixels = picture(90, 130)
    data = {profile: encode(seeing, pixels, profile=profile).data for profile in ("fast", "portable")}
    found = {profile: decode(blind, data[profile]) for profile in data}
    blind.codec.adapter = None  # the decoder is that of the plain codec
    assert all(np.array_equal(found[profile], decode(model, data[profile])) for profile in data for model in (blind, seeing))
    with torch.no_grad():
        x = padded(tensor(pixels), 64)
        assert not torch.allclose(seeing.codec.analysis(x), blind.codec.analysis(x), atol=0.01)


def test_another_encoder_or_none_is_an_error(adapted: Path) -> None:
    with pytest.raises(ValueError, match="give --encoder"):
        encode(load_codec(adapted), picture(64, 64))
    with pytest.raises(ValueError, match="was trained with"):
        load_codec(adapted, encoder=Encoder(random_model(SQUARE, seed=1)))
    with pytest.raises(ValueError, match="window is 4"):
        replace(PLAIN, adapter=AdapterConfig(source="latents", window=4)).build()


# --- The distortion

@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedCodec:
    codec = PLAIN.build()
    codec.load_state_dict(made_weights(codec.state_dict()))
    widen(codec)
    return finish(codec, PLAIN, (0.01,), {}, [torch.rand(2, 3, 64, 64)])


def refined(trained: TrainedCodec, x: torch.Tensor, **options: object) -> Refined:
    return refine(trained.codec, x, RefineConfig(iterations=40, learning_rate=0.02, check_every=10), lmbda=0.01, **options)


def test_refinement_gives_pixels_for_what_the_encoder_sees(trained: TrainedCodec) -> None:
    sight, x = Sight(Encoder(random_model(FLEXIBLE)), SightConfig(max_patches=64)), tensor(picture(64, 64))
    plain, weightless = refined(trained, x), refined(trained, x, semantic=Semantic(sight, 0.0))
    assert torch.equal(plain.latents.y, weightless.latents.y) and plain.losses == weightless.losses
    seen = refined(trained, x, semantic=Semantic(sight, 1e3))
    assert min(seen.losses.values()) < seen.losses[0]

    def measures(found: Refined) -> tuple[float, float]:
        with torch.no_grad():
            x_hat = reconstruct(trained.codec, *found.latents).x_hat
            return float((x - x_hat).square().mean()), float(sight.distance(sight.tokens(x), x_hat))

    assert measures(seen)[1] < measures(plain)[1] and measures(seen)[0] > measures(plain)[0]


def test_training_and_refinement_count_alike(encoder: Encoder) -> None:
    """gamma in the objective and the weight in the refinement are one."""
    sight, x, lmbda, gamma = Sight(encoder, SightConfig()), torch.rand(1, 3, 64, 64), 0.01, 3.0
    codec = PLAIN.build()

    def loss(value: float, given: Sight | None) -> float:
        objective = CodecObjective(codec, ObjectiveConfig(lmbdas=(lmbda,), gamma=value), sight=given)
        return float(objective(x, None, torch.Generator().manual_seed(0), 0.0).loss.detach())

    start, seen = (refine(codec, x, RefineConfig(iterations=0), lmbda=lmbda, semantic=semantic) for semantic in (None, Semantic(sight, gamma)))
    part = float(seen.losses[0] - start.losses[0])
    assert loss(gamma, sight) - loss(0.0, sight) == pytest.approx(part, rel=1e-3) and part > 0
    with pytest.raises(ValueError, match="give --encoder"):
        loss(gamma, None)


# --- By command and in files

@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(3):
        Image.fromarray(picture(90 + 10 * number, 120, seed=number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_of(random_model(SQUARE), tmp_path_factory.mktemp("encoder") / "step-000001")


def command(photographs: Path, checkpoint: Path, output: Path) -> Sequence[object]:
    looks = ("--model.adapter.source", "tokens", "--model.adapter.width", 8, "--objective.gamma", 2.0, "--encoder", checkpoint)
    return ["downstream/train_codec.py", "--preset", "toy", "--photographs", photographs, "--output", output, *looks]


@pytest.fixture(scope="module")
def whole(photographs: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run_ranks(command(photographs, checkpoint, folder / "run"), world_size=1)
    return folder / "run"


def curve(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[f"train/{name}"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_resumed_equals_uninterrupted_and_two_ranks_one(photographs: Path, checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "step-000012")
    run_ranks(command(photographs, checkpoint, tmp_path / "run"), world_size=1)
    assert (tmp_path / "run" / "codec.safetensors").read_bytes() == (whole / "codec.safetensors").read_bytes()
    run_ranks(command(photographs, checkpoint, tmp_path / "two"), world_size=2)
    for name in ("loss", "semantic"):
        assert curve(tmp_path / "run", name) == curve(whole, name) and len(curve(whole, name)) == 12
        np.testing.assert_allclose(curve(tmp_path / "two", name), curve(whole, name), rtol=1e-4)
    kept = load_file(whole / "codec.safetensors")
    assert np.abs(kept["codec.adapter.gate"]).max() > 0 and not any(name.startswith(("codec.adapter.sight", "visual")) for name in kept)


def test_pictures_to_files_and_back(photographs: Path, checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    model, source, target = str(whole / "codec.safetensors"), str(photographs / "0.png"), str(tmp_path / "a.lclc")
    codec_encode.main(codec_encode.EncodeConfig(input=source, output=target, model=model, encoder=str(checkpoint), refine=3, semantic=2.0))
    codec_decode.main(codec_decode.DecodeConfig(input=target, output=str(tmp_path / "a.png"), model=model))
    with Image.open(tmp_path / "a.png") as found:
        assert found.size == (120, 90)
    assert read_mark((tmp_path / "a.png").read_bytes()) == Mark("algorithmicallyEnhanced", sha256_of(Path(model)), sha256_of(Path(target)), "semantic refinement")
    codec_encode.main(codec_encode.EncodeConfig(input=source, output=target, model=model, encoder=str(checkpoint)))
    codec_decode.main(codec_decode.DecodeConfig(input=target, output=str(tmp_path / "b.png"), model=model))
    assert read_mark((tmp_path / "b.png").read_bytes()) is None
    measuring = eval_codec.EvalCodecConfig(model=model, photographs=str(photographs), output=str(tmp_path / "rd"), encoder=str(checkpoint), classic=("JPEG",), max_photographs=1)
    eval_codec.main(measuring)
    assert (tmp_path / "rd" / "rd.json").exists()
    with pytest.raises(ValueError, match="give --encoder"):
        eval_codec.main(replace(measuring, encoder=""))


def test_what_does_not_fit_is_said(trained: TrainedCodec, photographs: Path, checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    save_codec(trained, tmp_path / "plain.safetensors")
    other = checkpoint_of(random_model(SQUARE, seed=2), tmp_path / "other" / "step-000001")
    adapted, plain = str(whole / "codec.safetensors"), str(tmp_path / "plain.safetensors")
    for model, looking, semantic, iterations, message in (
        (adapted, "", 0.0, 0, "give --encoder"),
        (adapted, str(other), 0.0, 0, "was trained with"),
        (adapted, str(checkpoint), 2.0, 0, "--semantic is a part of the refinement"),
        (plain, "", 2.0, 3, "--semantic is a part of the refinement"),
        (plain, str(checkpoint), 0.0, 3, "--encoder is for models with an adapter"),
        (plain, str(tmp_path / "gone"), 2.0, 3, "no such run or checkpoint folder"),
    ):
        with pytest.raises(ValueError, match=message):
            codec_encode.main(codec_encode.EncodeConfig(input=str(photographs / "0.png"), output=str(tmp_path / "a.lclc"), model=model, encoder=looking, semantic=semantic, refine=iterations))
    with pytest.raises(ValueError, match="--encoder is for models with an adapter"):
        eval_codec.main(eval_codec.EvalCodecConfig(model=plain, photographs=str(photographs), output=str(tmp_path / "rd"), encoder=str(checkpoint)))
    toy = replace(PRESETS["toy"], photographs=str(photographs))
    configs = replace(toy, objective=replace(toy.objective, gamma=1.0)), replace(toy, model=replace(toy.model, adapter=TOKENS))
    for config in configs:
        replace(config, encoder=str(checkpoint)).check()
        with pytest.raises(ValueError, match="give --encoder, a checkpoint"):
            config.check()
    with pytest.raises(ValueError, match="nothing looks through it"):
        replace(toy, encoder=str(checkpoint)).check()
