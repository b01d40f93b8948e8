"""The encoder as others use it: any size of image, chosen layers, gradients, and the same features from every kind of file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from lcl.features import Encoder, VisionPart, load_encoder, whole_patches
from lcl.model import ModelConfig
from lcl.published import load_published
from lcl.text import TextConfig
from lcl.vision import VisionConfig, normalise
from tests.made_encoders import KINDS, SQUARE, checkpoint_of, random_model, seeded


def patches(images: Tensor, patch_px: int) -> Tensor:
    count, _, height, width = images.shape
    cut = images.reshape(count, 3, height // patch_px, patch_px, width // patch_px, patch_px)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, 3 * patch_px**2)


@KINDS
def test_features_are_the_models_own_at_its_own_size(settings: ModelConfig) -> None:
    """Bit for bit for the square tower; the flexible one packs images in training, which changes the order of sums."""
    model = random_model(settings)
    encoder = Encoder(model)
    images = torch.rand(5, 3, 16, 16, generator=seeded())
    values = normalise(images, dtype=torch.float32)
    values = values if settings.vision.kind == "vit" else patches(values, 4)
    tokens, latents = model.visual(values, ((4, 4),) * 5), model.encode_images(values, ((4, 4),) * 5)
    features = encoder(images, layers=(0, -1, 1))
    if settings.vision.kind == "vit":
        assert torch.equal(features.tokens, tokens) and torch.equal(features.pooled, latents.pooled)
    torch.testing.assert_close((features.tokens, features.pooled), (tokens, latents.pooled), atol=2e-5, rtol=1e-5)
    assert features.tokens.shape == (5, 16, 24) and features.pooled.shape == (5, 32) and features.grid == (4, 4) and features.pooled.std() > 0.05
    assert (encoder.image_px, encoder.patch_px, encoder.width, encoder.embed_width, encoder.num_layers) == (16, 4, 24, 32, 3)


@KINDS
def test_layers_are_the_outputs_of_the_blocks(settings: ModelConfig) -> None:
    encoder = Encoder(random_model(settings))
    images = torch.rand(2, 3, 16, 16, generator=seeded())
    seen: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *call: seen.append(call[2])) for block in encoder.visual.blocks_of_layers]
    features = encoder(images, layers=(2, 0, -2, 0))
    for hook in hooks:
        hook.remove()
    first = 1 if settings.vision.kind == "vit" else 0  # behind the class token
    assert len(seen) == 3 and len(features.layers) == 4
    assert all(torch.equal(layer, seen[number][:, first:]) for layer, number in zip(features.layers, (2, 0, 1, 0), strict=True))
    last = encoder.visual.ln_post if settings.vision.kind == "vit" else encoder.visual.norm
    torch.testing.assert_close(last(features.layers[0]), features.tokens)
    assert encoder(images).layers == ()


@KINDS
@pytest.mark.parametrize(("height", "width", "grid"), [(9, 30, (3, 8)), (16, 17, (4, 5)), (1, 1, (1, 1)), (40, 24, (10, 6))])
def test_any_size(settings: ModelConfig, height: int, width: int, grid: tuple[int, int]) -> None:
    """The sizes here include more patches than the flexible tower was packed with."""
    encoder = Encoder(random_model(settings))
    images = torch.rand(2, 3, height, width, generator=seeded())
    features = encoder(images, layers=(0,))
    assert features.grid == grid and features.tokens.shape == features.layers[0].shape == (2, grid[0] * grid[1], 24)
    padded = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (0, grid[0] * 4 - height), (0, grid[1] * 4 - width)), mode="edge"))
    assert torch.equal(whole_patches(images, patch_px=4), padded)
    assert torch.equal(encoder(padded).tokens, features.tokens)
    single = encoder(images[1:])
    torch.testing.assert_close(single.tokens[0], features.tokens[1], atol=1e-5, rtol=1e-5)


def test_positions_are_resized_as_a_picture() -> None:
    """The square tower at 6 x 3 patches is the tower whose table of positions was resized to that, bicubic and antialiased."""
    model = random_model(SQUARE)
    encoder = Encoder(model)
    images = torch.rand(2, 3, 24, 12, generator=seeded())
    found = encoder(images)
    table = model.visual.positional_embedding
    picture = table[1:].reshape(1, 4, 4, 24).permute(0, 3, 1, 2)
    resized = interpolate(picture, size=(6, 3), mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(18, 24)
    model.visual.grid_size, model.visual.positional_embedding = (6, 3), torch.nn.Parameter(torch.cat([table[:1], resized]), requires_grad=False)
    torch.testing.assert_close(encoder(images).tokens, found.tokens)


@KINDS
def test_gradients_flow_to_the_images_alone(settings: ModelConfig) -> None:
    """Against finite differences in float64, on a size that is padded and whose positions are resized; padded pixels count for their source."""
    encoder = Encoder(random_model(settings)).double()
    images = torch.rand(1, 3, 6, 9, dtype=torch.float64, generator=seeded(), requires_grad=True)
    weights = torch.randn(1, 6, 24, dtype=torch.float64, generator=seeded(1))

    def objective(values: Tensor) -> Tensor:
        features = encoder(values, layers=(0,))
        return (features.tokens * weights).sum() + features.pooled.square().sum() + features.layers[0].sin().sum()

    objective(images).backward()
    for place in ((0, 0, 0, 0), (0, 1, 5, 8), (0, 2, 3, 4)):  # the second is the corner that padding repeats
        step = torch.zeros_like(images)
        step[place] = 1e-5
        difference = (objective(images.detach() + step) - objective(images.detach() - step)) / 2e-5
        assert float(images.grad[place]) == pytest.approx(float(difference), rel=1e-5, abs=1e-6)
    assert not any(parameter.requires_grad for parameter in encoder.parameters()) and not encoder.training
    assert encoder(images[:, :, :4, :4]).pooled.requires_grad and not encoder(images.detach()).pooled.requires_grad


def test_images_that_it_does_not_take() -> None:
    encoder = Encoder(random_model(SQUARE))
    for images, message in [
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "images are uint8 .* give float values in .0, 1."),
        (torch.zeros(3, 16, 16), r"of shape \(3, 16, 16\): give float values"),
        (torch.zeros(1, 16, 16, 3), r"of shape \(1, 16, 16, 3\)"),
        (torch.zeros(1, 3, 0, 16), "have no pixel"),
    ]:
        with pytest.raises(ValueError, match=message):
            encoder(images)
    for layers in ((3,), (0, -4)):
        with pytest.raises(ValueError, match="are not there: the encoder has 3 blocks"):
            encoder(torch.rand(1, 3, 16, 16), layers=layers)


@KINDS
def test_the_encoder_of_a_checkpoint(settings: ModelConfig, tmp_path: Path) -> None:
    settings = replace(settings, image_latents=2)
    model = random_model(settings)
    loaded, own = load_encoder(checkpoint_of(model, tmp_path / "step-1")), Encoder(model)
    images = torch.rand(2, 3, 12, 20, generator=seeded())
    assert torch.equal(loaded(images).pooled, own(images).pooled) and torch.equal(loaded(images).tokens, own(images).tokens)
    assert loaded.fingerprint == own.fingerprint != Encoder(random_model(settings, seed=1)).fingerprint
    assert {name.partition(".")[0] for name in loaded.state_dict()} == {"visual", "pool_project"}, "the language model stays on disk"
    with pytest.raises(ValueError, match="holds no moving average"):
        load_encoder(tmp_path / "step-1", weights="ema")


WIDE = ModelConfig(  # heads of 64, as published
    embed_width=64, pool_heads=1, vision=VisionConfig(image_px=16, patch_px=8, width=128, layers=2),
    text=TextConfig(context_length=16, width=64, layers=1, heads=1),
)  # fmt: skip


def test_published_weights_are_read_with_sizes_from_their_shapes(tmp_path: Path) -> None:
    model = random_model(WIDE)
    state = model.state_dict() | {"logit_scale": model.logit_scale.detach()[0]}
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "official.pt")
    save_file({name: value.bfloat16() for name, value in state.items()}, tmp_path / "half.safetensors")
    images = torch.rand(3, 3, 16, 16, generator=seeded())
    encoder, expected = load_encoder(tmp_path / "official.pt"), Encoder(model)(images)
    assert torch.equal(encoder(images).pooled, expected.pooled) and torch.equal(encoder(images).tokens, expected.tokens)
    assert encoder.fingerprint == Encoder(model).fingerprint and encoder.settings.vision == WIDE.vision
    half = load_encoder(tmp_path / "half.safetensors")
    assert {value.dtype for value in half.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(half(images).pooled, expected.pooled, atol=0.05, rtol=0.05)
    with pytest.raises(ValueError, match="official.pt holds one set of weights"):
        load_encoder(tmp_path / "official.pt", weights="ema")


def test_the_official_encoder(shared: Path, tmp_path: Path) -> None:
    """Against pooled latents of the official code. Its heads are not of the released width, so its file alone is refused, with the cure."""
    with np.load(shared / "data" / "reference" / "lcl_tiny.npz") as file:
        reference = dict(file)
    state = {key.removeprefix("sd/"): torch.from_numpy(value) for key, value in reference.items() if key.startswith("sd/")}
    save_file(state, tmp_path / "tiny.safetensors")
    (tmp_path / "config.json").write_text(str(reference["config"]))
    encoder = Encoder(load_published(tmp_path / "config.json", tmp_path / "tiny.safetensors"))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))
    images = torch.from_numpy(reference["images"]) * std + mean
    np.testing.assert_allclose(normalize(encoder(images).pooled, dim=-1).numpy(), reference["encode_image"], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="has widths of 64 and 48, not multiples of 64: .* give its config to `lcl import-published`"):
        load_encoder(tmp_path / "tiny.safetensors")


def test_files_that_hold_no_encoder(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors holds no vision encoder of a published LCL model .KeyError: 'visual.conv1.weight'"):
        load_encoder(tmp_path / "other.safetensors")
    state = VisionPart(WIDE).state_dict()
    save_file({name: value for name, value in state.items() if name != "visual.ln_post.bias"}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="lacks visual.ln_post.bias"):
        load_encoder(tmp_path / "part.safetensors")
    assert load_file(tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="no such run or checkpoint folder"):
        load_encoder(tmp_path / "nothing")
