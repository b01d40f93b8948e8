"""The detector: its head is trained and its encoder is not, it tells noise from a clean picture, and it knows its encoder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from downstream import detect_degradation, eval_detector
from downstream.detect_degradation import DetectConfig
from downstream.eval_detector import EvalDetectorConfig
from downstream.photographs import Crops, list_photographs
from downstream.restore.degradations import DegradationConfig
from downstream.restore.detector import MOST_DB, Detector, DetectorConfig, detect, load_detector, psnr_of, save_detector
from downstream.train_detector import DetectorTask, TrainDetectorConfig
from downstream.train_restorer import head_of
from lcl.features import Encoder, load_encoder, random_encoder
from tests.made_checkpoint import made_checkpoint
from tests.made_encoders import SQUARE, random_model
from tests.processes import run_ranks
from tests.test_image_codec import picture


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(3):
        Image.fromarray(picture(48, 60, seed=number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(random_model(SQUARE))


NOISE = DegradationConfig(tasks=("noise",), noise_255=(40.0, 50.0))


def task_of(photographs: Path, encoder: Encoder | None, degradations: DegradationConfig = NOISE, **changed: object) -> DetectorTask:
    settings = TrainDetectorConfig(encoder="e", convolutions=(6, 8), photographs=str(photographs), degradations=degradations, clean_fraction=0.5, crop_px=16, **changed)
    return DetectorTask(settings, Crops(list_photographs(photographs), side_px=16, seed=0, grey_fraction=settings.grey_fraction), encoder)


def test_decibels() -> None:
    clean = torch.full((2, 3, 4, 4), 0.5)
    torch.testing.assert_close(psnr_of(clean, clean + torch.tensor([0.1, 0.01])[:, None, None, None]), torch.tensor([20.0, 40.0]))
    assert psnr_of(clean, clean).tolist() == [MOST_DB, MOST_DB]


def test_batches_are_the_same_in_parts_and_say_what_was_done(photographs: Path, encoder: Encoder) -> None:
    task = task_of(photographs, encoder)
    made, numbers, decibels = task.batch(3, range(16), torch.Generator())
    parts = [task.batch(3, range(first, first + 4), torch.Generator()) for first in range(0, 16, 4)]
    assert all(torch.equal(whole, torch.cat(pieces)) for whole, *pieces in zip((made, numbers, decibels), *parts, strict=True))
    assert set(numbers.tolist()) == {0, 1} and torch.equal(decibels == MOST_DB, numbers == 0) and (decibels[numbers == 1] < 20).all()
    clean = task.crops.batch(3, range(16))
    assert torch.equal(made[numbers == 0], clean[numbers == 0])


def test_a_share_is_grey_and_a_share_of_low_light_quiet(photographs: Path) -> None:
    """Grey crops have three equal channels; quiet low light of one gain and gamma 1 is the clean crop times the gain, rounded."""
    dark = DegradationConfig(tasks=("low_light",), low_light_gain=(0.3, 0.3), low_light_gamma=(1.0, 1.0), low_light_noise_255=(20.0, 20.0))
    task = task_of(photographs, None, dark, grey_fraction=0.5, quiet_fraction=0.5)
    made, numbers, _ = task.batch(0, range(64), torch.Generator())
    clean = task.crops.batch(0, range(64))
    grey = (clean[:, 0] == clean[:, 1]).flatten(1).all(dim=1)
    quiet = ((made - 0.3 * clean).abs() <= 0.5 / 255 + 1e-6).flatten(1).all(dim=1)
    assert 20 < int(grey.sum()) < 44 and torch.equal(grey, (clean[:, 0] == clean[:, 2]).flatten(1).all(dim=1))
    assert 8 < int(quiet[numbers == 1].sum()) < int((numbers == 1).sum()) - 8


def test_the_head_learns_and_the_encoder_stays(photographs: Path, encoder: Encoder) -> None:
    """A few steps tell strong noise from clean crops of the same photographs, of a random encoder even."""
    task, before = task_of(photographs, encoder), encoder.fingerprint
    adam = torch.optim.Adam(task.module.parameters(), 3e-3)
    for step in range(150):
        found = task.module(*task.batch(step, range(16), torch.Generator()))
        adam.zero_grad()
        found.loss.backward()
        adam.step()
    metrics = task.module(*task.batch(1000, range(64), torch.Generator())).metrics
    assert metrics["accuracy"] > 0.9 and metrics["decibels_off"] < 8
    assert Encoder(random_model(SQUARE)).fingerprint == before and not any("visual" in name for name in task.module.state_dict())


def test_crops_cover_the_picture(encoder: Encoder) -> None:
    class Places(Detector):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            self.seen = x
            return torch.zeros(len(x), 2), torch.full((len(x),), 30.0)

    places = Places(DetectorConfig(crop_px=8), encoder)
    x = torch.arange(24 * 40.0).reshape(1, 24, 40).expand(3, -1, -1)
    found = detect(places, x)
    assert found.probabilities == {"clean": 0.5, "rain": 0.5} and found.psnr_db == 30
    corners = {(int(crop[0, 0, 0]) // 40, int(crop[0, 0, 0]) % 40) for crop in places.seen}
    assert {(0, 0), (0, 32), (16, 0), (16, 32)} <= corners and len(corners) == 12
    detect(places, x[:, :3, :5])
    assert places.seen.shape == (1, 3, 8, 8) and torch.equal(places.seen[0, 0, 2:, :5], x[0, 2:3, :5].expand(6, -1))


def test_it_comes_back_from_its_file_with_its_encoder_alone(encoder: Encoder, tmp_path: Path) -> None:
    detector = Detector(DetectorConfig(crop_px=16), encoder)
    save_detector(tmp_path / "d.safetensors", detector, detector.state_dict(), {"steps": 1})
    x = torch.rand(3, 20, 30)
    assert detect(load_detector(tmp_path / "d.safetensors", encoder), x) == detect(detector, x)
    with pytest.raises(ValueError, match="d.safetensors was trained with"):
        load_detector(tmp_path / "d.safetensors", random_encoder(SQUARE, seed=5))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "d.safetensors").read_bytes()[:100])
    for name, message in (("cut", "is no detector, or damaged"), ("gone", "no such file")):
        with pytest.raises(ValueError, match=message):
            load_detector(tmp_path / f"{name}.safetensors", encoder)
    with pytest.raises(ValueError, match="the encoder has 3 blocks"):
        Detector(DetectorConfig(layers=(7,)), encoder)


def test_convolutions_of_its_own_learn_with_the_head(photographs: Path) -> None:
    """Of places they say means and deviations alone; flat pictures have gradients too."""
    task = task_of(photographs, None)
    detector = task.module.detector
    assert {name.split(".")[0] for name in detector.state_dict()} == {"own", "head"} and detector.encoder is None
    x = torch.rand(2, 3, 16, 16)
    seen = detector.own(x)
    assert seen.shape == (2, 2 * 14)
    maps = detector.own.scales[0](2 * x - 1)
    torch.testing.assert_close(seen[:, :6], maps.mean(dim=(2, 3)))
    torch.testing.assert_close(seen[:, 6:12], (maps.flatten(2).var(dim=2, correction=0) + 1e-6).sqrt())
    task.module(torch.full((2, 3, 16, 16), 0.7), torch.tensor([0, 1]), torch.tensor([30.0, 20.0])).loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in detector.parameters()) and detector.own.scales[0][0].weight.grad.any()
    adam = torch.optim.Adam(task.module.parameters(), 3e-3)
    for step in range(60):
        found = task.module(*task.batch(step, range(16), torch.Generator()))
        adam.zero_grad()
        found.loss.backward()
        adam.step()
    metrics = task.module(*task.batch(1000, range(64), torch.Generator())).metrics
    assert metrics["accuracy"] > 0.9 and metrics["decibels_off"] < 3


def test_a_detector_of_its_own_by_command(photographs: Path, encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run_ranks(["downstream/train_detector.py", "--preset", "toy", "--photographs", photographs, "--output", tmp_path / "run"], world_size=2)
    detector = load_detector(tmp_path / "run" / "detector.safetensors")
    assert detector.settings.convolutions == (4, 6) and detector.encoder is None
    x = torch.rand(3, 20, 30)
    assert detect(load_detector(tmp_path / "run" / "detector.safetensors", encoder), x) == detect(detector, x), "whatever encoder there is for others"
    Image.fromarray(picture(30, 30)).save(tmp_path / "a.png")
    detect_degradation.main(DetectConfig(input=str(tmp_path / "a.png"), model=str(tmp_path / "run")))
    assert "dB from clean" in capsys.readouterr().out
    looking = Detector(DetectorConfig(crop_px=16), encoder)
    save_detector(tmp_path / "d.safetensors", looking, looking.state_dict(), {})
    with pytest.raises(ValueError, match="looks at pictures through the encoder .* give --encoder"):
        load_detector(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="--layers are an encoder's"):
        TrainDetectorConfig(photographs="p", layers=(1,)).check()
    with pytest.raises(ValueError, match="has convolutions of its own, and no head"):
        head_of(str(tmp_path / "run"), encoder)


def test_trained_and_used_by_command(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    checkpoint = made_checkpoint(tmp_path / "step-000007")
    run_ranks(["downstream/train_detector.py", "--preset", "toy", "--photographs", photographs, "--encoder", checkpoint, "--output", tmp_path / "run"], world_size=1)
    model = tmp_path / "run" / "detector.safetensors"
    detector = load_detector(model, load_encoder(checkpoint))
    assert detector.settings.tasks == ("clean", "noise", "low_light")
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(picture(30, 30)).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 2 files failed"):
        detect_degradation.main(DetectConfig(input=str(folder), model=str(model), encoder=str(checkpoint), output=str(tmp_path / "found.json")))
    said = capsys.readouterr()
    assert "a.png" in said.out and "dB from clean" in said.out and "b.png: the file is empty" in said.err
    found = json.loads((tmp_path / "found.json").read_text())[str(folder / "a.png")]
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5) and 0 <= found["psnr_db"] <= MOST_DB
    with pytest.raises(ValueError, match="give --photographs"):
        TrainDetectorConfig().check()


def test_measured_on_photographs_not_seen(photographs: Path, tmp_path: Path) -> None:
    """A detector that calls everything noise is right of the noisy pictures alone."""
    checkpoint = made_checkpoint(tmp_path / "step-000007")
    encoder = load_encoder(checkpoint)
    detector = Detector(DetectorConfig(tasks=("clean", "noise", "low_light"), crop_px=16), encoder)
    with torch.no_grad():
        detector.head[3].weight.zero_()
        detector.head[3].bias.copy_(torch.tensor([0.0, 6.0, 0.0, 0.0]))  # and half of 50 dB
    save_detector(tmp_path / "noise.safetensors", detector, detector.state_dict(), {})
    settings = EvalDetectorConfig(
        model=str(tmp_path / "noise.safetensors"), encoder=str(checkpoint), photographs=str(photographs), output=str(tmp_path / "out"), degradations=DegradationConfig(tasks=("noise", "low_light"))
    )
    eval_detector.main(settings)
    measured, num = json.loads((tmp_path / "out" / "detector.json").read_text())["measured"], len(list(photographs.iterdir()))
    assert measured["taken_for"] == {task: {"noise": num} for task in ("noise", "low_light", "clean")} and measured["photographs"] == num
    assert measured["accuracy"]["value"] == pytest.approx(1 / 3) and measured["accuracy"]["low"] < 1 / 3 < measured["accuracy"]["high"]
    noisy = eval_detector.made_cases(photographs, settings.degradations, seed=0, limit=0, crop_px=0)
    clean_off, others_off = MOST_DB / 2, [abs(MOST_DB / 2 - eval_detector.decibels(case)) for case in noisy]
    assert measured["decibels_off"]["value"] == pytest.approx((clean_off * num + sum(others_off)) / (3 * num), abs=1e-3)
    with pytest.raises(ValueError, match="does not know rain, but clean, noise, low_light"):
        eval_detector.main(replace(settings, degradations=DegradationConfig(tasks=("rain",))))
