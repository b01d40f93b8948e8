"""The weights that are shown are those that the pooling uses, and the pictures show them where they belong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from lcl.core.images import decode_image
from lcl.model import LCL, ModelConfig
from lcl.rows import ImageInput, stack_inputs
from lcl.text import TextConfig
from lcl.use.attention_page import AttentionMapsConfig, attention_maps, heat_over, write_attention_page
from lcl.use.pooling_attention import pooling_weights
from lcl.vision import VisionConfig, normalise, valid_patches
from tests.conftest import Run
from tests.made_encoders import toy_checkpoint
from tests.made_shards import made_image

SMALL = ModelConfig(
    embed_width=24, pool_heads=3, vision=VisionConfig(image_px=16, patch_px=4, width=16, layers=2, head_width=8), text=TextConfig(width=24, layers=1, heads=2, context_length=16)
)
KINDS = {
    "vit": SMALL,
    "vit with queries": replace(SMALL, image_latents=3),
    "naflex": replace(SMALL, vision=VisionConfig(kind="naflex", patch_px=4, width=16, layers=2, head_width=8, max_patches=12)),
}
SIZES = [(20, 12), (12, 20), (16, 16)]


def made_model(settings: ModelConfig) -> LCL:
    torch.manual_seed(0)
    model = LCL(settings, vocab_size=32).eval()
    with torch.no_grad():  # at the published start of deviation 0.02 all queries look everywhere alike
        for parameter in model.pool_project.pooler.parameters():
            parameter.normal_(std=0.3)
    return model


def inputs_of(model: LCL) -> list[ImageInput]:
    return [model.settings.vision.evaluation_input(made_image(number, size=size).data) for number, size in enumerate(SIZES)]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_weights_times_values_through_the_projection_are_the_pooled_latent(kind: str) -> None:
    model = made_model(KINDS[kind]).double()
    inputs = inputs_of(model)
    grids = tuple(image.grid for image in inputs)
    images = normalise(torch.from_numpy(stack_inputs(inputs)), dtype=torch.float64)
    patches = model.visual(images, grids)
    valid = valid_patches(grids, patches.shape[1], patches.device)
    assert (valid is not None) == (kind == "naflex")
    weights = pooling_weights(model.pool_project, patches, valid)
    cross = model.pool_project.pooler.cross_attn
    values = rearrange(cross.v(model.pool_project.pooler.norm1_v(patches)) + cross.v_bias, "images patches (heads w) -> images heads patches w", heads=cross.heads)
    pooled = cross.proj(rearrange(torch.einsum("ihp,ihpw->ihw", weights, values), "images heads w -> images (heads w)"))
    used = model.encode_images(images, grids).pooled
    assert used.std() > 0.1 and (pooled - used).abs().max() < 1e-6
    assert (weights.sum(dim=-1) - 1).abs().max() < 1e-12 and weights.min() >= 0
    if valid is not None:
        assert not weights[~valid[:, None].expand_as(weights)].any()
    assert (weights[:, 0] - weights[:, 1]).abs().max() > 0.01  # heads differ


@torch.no_grad()
def test_without_keys_the_query_looks_everywhere_alike() -> None:
    model = made_model(SMALL)
    model.pool_project.pooler.cross_attn.k.weight.zero_()
    for found in attention_maps(model, inputs_of(model)):
        assert found.weights.shape == (3, 4, 4) and np.allclose(found.weights, 1 / 16)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_lie_over_what_the_encoder_sees(kind: str) -> None:
    model = made_model(KINDS[kind])
    inputs = inputs_of(model)
    together = attention_maps(model, inputs)
    for image, found in zip(inputs, together, strict=True):
        (alone,) = attention_maps(model, [image])
        assert found.weights.shape == (3, *image.grid) and np.allclose(found.weights, alone.weights, atol=1e-6)
        assert found.pixels.shape == (4 * image.grid[0], 4 * image.grid[1], 3)
    if kind == "naflex":
        whole = np.asarray(decode_image(made_image(0, size=SIZES[0]).data).resize((together[0].pixels.shape[1], together[0].pixels.shape[0]), Image.Resampling.BICUBIC))
        assert np.array_equal(together[0].pixels, whole)


def test_the_brightest_block_is_the_patch_with_the_largest_weight() -> None:
    weights = np.array([[0.1, 0.0, 0.2], [0.0, 0.6, 0.1]], np.float32)
    picture = np.asarray(heat_over(np.full((8, 12, 3), 100, np.uint8), weights, size=(48, 32)))
    brightness = rearrange(picture.astype(float).mean(axis=2), "(rows h) (columns w) -> rows columns (h w)", rows=2, columns=3)
    assert (np.ptp(brightness, axis=2) == 0).all()
    assert np.array_equal(np.argsort(brightness.mean(axis=2).ravel(), kind="stable"), np.argsort(weights.ravel(), kind="stable"))


def test_the_page_and_its_files(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint(tmp_path / "toy")
    (tmp_path / "photos" / "inside").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "photos" / "inside" / f"<{number}>.jpg").write_bytes(made_image(number).data)
    (tmp_path / "one.jpg").write_bytes(made_image(7).data)
    command = AttentionMapsConfig(encoder=str(checkpoint), images=(str(tmp_path / "one.jpg"), str(tmp_path / "photos")), output=str(tmp_path / "out" / "page.html"), num_images=3)
    assert write_attention_page(command) == (tmp_path / "out" / "page.html", 3, 4)
    page = (tmp_path / "out" / "page.html").read_text()
    files = sorted(path.name for path in (tmp_path / "out" / "page").iterdir())
    heads = len([name for name in files if name.startswith("0001-head-")])
    assert heads > 1 and len(files) == 3 * (2 + heads) == page.count('src="data:image/png;base64,') and page.count("<img") == len(files)
    shown = [page.index(name) for name in ("one.jpg", "&lt;1&gt;.jpg", "&lt;2&gt;.jpg")]  # evenly over the four
    assert shown == sorted(shown) and "&lt;0&gt;" not in page and "<1>" not in page and "3 images of the 4 given" in page
    before = page
    write_attention_page(command)
    assert (tmp_path / "out" / "page.html").read_text() == before
    write_attention_page(replace(command, num_images=1))
    assert len(list((tmp_path / "out" / "page").iterdir())) == 2 + heads, "the pictures of the first page are gone"


def test_mistakes_are_refused(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint(tmp_path / "toy")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "mine.html").write_text("mine")
    (tmp_path / "album").mkdir()
    for images, output, message in (
        ("none.jpg", "page.html", "none.jpg is no image, nor a folder"),
        ("empty", "page.html", "empty is no image, nor a folder"),
        ("text.jpg", "page.html", r"text.jpg cannot be read as an image \(image_unknown_format\)"),
        ("text.jpg", "page", "page is no HTML file"),
        ("text.jpg", "mine.html", "mine.html is there and is no page of lcl"),
        ("text.jpg", "album.html", "album is there, and the pictures would go into a folder of this name"),
    ):
        with pytest.raises(ValueError, match=message):
            write_attention_page(AttentionMapsConfig(encoder=str(checkpoint), images=(str(tmp_path / images),), output=str(tmp_path / output)))
        assert not (tmp_path / "page").exists()


def test_as_a_command(run: Run, tmp_path: Path) -> None:
    (tmp_path / "one.jpg").write_bytes(made_image(7).data)
    result = run("python", "-m", "lcl.cli", "attention-maps", "--encoder", toy_checkpoint(tmp_path / "toy"), "--images", tmp_path / "one.jpg", "--output", tmp_path / "page.html")
    assert result.returncode == 0 and "attention maps of 1 of 1 images: " in result.stdout, result.stderr
