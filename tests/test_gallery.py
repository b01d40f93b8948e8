"""The page of all trained models: it holds what each makes of a folder of photographs, with what they are worth as measured, and the marks of what was made."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from downstream import gallery
from downstream.gallery import GalleryConfig
from downstream.origin_marks import read_mark
from downstream.restore.model_file import save_restorer
from downstream.sheet import CELL_PX, LABEL_PX
from tests.test_image_codec import picture
from tests.test_restorer import restorer


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(7):
        Image.fromarray(picture(90, 120, seed=number // 2)).save(folder / f"{number}.png")  # two and two are the same picture
    return folder


@pytest.fixture
def settings(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GalleryConfig:
    monkeypatch.setattr(gallery, "SAMPLE_STEPS", 2)
    made = restorer("ir_cm")
    save_restorer(tmp_path / "rain.safetensors", made.network.state_dict(), made.settings, kind="ir_cm", tasks=("rain", "noise"), about={})
    return GalleryConfig(photographs=str(photographs), output=str(tmp_path / "out"), num=2, crop_px=64, restorers=(str(tmp_path / "rain.safetensors"),))


def test_the_page_and_its_pictures(settings: GalleryConfig) -> None:
    gallery.main(settings)
    output = Path(settings.output)
    names = ("neighbours", "attention", "compressed", "restored", "samples")
    assert {path.name for path in output.iterdir()} == {"index.html", *(f"{name}.jpg" for name in names)}
    page = (output / "index.html").read_text()
    assert page.count("data:image/jpeg") == len(names) and "7 photographs" in page and "http" not in page.replace("http-equiv", "")
    for name in ("restored", "samples"):
        assert read_mark((output / f"{name}.jpg").read_bytes()) is not None
    with Image.open(output / "neighbours.jpg") as sheet:
        assert sheet.width == (gallery.NEIGHBOURS + 1) * (CELL_PX + 4)
    with Image.open(output / "samples.jpg") as sheet:
        assert sheet.height == gallery.SAMPLES // (gallery.NEIGHBOURS + 1) * (CELL_PX + LABEL_PX)


def test_equal_pictures_are_nearest(settings: GalleryConfig, photographs: Path) -> None:
    files = sorted(photographs.iterdir())
    near, _ = gallery.seen_by_the_encoder(files, files[:1], settings)
    (label, nearest), *_ = near.rows[0][1:]
    assert label == "cosine 1.000" and np.array_equal(nearest, near.rows[0][0][1])


def test_jpeg_is_no_larger_and_figures_are_of_what_is_shown(settings: GalleryConfig, photographs: Path) -> None:
    part = gallery.compressed(sorted(photographs.iterdir())[:2], settings)
    for (_, pixels), *shown in part.rows:
        sizes = []
        for label, found in shown:
            size, decibels = label.split(": ")[1].split(", ")
            sizes.append(float(size.split()[0]))
            assert decibels == f"{gallery.psnr_db(pixels, found):.1f} dB"
        assert sizes[1] <= sizes[0] or sizes[1] == pytest.approx(len(gallery.CLASSIC["JPEG"].compress(pixels, 1)) / 1000, abs=0.05)


def test_each_task_has_its_row(settings: GalleryConfig, photographs: Path) -> None:
    part = gallery.restored(sorted(photographs.iterdir())[:2], settings)
    assert [row[0][0].split(":")[0] for row in part.rows] == ["noise", "rain"]
    for (label, degraded), (_, found), (_, clean) in part.rows:
        assert label.endswith(f"{gallery.psnr_db(clean, degraded):.1f} dB") and degraded.shape == found.shape == clean.shape


@pytest.mark.parametrize(("name", "said"), [("index.html", "is no page of lcl"), ("restored.jpg", "is not empty and holds no gallery")])
def test_what_is_no_gallery_is_not_written_over(settings: GalleryConfig, name: str, said: str) -> None:
    Path(settings.output).mkdir()
    (Path(settings.output) / name).write_text("mine")
    with pytest.raises(ValueError, match=said):
        gallery.main(settings)
    assert [path.read_text() for path in Path(settings.output).iterdir()] == ["mine"]


def test_mistakes_are_said_first(settings: GalleryConfig, photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "out").write_text("a file")
    for output, said in ((photographs / "out", "lies in --photographs"), (photographs, "lies in --photographs"), (tmp_path / "out", "is a file")):
        with pytest.raises(ValueError, match=said):
            gallery.check(settings, output)
    (tmp_path / "cut.png").write_bytes(sorted(photographs.iterdir())[0].read_bytes()[:300])
    whole = sorted(photographs.iterdir())
    assert gallery.readable([*whole, tmp_path / "cut.png"]) == whole and "cut.png" in caplog.text
    with pytest.raises(ValueError, match="no photograph can be read"):
        gallery.readable([tmp_path / "cut.png"])
