"""The package in a fresh environment without Ray and DeepSpeed, as a person who only uses it installs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT, assert_one_line_error
from tests.test_image_codec import picture


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of an environment with `.[use]`."""
    environment = tmp_path_factory.mktemp("use") / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    words = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt", f"{ROOT}[use]"]
    found = subprocess.run(words, capture_output=True, text=True, cwd=environment, timeout=1500)
    if "Could not find a version that satisfies" in found.stderr:
        pytest.skip(f"no package index here: {found.stderr.strip().splitlines()[-1]}")
    assert found.returncode == 0, found.stderr
    return environment / "bin"


@pytest.mark.slow
def test_every_command_of_use_it_at_once(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.fromarray(picture(96, 120, seed=number)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photo.png").write_bytes((tmp_path / "photos" / "0.png").read_bytes())

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # the package is what was installed

    def lcl(*words: object) -> subprocess.CompletedProcess:
        return subprocess.run([programs / "lcl", *map(str, words)], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)

    for words in (
        ("embed", "--input", "photos", "--output", "features"), ("search", "--features", "features", "--output", "near.html"), ("codec", "encode", "photo.png", "photo.lclc"),
        ("codec", "decode", "photo.lclc", "back.png"), ("density", "encode", "photo.png", "photo.lcld", "--coding.steps", 2), ("density", "decode", "photo.lcld", "back"), ("detect", "photo.png"),
        ("restore", "photo.png", "restored.png", "--task", "rain"), ("gallery", "--photographs", "photos", "--output", "gallery", "--num", 1, "--crop-px", 64),
    ):  # fmt: skip
        result = lcl(*words)
        assert result.returncode == 0, (words, result.stderr)
    made = ("near.html", "back.png", "back/photo.png", "restored.png", "gallery/index.html")
    assert all((tmp_path / name).exists() for name in made)
    assert subprocess.run([programs / "python", "-c", "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ('ray', 'deepspeed'))))"], env=environment).returncode == 0
    assert_one_line_error(lcl("fine-tune", "codec", "--photographs", "photos", "--output", "mine"), "takes the package", "pip install 'lcl[all]'")
