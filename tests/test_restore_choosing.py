"""Which restorer a picture is given to: the first that knows the task, which is said or found, and a line where none does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from downstream import restore_images
from downstream.folders import NothingToDo
from downstream.origin_marks import read_mark
from downstream.restore.choosing import Choice
from downstream.restore.detector import CLEAN, Detector, DetectorConfig, save_detector
from downstream.restore.model_file import Restorer, save_restorer
from downstream.restore_images import RestoreConfig
from lcl.core.files import sha256_of
from lcl.features import Encoder, load_encoder
from tests.made_encoders import SQUARE, checkpoint_of, random_model
from tests.test_image_codec import picture
from tests.test_restorer import restorer

TASKS = (CLEAN, "rain", "noise", "haze")


class Known(Detector):
    """Dark pictures are rainy, then noisy, hazy and clean as they get brighter."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        number = 1 + (4 * x.mean(dim=(1, 2, 3))).long().clamp(max=3)
        return 5 * torch.nn.functional.one_hot(number % 4, 4).float(), torch.full((len(x),), 20.0)


def detector() -> Known:
    return Known(DetectorConfig(tasks=TASKS, crop_px=16), Encoder(random_model(SQUARE)))


def level(value: float) -> torch.Tensor:
    return torch.full((3, 20, 20), value)


def models() -> list[Restorer]:
    return [replace(restorer("ir_cm"), tasks=("rain",)), replace(restorer("ir_cm"), tasks=("noise", "rain"))]


def test_the_first_that_was_trained_for_what_is_found() -> None:
    rainy, both = made = models()
    choose = Choice(made, detector=detector())
    for x, expected in ((level(0.1), (rainy, "rain")), (level(0.3), (both, "noise"))):
        chosen = choose(x)
        assert (chosen.model, chosen.task) == expected and chosen.probability == pytest.approx(0.98, abs=0.005)
    with pytest.raises(ValueError, match=r"looks like haze \(0.98\), and no model here was trained for that, but for rain, noise"):
        choose(level(0.6))
    with pytest.raises(NothingToDo, match=r"looks like clean \(0.98\), so it is left as it is"):
        choose(level(0.9))


class Unsure(Detector):
    """Says the same of every picture: these probabilities of clean, rain, noise and haze."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__(DetectorConfig(tasks=TASKS, crop_px=16), Encoder(random_model(SQUARE)))
        self.logits = torch.tensor(probabilities).log()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.logits.expand(len(x), -1), torch.full((len(x),), 20.0)


def test_kinds_of_one_model_count_together() -> None:
    """Rain and noise, 0.3 and 0.3, outweigh clean, 0.35, for one model that undoes both; of two models neither is likely enough."""
    one = replace(restorer("ir_cm"), tasks=("rain", "noise"))
    chosen = Choice([one], detector=Unsure(0.35, 0.28, 0.32, 0.05))(level(0.5))
    assert (chosen.model, chosen.task) == (one, "noise") and chosen.probability == pytest.approx(0.6, abs=1e-5)
    apart = [replace(one, tasks=("rain",)), replace(one, tasks=("noise",))]
    with pytest.raises(ValueError, match=r"may be clean \(0.35\), noise \(0.32\), rain \(0.28\), none of them likely enough .* say --task"):
        Choice(apart, detector=Unsure(0.35, 0.28, 0.32, 0.05))(level(0.5))


def test_what_is_said_is_not_looked_for() -> None:
    rainy, both = made = models()
    assert Choice(made, task="noise")(level(0.1)) == (both, "noise", None) and Choice(made, task="rain")(level(0.9)) == (rainy, "rain", None)
    assert Choice([both])(level(0.9)) == (both, "noise, rain", None)
    with pytest.raises(ValueError, match="--task haze, and no model here was trained for that, but for rain, noise"):
        Choice(made, task="haze")
    with pytest.raises(ValueError, match=r"say --task \(rain, noise\), or give one --model, or --detector"):
        Choice(made)


def test_a_folder_by_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Each picture by its own model, named in its mark; those that no model knows are lines, and the command fails."""
    checkpoint = checkpoint_of(random_model(SQUARE), tmp_path / "encoder" / "step-000001")
    encoder = load_encoder(checkpoint)
    head = Detector(DetectorConfig(tasks=TASKS, crop_px=16), encoder)
    with torch.no_grad():  # one that says the same of every picture
        head.head[3].weight.zero_()
        head.head[3].bias.copy_(torch.tensor([0.0, 0.0, 6.0, 0.0, 0.0]))
    save_detector(tmp_path / "noise.safetensors", head, head.state_dict(), {})
    with torch.no_grad():
        head.head[3].bias.copy_(torch.tensor([0.0, 0.0, 0.0, 6.0, 0.0]))
    save_detector(tmp_path / "haze.safetensors", head, head.state_dict(), {})
    paths = []
    for number, made in enumerate(models()):
        paths.append(tmp_path / f"{number}.safetensors")
        save_restorer(paths[-1], made.network.state_dict(), made.settings, kind="ir_cm", tasks=made.tasks, about={"number": number})
    (tmp_path / "in").mkdir()
    Image.fromarray(picture(24, 24)).save(tmp_path / "in" / "a.png")
    Image.fromarray(np.zeros((24, 24), dtype=np.uint8)).save(tmp_path / "in" / "b.png")
    settings = RestoreConfig(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), model=tuple(map(str, paths)), detector=str(tmp_path / "noise.safetensors"), encoder=str(checkpoint)
    )  # fmt: skip
    restore_images.main(settings)
    for name in ("a.png", "b.png"):
        mark = read_mark((tmp_path / "out" / name).read_bytes())
        assert mark is not None and mark.model_sha256 == sha256_of(paths[1]) and mark.settings.startswith("restored: noise; ir_cm, 1 steps")
    with pytest.raises(ValueError, match="2 of 2 files failed"):
        restore_images.main(replace(settings, output=str(tmp_path / "none"), detector=str(tmp_path / "haze.safetensors")))
    said = capsys.readouterr().err
    assert said.count("looks like haze") == 2 and not (tmp_path / "none").exists()
