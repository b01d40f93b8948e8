"""Judges with closed forms, what a model had not met, frames and their flicker."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from downstream import eval_restorer
from downstream.backbones import WEIGHTS
from downstream.eval_restorer import EvalRestorerConfig, flicker_255
from downstream.perceptual_distance import LPIPS
from downstream.restore.baselines import wiener_deconvolution
from downstream.restore.cases import frame_cases, halfway, in_natural_order, made_cases, unseen_in_training
from downstream.restore.degradations import DegradationConfig, blur, defocus_kernel, motion_kernel
from downstream.restore.guide import View
from downstream.restore.judges import FeatureJudge, frechet_distance
from downstream.restore.model_file import RestorerConfig, save_restorer
from downstream.restore.quality import haarpsi, psnr_db
from lcl.core.config import to_dict
from lcl.core.files import read_json
from lcl.features import Encoder, load_encoder
from tests.made_encoders import SQUARE, checkpoint_of, random_model
from tests.test_image_codec import picture
from tests.test_restore_guide import BOTH, NETWORK, guided
from tests.test_restore_quality import noisy
from tests.test_restorer import trembled

SETTINGS = DegradationConfig(tasks=("noise", "defocus"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("frames")
    for number in range(3):
        Image.fromarray(np.roll(picture(40, 48), 2 * number, axis=1)).save(made / f"{number}.png")
    return made


def test_haarpsi_is_one_for_equal_pictures_and_falls_with_noise() -> None:
    clean = picture(64, 64)
    found = [haarpsi(clean, clean), *(haarpsi(clean, noisy(clean, deviation)) for deviation in (3, 12, 40))]
    assert found[0] == pytest.approx(1, abs=1e-5) and found == sorted(found, reverse=True) and 0.5 < found[-1] < 0.8
    assert haarpsi(clean, noisy(clean, 12)) == haarpsi(noisy(clean, 12), clean)


@pytest.mark.parametrize("kernel", [defocus_kernel(3.0), motion_kernel(11.0, 30.0)], ids=["defocus", "motion"])
def test_deconvolution_takes_a_known_blur_off(kernel: torch.Tensor) -> None:
    clean = np.kron(np.random.default_rng(0).integers(40, 215, (10, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    blurred = (blur(torch.from_numpy(clean).permute(2, 0, 1).float() / 255, kernel) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    found = wiener_deconvolution(blurred, kernel.double().numpy())
    assert found.shape == clean.shape and psnr_db(clean, found) > psnr_db(clean, blurred) + 2
    flat = np.full((32, 32, 3), 90, dtype=np.uint8)
    assert np.abs(wiener_deconvolution(flat, kernel.double().numpy()).astype(int) - 90).max() <= 1


def test_frechet_distance_of_normal_features_is_the_closed_form() -> None:
    """|m - m'|^2 + sum (s - s')^2 for diagonal covariances, to what 20,000 draws leave; 0 of the same features; nothing of too few."""
    rng = np.random.default_rng(0)
    means, deviations = np.array([[0, 1, 2], [1, 1, 0]]), np.array([[1, 2, 0.5], [2, 2, 1.5]])
    x, y = (mean + deviation * rng.standard_normal((20_000, 3)) for mean, deviation in zip(means, deviations, strict=True))
    wanted = np.sum((means[0] - means[1]) ** 2) + np.sum((deviations[0] - deviations[1]) ** 2)
    assert frechet_distance([x], [y]) == pytest.approx(wanted, rel=0.03) == frechet_distance([y[:9000], y[9000:]], [x])
    assert frechet_distance([x], [x]) == pytest.approx(0, abs=1e-9) and frechet_distance([x[:5]], [y]) is None


def test_features_of_equal_pictures_are_at_no_distance() -> None:
    judge, clean = FeatureJudge(Encoder(random_model(SQUARE))), picture(40, 56)
    near, far = (judge.distance(clean, noisy(clean, deviation)) for deviation in (4, 60))
    assert judge.distance(clean, clean) == pytest.approx(0, abs=1e-6) and 1e-6 < near < far <= 2
    assert judge.pooled(clean).shape == (3 * 4, SQUARE.embed_width)


def test_lpips_takes_weights_of_the_user_and_fetches_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import squeezenet1_1

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("nothing is to be downloaded"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="--lpips squeeze needs .*squeezenet1_1-b8a52dc0.pth"):
        LPIPS("squeeze")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "hub" / "checkpoints" / WEIGHTS["squeeze"])
    judge, clean = LPIPS("squeeze"), picture(64, 64)
    near, far = (judge(clean, noisy(clean, deviation)) for deviation in (4, 60))
    assert judge(clean, clean) == 0 < near < far and judge(clean, noisy(clean, 4)) == near


def test_lpips_of_vgg16_is_no_judge_of_what_learned_from_it(tmp_path: Path) -> None:
    for name, objective in (("yes", {"perceptual": "vgg16", "perceptual_weight": 0.125}), ("no", {"perceptual": "vgg16", "perceptual_weight": 0.0}), ("old", None)):
        about = {} if objective is None else {"objective": objective}
        save_restorer(tmp_path / f"{name}.safetensors", trembled().state_dict(), RestorerConfig(network=NETWORK), kind="ir_cm", tasks=("noise",), about=about)
        settings = EvalRestorerConfig(models=(str(tmp_path / f"{name}.safetensors"),), lpips="vgg", output="o")
        message = "the network that yes was trained with: give alex or squeeze" if name == "yes" else "--lpips vgg needs .*vgg16"
        with pytest.raises(ValueError, match=message):
            eval_restorer.load_judges(settings, eval_restorer.load_models(settings))


def test_what_a_model_had_not_met() -> None:
    trained = to_dict(DegradationConfig(tasks=("rain", "noise", "mixed"), noise_255=(5.0, 30.0)))
    seen = DegradationConfig(noise_255=(10.0, 30.0), mixed_parts=("rain", "jpeg"))

    def unseen(task: str, settings: DegradationConfig = seen) -> str:
        return unseen_in_training(task, settings, tasks=("rain", "noise", "mixed"), trained=trained)

    assert [unseen(task) for task in ("rain", "noise", "mixed", "haze")] == ["", "", "", "task"]
    assert unseen("noise", replace(seen, noise_255=(10.0, 31.0))) == unseen("rain", replace(seen, rain_width_px=(0.5, 1.0))) == "strength"
    assert unseen("mixed", replace(seen, jpeg_quality=(5.0, 20.0))) == "strength" and unseen("mixed", replace(seen, mixed_parts=("rain", "haze"))) == "task"
    assert unseen_in_training("pairs", seen, tasks=("pairs",), trained=None) == ""


def test_frames_have_one_strength_and_noise_of_their_own(folder: Path, tmp_path: Path) -> None:
    cases = frame_cases(folder, SETTINGS, seed=0, limit=0, crop_px=0)
    assert len(cases) == 6 and halfway(SETTINGS).noise_255 == (27.5, 27.5)
    noisy_cases = [case for case in cases if case.task == "noise"]
    errors = [case.degraded.astype(float) - case.clean for case in noisy_cases]
    middling = [error[(case.clean > 90).all(axis=2) & (case.clean < 165).all(axis=2)].std() for error, case in zip(errors, noisy_cases, strict=True)]
    assert np.ptp(middling) < 3 and not np.array_equal(errors[0], errors[1])
    kernels = [case.kernel for case in cases if case.task == "defocus"]
    assert all(np.array_equal(kernel, defocus_kernel(3.0).double().numpy()) for kernel in kernels) and cases[0].kernel is None
    (tmp_path / "one").mkdir()
    Image.fromarray(picture(40, 48)).save(tmp_path / "one" / "0.png")
    with pytest.raises(ValueError, match="a single frame"):
        frame_cases(tmp_path / "one", SETTINGS, seed=0, limit=0, crop_px=0)
    Image.fromarray(picture(40, 40)).save(tmp_path / "one" / "1.png")
    with pytest.raises(ValueError, match="frames 0.png and 1.png have different sizes"):
        frame_cases(tmp_path / "one", SETTINGS, seed=0, limit=0, crop_px=0)
    photographs = made_cases(folder, SETTINGS, seed=0, limit=2, crop_px=20)
    assert len(photographs) == 4 and photographs[0].clean.shape == (20, 20, 3) and not np.array_equal(photographs[1].kernel, photographs[3].kernel)


def test_frames_come_in_their_natural_order() -> None:
    assert in_natural_order([Path("a/10.png"), Path("a/2.png"), Path("a/b.png"), Path("a/1.png")]) == [Path("a/1.png"), Path("a/2.png"), Path("a/10.png"), Path("a/b.png")]


def test_flicker_is_none_of_a_steady_error() -> None:
    clean = [picture(20, 30, seed=seed) // 2 for seed in range(3)]
    assert flicker_255(clean, clean) == 0 == flicker_255(clean, [frame + np.uint8(9) for frame in clean])
    assert flicker_255(clean, [clean[0], clean[1] + np.uint8(9), clean[2]]) == pytest.approx(9)


def test_the_report_with_every_judge(folder: Path, tmp_path: Path) -> None:
    """A guided model with its encoder and without, on frames; a judge that is not the encoder of the training."""
    made, judge = (checkpoint_of(random_model(SQUARE, seed=seed), tmp_path / name / "step-000001") for seed, name in ((0, "encoder"), (1, "judge")))
    encoder = load_encoder(made)
    network, about = guided(encoder), {"degradations": to_dict(DegradationConfig(tasks=("noise",), noise_255=(5.0, 20.0))), "encoder": encoder.fingerprint}
    settings, record = RestorerConfig(network=NETWORK, guide=BOTH), View(encoder, BOTH).record
    save_restorer(tmp_path / "guided.safetensors", network.state_dict(), settings, kind="ir_cm", tasks=("noise",), about=about, encoder=record)
    save_restorer(tmp_path / "plain.safetensors", trembled().state_dict(), RestorerConfig(network=NETWORK), kind="regression", tasks=("defocus",), about=about | {"encoder": None})
    settings = EvalRestorerConfig(
        models=(str(tmp_path / "guided.safetensors"), str(tmp_path / "plain.safetensors")), encoder=str(made), frames=str(folder), degradations=SETTINGS, steps=(2,),
        baselines=("identity", "Wiener deconvolution"), judge=str(judge), output=str(tmp_path / "out"),
    )  # fmt: skip
    eval_restorer.main(settings)
    rows = {(row["task"], row["method"]): row for row in read_json(tmp_path / "out" / "restoration.json")["measured"]["rows"]}
    names = ["identity", "guided, ir_cm, 2 steps", "guided, no encoder, ir_cm, 2 steps", "plain, regression, 1 step"]
    assert set(rows) == {(task, name) for task in SETTINGS.tasks for name in names} | {("defocus", "Wiener deconvolution")}
    assert [rows[task, name]["unseen"] for task in SETTINGS.tasks for name in names[1:]] == ["strength", "strength", "task", "task", "task", ""]
    one, other = (rows["noise", name] for name in names[1:3])
    assert one["quality"]["psnr_db"] != other["quality"]["psnr_db"] and rows["noise", "identity"]["flicker_255"] > 20 > rows["defocus", "identity"]["flicker_255"] > 0
    assert one["frames_per_second"] == pytest.approx(3 / sum(one["seconds"] for one in one["pictures"])) and {"haarpsi", "feature_distance"} <= one["quality"].keys()
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width == 6 * 260, "degraded, three models, deconvolution of blurs, clean"
    for changed, message in (
        ({"judge": str(made)}, "is the encoder that guided was trained with"), ({"encoder": ""}, "give --encoder, its checkpoint"), ({"no_encoder": True}, "say opposite things"),
        ({"photographs": str(folder)}, "give one of --photographs"), ({"times": (0.5, 0.25)}, "have fewer: give more --steps"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            eval_restorer.main(replace(settings, **changed))
    assert json.loads((tmp_path / "out" / "restoration.json").read_text())["config"]["judge"] == str(judge)
