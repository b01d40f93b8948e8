"""Weights that come with the package: small, with a card each, and used where no model is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from downstream import codec_decode, codec_encode, detect_degradation, halve_model, restore_images
from downstream.codec.measuring import psnr_db
from downstream.flagship import RESTORERS
from downstream.origin_marks import read_mark
from downstream.tensor_file import read_any_model, write_model
from lcl.core import shipped
from lcl.core.files import sha256_of
from lcl.features import load_encoder
from tests.conftest import ROOT, Run, assert_one_line_error
from tests.test_image_codec import picture

WEIGHTS = ROOT / "lcl" / "weights"


def test_every_model_has_its_card_and_all_are_small() -> None:
    files, encoder, restorers = list(WEIGHTS.glob("*.safetensors")), WEIGHTS / shipped.ENCODER, shipped.shipped_restorers()
    assert {shipped.CODEC, shipped.DENSITY, shipped.DETECTOR} == {path.name for path in files} and sum(path.stat().st_size for path in WEIGHTS.rglob("*")) < 20e6
    for path in [*files, encoder, WEIGHTS / shipped.RESTORERS]:
        card = path.with_suffix(".md").read_text()
        assert card.startswith(f"# {path.name}\n") and all(word in card for word in ("licence", "data", "hardware", "commit", "## Measured", "## Limits")), path.name
    for path in files:
        assert read_any_model(path).metadata["about"]["commit"][:7] in path.with_suffix(".md").read_text()
    assert set(restorers) == set(RESTORERS)
    for name, path in restorers.items():
        metadata = read_any_model(path).metadata
        assert tuple(metadata["tasks"]) == RESTORERS[name][0] and metadata["about"]["commit"][:7] in (WEIGHTS / "restorers.md").read_text()
    assert load_encoder(encoder).fingerprint in (encoder / "README.md").read_text()


def assert_runs_without(run: Run, folder: Path, script: str, modules: set[str]) -> None:
    """In a process of its own, in `folder`, which imports none of the modules."""
    result = run("python", "-c", f"import os, sys; os.chdir({str(folder)!r}); {script}sys.exit(bool({modules!r} & sys.modules.keys()))")
    assert result.returncode == 0, result.stderr


def test_a_picture_is_compressed_without_a_model_and_without_ray(run: Run, tmp_path: Path) -> None:
    Image.fromarray(picture(80, 100, seed=1)).save(tmp_path / "photo.png")
    script = (
        "from downstream import codec_encode, codec_decode; "
        "codec_encode.main(codec_encode.EncodeConfig(input='photo.png')); codec_decode.main(codec_decode.DecodeConfig(input='photo.lclc', output='back.png')); "
    )
    assert_runs_without(run, tmp_path, script, {"ray", "deepspeed", "transformers", "sklearn", "tensorboard"})
    before, after = (np.asarray(Image.open(tmp_path / name)) for name in ("photo.png", "back.png"))
    assert psnr_db(before, after) > 20 and (tmp_path / "photo.lclc").stat().st_size < (tmp_path / "photo.png").stat().st_size / 4


def test_pictures_are_kept_without_loss_and_drawn_without_a_model_and_without_ray(run: Run, tmp_path: Path) -> None:
    Image.fromarray(picture(40, 50, seed=1)).save(tmp_path / "photo.png")
    script = (
        "from downstream import density_decode, density_encode, density_sample, density_verify; from downstream.density.archive_index import CodingConfig; "
        "density_encode.main(density_encode.EncodeConfig(input='photo.png', output='photo.lcld', coding=CodingConfig(steps=2))); "
        "density_decode.main(density_decode.DecodeConfig(input='photo.lcld', output='back')); density_verify.main(density_verify.VerifyConfig(input='photo.lcld', against='photo.png')); "
        "density_sample.main(density_sample.SampleConfig(output='drawn.png', num=2, columns=2, steps=2)); "
    )
    assert_runs_without(run, tmp_path, script, {"ray", "deepspeed", "transformers", "sklearn", "tensorboard"})
    assert np.array_equal(*(np.asarray(Image.open(tmp_path / name)) for name in ("photo.png", "back/photo.png")))
    assert read_mark((tmp_path / "drawn.png").read_bytes()).model_sha256 == sha256_of(WEIGHTS / shipped.DENSITY)


def test_a_picture_is_restored_without_a_model_and_without_ray(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    noisy = picture(100, 120, seed=1) + np.random.default_rng(0).normal(0, 45, (100, 120, 3))
    Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(tmp_path / "photo.png")
    script = (
        "from downstream import restore_images; restore_images.main(restore_images.RestoreConfig(input='photo.png', output='back.png', )); "
    )
    assert_runs_without(run, tmp_path, script, {"ray", "deepspeed", "transformers", "sklearn", "tensorboard"})
    assert read_mark((tmp_path / "back.png").read_bytes()).model_sha256 == sha256_of(shipped.shipped_restorers()["noise"])
    before, after = (psnr_db(picture(100, 120, seed=1), np.asarray(Image.open(tmp_path / name))) for name in ("photo.png", "back.png"))
    assert after > before + 3
    Image.fromarray(picture(100, 120, seed=1)).save(tmp_path / "clean.png")
    assert detect_degradation.main(detect_degradation.DetectConfig(input=str(tmp_path / "photo.png"))) is None
    assert "noise" in capsys.readouterr().out.split(": ")[1].split(" ")[0]
    with pytest.raises(ValueError, match="no model here was trained for that, but for low_light, mixed, motion_blur, noise, shot_noise, grain, rain"):
        restore_images.main(restore_images.RestoreConfig(input=str(tmp_path / "photo.png"), output=str(tmp_path / "none.png"), task="haze"))


def test_pictures_are_searched_without_an_encoder_and_without_ray(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(4):
        Image.fromarray(picture(40, 50, seed=seed)).save(tmp_path / "photos" / f"{seed}.png")
    script = (
        "from lcl.use.embedding import EmbedConfig, embed; from lcl.use.search_page import SearchConfig, search; "
        "embed(EmbedConfig(input=('photos',), output='features')); search(SearchConfig(features='features', output='search.html', queries=('photos/1.png',))); "
    )
    assert_runs_without(run, tmp_path, script, {"ray", "deepspeed", "tensorboard"})
    assert all(f"{seed}.png" in (tmp_path / "search.html").read_text() for seed in range(4))


def test_a_package_without_them_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    for command in (lambda: codec_encode.main(codec_encode.EncodeConfig(input="photo.png")), lambda: codec_decode.main(codec_decode.DecodeConfig(input="photo.lclc"))):
        with pytest.raises(ValueError, match="codec.safetensors is not among the weights"):
            command()


def test_halved_weights(run: Run, tmp_path: Path) -> None:
    large, small, whole = torch.randn(64, 64), torch.randn(63, 65), torch.arange(5000)
    write_model(tmp_path / "a.safetensors", {"large": large, "small": small, "whole": whole}, schema="lcl-codec/1", about={"seed": 3})
    halve_model.main(halve_model.HalveConfig(model=str(tmp_path / "a.safetensors"), output=str(tmp_path / "b.safetensors")))
    found = read_any_model(tmp_path / "b.safetensors")
    assert torch.equal(found.tensors["large"], large.half()) and torch.equal(found.tensors["small"], small) and torch.equal(found.tensors["whole"], whole)
    assert found.metadata["schema"] == "lcl-codec/1" and found.metadata["about"]["seed"] == 3 and found.metadata["about"]["half_of"] == read_any_model(tmp_path / "a.safetensors").sha256
    with pytest.raises(ValueError, match="is there already"):
        halve_model.main(halve_model.HalveConfig(model=str(tmp_path / "a.safetensors"), output=str(tmp_path / "b.safetensors")))
    with pytest.raises(ValueError, match="beyond the range of half precision"):
        halve_model.halved("weight", torch.full((5000,), 1e5))
    write_model(tmp_path / "c.safetensors", {"large": large}, schema="x")
    assert_one_line_error(run("python", "downstream/halve_model.py", tmp_path / "gone.safetensors", "--output", tmp_path / "d.safetensors"), "no such file")
