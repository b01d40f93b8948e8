"""`lcl embed`: rows are those of `load_encoder`, whatever the workers and the interruptions, and what cannot be decoded is counted."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lcl.core.document import sha256_hex
from lcl.core.files import read_json
from lcl.core.images import decode_image, to_pixels
from lcl.core.selection import SelectedShard, write_selection
from lcl.core.shards import find_shards
from lcl.crops import Crop, centre_box, cut
from lcl.export import ExportConfig
from lcl.export import main as write_export
from lcl.features import load_encoder
from lcl.use import embedding
from lcl.use.embedded import find_features
from lcl.use.embedding import EmbedConfig, embed
from lcl.use.search_page import SearchConfig, search
from tests.conftest import Run
from tests.kill_and_continue import leftovers, run_killed_at
from tests.made_encoders import toy_checkpoint
from tests.made_shards import file_bytes, made_document, made_image, made_set

DOCUMENTS = [made_document(number) for number in range(12)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_checkpoint(tmp_path_factory.mktemp("model") / "toy")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_set(tmp_path_factory.mktemp("set") / "shards", DOCUMENTS, per_shard=4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of four formats, one in a folder inside, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    (folder / "a" / "b").mkdir(parents=True)
    for number in range(9):
        image = decode_image(made_image(number, size=(20 + number, 30)).data)
        image.save(folder / "a" / f"{number}.{('jpg', 'png', 'webp', 'gif')[number % 4]}")
    decode_image(made_image(50).data).save(folder / "a" / "b" / "ü.JPEG")
    (folder / "notes.txt").write_text("no picture")
    return folder


def run_embed(checkpoint: Path, output: Path, *inputs: Path, **options: Any) -> tuple[list[dict[str, Any]], np.ndarray, dict[str, Any]]:
    """All rows, all features, and the record."""
    embed(EmbedConfig(encoder=str(checkpoint), input=tuple(map(str, inputs)), output=str(output), **options))
    found = find_features(output)
    rows, pooled = zip(*found, strict=True)
    return [row for table in rows for row in table.to_pylist()], np.concatenate(pooled), dict(found.record)


def expected(checkpoint: Path, data: list[bytes]) -> np.ndarray:
    """The public encoder on the centre square of each image by itself."""
    encoder = load_encoder(checkpoint)
    found = []
    for item in data:
        image = decode_image(item, draft_px=encoder.image_px)
        pixels = to_pixels(cut(image, Crop(centre_box(*image.size), (1, 1)), patch_px=encoder.image_px))
        found.append(encoder(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255).pooled[0].numpy())
    return np.stack(found)


@pytest.mark.parametrize("format", ["parquet", "safetensors"])
def test_rows_of_a_folder_are_those_of_the_encoder(checkpoint: Path, photos: Path, tmp_path: Path, format: str) -> None:
    rows, pooled, record = run_embed(checkpoint, tmp_path / "f", photos, format=format, files_per_unit=4)
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*") if path.suffix != ".txt" and path.is_file())
    assert [row["id"] for row in rows] == names and len(names) == 10 and "a/b/ü.JPEG" in names
    data = [(photos / name).read_bytes() for name in names]
    assert pooled.dtype == np.float32 and np.abs(pooled - expected(checkpoint, data)).max() < 1e-5
    for row, item in zip(rows, data, strict=True):
        with Image.open(photos / row["id"]) as image:
            assert (row["source"], row["width"], row["height"], row["sha256"]) == ("photos", *image.size, sha256_hex(item))
    assert (record["found"], record["embedded"], record["rejected"], record["files_passed_over"]) == (10, 10, {}, 1)
    names = {path.suffix for path in (tmp_path / "f").iterdir()}
    assert names == ({".json", ".parquet", ".safetensors"} if format == "safetensors" else {".json", ".parquet"})
    if format == "parquet":
        assert str(pq.read_schema(tmp_path / "f" / "features-000000.parquet").field("pooled").type).startswith(f"fixed_size_list<element: float>[{pooled.shape[1]}]")


def test_rows_of_shards_and_of_a_selection(checkpoint: Path, shards: Path, tmp_path: Path) -> None:
    rows, pooled, record = run_embed(checkpoint, tmp_path / "f", shards)
    wanted = [(document, number, image) for document in DOCUMENTS for number, image in enumerate(document.images)]
    assert [row["id"] for row in rows] == [f"{document.key}.{number:03d}" for document, number, _ in wanted] and len(rows) == record["found"] == 12
    assert [row["sha256"] for row in rows] == [image.metadata.sha256 for _, _, image in wanted]
    assert {row["source"] for row in rows} == {"made-00000", "made-00001", "made-00002"}
    assert np.abs(pooled - expected(checkpoint, [image.data for _, _, image in wanted])).max() < 1e-5
    second = find_shards([shards])[1]
    write_selection(tmp_path / "picked", [SelectedShard(second.path, second.sidecar["sha256"][".tar"], np.array([1, 3]))], where="by hand", counts={})
    picked, values, _ = run_embed(checkpoint, tmp_path / "g", tmp_path / "picked")
    assert [row["id"] for row in picked] == [f"{DOCUMENTS[place].key}.{number:03d}" for place in (5, 7) for number in range(len(DOCUMENTS[place].images))]
    assert np.abs(values - pooled[[[row["id"] for row in rows].index(row["id"]) for row in picked]]).max() < 1e-5


def test_batches_change_nothing_but_last_digits(checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole, _ = run_embed(checkpoint, tmp_path / "a", photos)
    monkeypatch.setattr(embedding, "BATCH", 3)
    _, parts, _ = run_embed(checkpoint, tmp_path / "b", photos)
    assert np.abs(whole - parts).max() < 1e-6


@pytest.fixture
def damaged(photos: Path, tmp_path: Path) -> Path:
    """The ten pictures, and two that are none."""
    folder = tmp_path / "damaged"
    shutil.copytree(photos, folder)
    (folder / "a" / "cut.jpg").write_bytes((photos / "a" / "0.jpg").read_bytes()[:-40])
    (folder / "html.png").write_text("<html>")
    return folder


def test_what_cannot_be_decoded_is_counted_and_stops_the_run_above_the_fraction(checkpoint: Path, damaged: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"of 12 images, 1 could not be decoded \(1 image_damaged; such as damaged/a/cut.jpg\), more than --max-rejected 0.05"):
        run_embed(checkpoint, tmp_path / "f", damaged, files_per_unit=11)
    with pytest.raises(ValueError, match="let it finish"):
        find_features(tmp_path / "f")
    with pytest.raises(ValueError, match=r"2 could not be decoded \(1 image_damaged, 1 image_unknown_format"):  # continues behind the unit that is done
        run_embed(checkpoint, tmp_path / "f", damaged, files_per_unit=11, max_rejected=0.1)
    rows, pooled, record = run_embed(checkpoint, tmp_path / "f", damaged, files_per_unit=11, max_rejected=0.2)
    assert (record["found"], record["embedded"], record["rejected"]) == (12, 10, {"image_damaged": 1, "image_unknown_format": 1})
    assert [(item["id"], item["source"], item["reason"]) for item in record["rejects"]] == [("a/cut.jpg", "damaged", "image_damaged"), ("html.png", "damaged", "image_unknown_format")]
    others, values, _ = run_embed(checkpoint, tmp_path / "g", photos)
    assert [row["id"] for row in rows] == [row["id"] for row in others] and np.abs(pooled - values).max() < 1e-6


@pytest.mark.parametrize("format", ["parquet", "safetensors"])
def test_resumed_equals_uninterrupted(checkpoint: Path, photos: Path, tmp_path: Path, format: str) -> None:
    options = {"format": format, "files_per_unit": 3}
    run_embed(checkpoint, tmp_path / "a", photos, **options)
    run_embed(checkpoint, tmp_path / "b", photos, **options)
    for name in ("features.json", "features-000001.parquet"):  # as a kill leaves it
        (tmp_path / "b" / name).unlink()
    run_embed(checkpoint, tmp_path / "b", photos, **options)
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b") and len(file_bytes(tmp_path / "a")) == 1 + 4 * (1 + (format == "safetensors"))


def test_killed_and_run_again_gives_the_same_bytes(checkpoint: Path, shards: Path, tmp_path: Path) -> None:
    run_embed(checkpoint, tmp_path / "a", shards)
    output = tmp_path / "b"
    code = f"from lcl.use.embedding import EmbedConfig, embed; embed(EmbedConfig(encoder={str(checkpoint)!r}, input=({str(shards)!r},), output={str(output)!r}))"
    run_killed_at(code, output / "features-000001.parquet", 1)
    assert (output / "features-000000.parquet").exists() and not (output / "features.json").exists()
    run_embed(checkpoint, output, shards)
    assert file_bytes(tmp_path / "a") == file_bytes(output) and leftovers(output) == []


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False)
    yield
    ray.shutdown()


def test_two_ray_workers_equal_none(two_workers: None, checkpoint: Path, shards: Path, damaged: Path, tmp_path: Path) -> None:
    run_embed(checkpoint, tmp_path / "a", shards)
    run_embed(checkpoint, tmp_path / "b", shards, executor="ray")
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b")
    with pytest.raises(ValueError, match="more than --max-rejected 0.05"):
        run_embed(checkpoint, tmp_path / "c", damaged, executor="ray", files_per_unit=5)
    with pytest.raises(ValueError, match="this Ray has no GPU for a task"):
        run_embed(checkpoint, tmp_path / "d", shards, executor="ray", device="cuda")


def test_an_error_of_a_ray_task_is_the_error_of_the_run(two_workers: None, checkpoint: Path, tmp_path: Path) -> None:
    folder = made_set(tmp_path / "set", DOCUMENTS[:4])
    (tar,) = folder.glob("*.tar")
    data = bytearray(tar.read_bytes())
    data[0:4] = b"zzzz"
    tar.write_bytes(data)
    for executor in ("ray", "here"):
        with pytest.raises(ValueError, match="made-00000.tar, at byte 0: not a readable tar"):
            run_embed(checkpoint, tmp_path / executor, folder, executor=executor)


def test_features_of_other_images_weights_or_settings_are_not_mixed(checkpoint: Path, photos: Path, shards: Path, tmp_path: Path) -> None:
    run_embed(checkpoint, tmp_path / "f", photos)
    other = toy_checkpoint(tmp_path / "other", seed=1)
    for encoder, folder, options in ((checkpoint, shards, {}), (other, photos, {}), (checkpoint, photos, {"format": "safetensors"})):
        with pytest.raises(ValueError, match="holds features of other documents or settings"):
            run_embed(encoder, tmp_path / "f", folder, **options)
    part = tmp_path / "f" / "features-000000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="features-000000.parquet is missing or damaged"):
        find_features(tmp_path / "f")
    assert read_json(tmp_path / "f" / "run.json")["config"]["format"] == "parquet"


def test_mistakes_are_refused(checkpoint: Path, photos: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    for inputs, message in (
        ([tmp_path / "none"], "none: no such folder"),
        ([tmp_path / "empty"], "holds neither images .* nor shards"),
        ([photos, shards], "photos holds no shards: give one folder of images"),
        ([shards, shards], "is given twice"),
    ):
        with pytest.raises(ValueError, match=message):
            run_embed(checkpoint, tmp_path / "f", *inputs)
    with pytest.raises(ValueError, match="no such run or checkpoint folder"):
        run_embed(tmp_path / "none", tmp_path / "f", photos)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="--device cuda: PyTorch sees no such device here"):
            run_embed(checkpoint, tmp_path / "f", photos, device="cuda")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"--executor ray needs Ray: pip install 'lcl\[data\]'"):
        run_embed(checkpoint, tmp_path / "f", photos, executor="ray")


def test_weights_that_are_no_numbers_are_refused(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = toy_checkpoint(tmp_path / "toy", seed=2)
    encoder = load_encoder(checkpoint)
    torch.nn.init.constant_(encoder.pool_project.pooler.cross_attn.proj.weight, float("nan"))
    monkeypatch.setattr(embedding, "_encoder", lambda *_: encoder)
    with pytest.raises(ValueError, match="gives no finite features of photos/a/0.jpg"):
        run_embed(checkpoint, tmp_path / "f", photos)


def test_as_a_command(run: Run, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    result = run("python", "-m", "lcl.cli", "embed", "--encoder", checkpoint, "--input", photos, "--output", tmp_path / "f")
    assert result.returncode == 0 and "features of 10 images, 1 other file passed over: " in result.stdout, result.stderr


def test_an_export_gives_the_features_of_its_checkpoint(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    """One fingerprint, so one half of the units may be done with either; texts need the checkpoint."""
    export = tmp_path / "timm"
    write_export(ExportConfig(checkpoint=str(checkpoint), to="timm", output=str(export)))
    _, pooled, record = run_embed(checkpoint, tmp_path / "a", photos, files_per_unit=5)
    _, others, of_export = run_embed(export, tmp_path / "b", photos, files_per_unit=5)
    assert np.array_equal(pooled, others) and record["encoder"] == of_export["encoder"]
    options = {"features": str(tmp_path / "b"), "output": str(tmp_path / "page.html"), "text": ("a red boot",)}
    with pytest.raises(ValueError, match="timm has no language model, so --text needs --encoder"):
        search(SearchConfig(**options))
    assert search(SearchConfig(**options, encoder=str(checkpoint))).is_file()
    assert search(SearchConfig(**{**options, "text": ()}, queries=(str(photos / "a" / "1.png"),))).is_file()
