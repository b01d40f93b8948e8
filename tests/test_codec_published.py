"""Equality with the published codecs, at toy size: reconstructions and likelihoods of the official code on weights that `made_weights` makes again.

published_codecs.npz holds what CCA's code (commit c7088d2, on CompressAI 1.2.8 and PyTorch, fp32 on a CPU) and CompressAI's MeanScaleHyperprior(8, 12) gave on
`np.random.default_rng(7).random((2, 3, 64, 128), dtype=float32)`: reconstructions at every fourth pixel, all likelihoods. CCA was made with M = 20, groups as
i^1.7 for i = 1, 2, 3, ae_dim [8, 10, 12], one NAF block everywhere, em_dim 12, cca_training.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from downstream.codec.cca import CCA, Auxiliary, CCAConfig
from downstream.codec.gaussian import bits_of
from downstream.codec.image_codec import decode, encode
from downstream.codec.mean_scale import MeanScale, MeanScaleConfig
from downstream.codec.model_file import load_codec
from downstream.codec.published import load_cca, load_mean_scale
from downstream.codec.rounding import rounded
from downstream.import_codec import ImportCodecConfig, main
from tests.made_weights import made_weights
from tests.test_image_codec import picture

PUBLISHED = Path(__file__).parent / "published_codecs.npz"
TOY = CCAConfig(widths=(8, 10, 12), latent_width=20, num_groups=3, num_blocks=1, entropy_width=12, entropy_blocks=1)


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in np.load(PUBLISHED).items()}


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(7).random((2, 3, 64, 128), dtype=np.float32))


@torch.no_grad()
def test_cca_gives_the_published_numbers(published: dict[str, torch.Tensor], x: torch.Tensor) -> None:
    state = CCA(TOY).state_dict() | {f"aux_entropymodel.{name}": value for name, value in Auxiliary(TOY).state_dict().items()}
    codec, auxiliary = load_cca(made_weights(state) | {"gaussian_conditional._offset": torch.zeros(0)}, TOY)
    assert auxiliary is not None
    found = codec(x)
    torch.testing.assert_close(found.x_hat[:, :, ::4, ::4], published["x_hat"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.coded.y_bits.sum(dim=0), bits_of(published["y"]), atol=0, rtol=1e-5)
    torch.testing.assert_close(found.coded.z_bits, bits_of(published["z"]), atol=0, rtol=1e-5)
    y = codec.analysis(x)
    z_hat = rounded(z := codec.hyper_analysis(y), codec.z_entropy_bottleneck.medians.expand_as(z))[0]
    torch.testing.assert_close(torch.cat(auxiliary(y, codec.hyper_synthesis(z_hat), rounded), dim=1), published["y_cca"], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_mean_scale_hyperprior_gives_the_numbers_of_compressai(published: dict[str, torch.Tensor], x: torch.Tensor) -> None:
    sizes = MeanScaleConfig(width=8, latent_width=12)
    state = {name.replace("z_entropy_bottleneck", "entropy_bottleneck"): value for name, value in MeanScale(sizes).state_dict().items()}
    found = load_mean_scale(made_weights(state), sizes)(x)
    torch.testing.assert_close(found.x_hat[:, :, ::4, ::4], published["mean_scale_x_hat"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.coded.bits, bits_of(published["mean_scale_y"]) + bits_of(published["mean_scale_z"]), atol=0, rtol=1e-5)


def test_sizes_of_the_published_model() -> None:
    """64.99 million parameters in five groups that grow as i^1.7."""
    assert CCAConfig().group_sizes() == (8, 28, 56, 92, 136)
    with torch.device("meta"):
        assert round(sum(one.numel() for one in CCA(CCAConfig()).parameters()) / 1e6, 2) == 64.99
        assert round(sum(one.numel() for one in Auxiliary(CCAConfig()).parameters()) / 1e6, 2) == 29.27


def test_weights_of_earlier_compressai_have_other_names(x: torch.Tensor) -> None:
    codec = CCA(TOY).eval()
    earlier = {}
    for name, value in codec.state_dict().items():
        for old, new in (("matrices.", "_matrix"), ("biases.", "_bias"), ("factors.", "_factor")):
            name = name.replace(old, new)
        earlier[name] = value
    again, _ = load_cca(earlier, TOY)
    with torch.no_grad():
        assert torch.equal(again(x).x_hat, codec(x).x_hat)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["cca", "mean_scale"])
def test_published_weights_become_a_codec_file(kind: str, x: torch.Tensor, published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """It codes pictures, and still gives the published numbers."""
    Image.fromarray(picture(280, 300)).save(tmp_path / "photo.png")
    state = CCA(TOY).state_dict() | {f"aux_entropymodel.{name}": value for name, value in Auxiliary(TOY).state_dict().items()}
    if kind == "mean_scale":
        state = {name.replace("z_entropy_bottleneck", "entropy_bottleneck"): value for name, value in MeanScale(MeanScaleConfig(width=8, latent_width=12)).state_dict().items()}
    torch.save({"state_dict": made_weights(state)}, tmp_path / "published.pth")
    settings = ImportCodecConfig(weights=str(tmp_path / "published.pth"), output=str(tmp_path / "codec.safetensors"), lmbda=0.02, kind=kind, cca=TOY, photographs=str(tmp_path) if kind == "mean_scale" else "")
    main(settings)
    trained = load_codec(tmp_path / "codec.safetensors")
    torch.testing.assert_close(trained.codec(x).x_hat[:, :, ::4, ::4], published["x_hat" if kind == "cca" else "mean_scale_x_hat"], atol=1e-5, rtol=1e-5)
    for profile in ("fast", "portable")[: 1 + (kind == "mean_scale")]:
        assert decode(trained, encode(trained, picture(70, 90), profile=profile).data).shape == (70, 90, 3)
    for change, message in (
        ({}, "is there already"), ({"output": "other", "photographs": "" if kind == "mean_scale" else "photos"}, "--photographs is for --kind mean_scale"),
        ({"output": "other", "kind": "cca", "photographs": "", "cca": replace(TOY, widths=(8, 8, 8))}, "holds no cca of these sizes"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            main(replace(settings, **change))


@pytest.mark.parametrize(("settings", "message"), [(CCAConfig(latent_width=6), "leave one empty"), (CCAConfig(window=4), "give an odd number")])
def test_sizes_that_do_not_fit_are_named(settings: CCAConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CCA(settings)
