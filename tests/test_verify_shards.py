"""`lcl verify`: sound sets pass, and a flipped byte in any file of a set is named."""

import json
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lcl.core.document import ImageSegment, sha256_hex
from lcl.core.files import read_json, sha256_of, write_json
from lcl.core.shards import CATALOGUE, find_shards, sidecar_checksum
from pipeline.run_splits import summarise
from pipeline.tools.check_shard import ShardCheck, check_accounts, check_shard
from pipeline.tools.removal import RemoveConfig, remove_documents
from pipeline.tools.verify_shards import VerifyConfig, main
from tests.conftest import Run, assert_one_line_error
from tests.made_shards import made_document, made_image, made_set

DOCUMENTS = [made_document(number) for number in range(10)]


@pytest.fixture(scope="module")
def built(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build with its records: shards, splits/, report.json."""
    folder = tmp_path_factory.mktemp("built") / "shards"
    shutil.copytree(shards, folder)
    records = [read_json(path) for path in sorted(folder.glob("splits/*.json"))]
    write_json(folder / "report.json", summarise(records, {}, num_crawls=len(records)))
    return folder


def verify(folder: Path, *, decode: bool = False) -> None:
    main(VerifyConfig(shards=(str(folder),), decode=decode, num_workers=1))


@pytest.mark.parametrize("decode", [False, True])
def test_a_build_is_sound(built: Path, decode: bool, capsys: pytest.CaptureFixture) -> None:
    verify(built, decode=decode)
    assert "sound: 3 shards with" in capsys.readouterr().out


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << (place % 7)
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["tar", "parquet", "json", "splits", "report"])
def test_a_flipped_bit_is_named_in_each_kind_of_file(built: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(built, folder)
    pattern = {"splits": "splits/*.json", "report": "report.json", "json": "*-00001.json"}.get(kind, f"*-00001.{kind}")
    (path,) = folder.glob(pattern)
    good = path.read_bytes()
    chance = random.Random(kind)
    for place in sorted(chance.sample(range(len(good)), 25)):
        flip(path, place)
        with pytest.raises(ValueError) as error:
            verify(folder)
        expected = path.stem if kind in ("tar", "parquet", "json") else "accounts of"
        assert expected in str(error.value), (place, str(error.value))
        path.write_bytes(good)
    verify(folder)


@pytest.mark.parametrize("suffix", [".tar", ".parquet", ".json"])
def test_what_is_missing_is_named(built: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(built, folder)
    (path,) = folder.glob(f"*-00001{suffix}")
    path.unlink()
    with pytest.raises(ValueError, match="again"):
        verify(folder)
    assert path.stem in capsys.readouterr().out


def rewritten(folder: Path, change: object) -> list[str]:
    """Findings after a change of the catalogue that is signed anew, as a writer with a defect would leave it."""
    (sidecar_path,) = folder.glob("*.json")
    sidecar = read_json(sidecar_path)
    rows = pq.read_table(folder / "made-00000.parquet").to_pylist()
    change(rows, sidecar)
    pq.write_table(pa.Table.from_pylist(rows, schema=CATALOGUE), folder / "made-00000.parquet")
    sidecar["bytes"][".parquet"] = (folder / "made-00000.parquet").stat().st_size
    sidecar["sha256"][".parquet"] = sha256_of(folder / "made-00000.parquet")
    sidecar["sha256"][".json"] = sidecar_checksum(sidecar)
    write_json(sidecar_path, sidecar)
    return list(check_shard(ShardCheck(sidecar_path)).problems)


def test_signed_anew_without_a_change_is_sound(tmp_path: Path) -> None:
    assert rewritten(made_set(tmp_path, DOCUMENTS, per_shard=10), lambda rows, sidecar: None) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows, sidecar: rows[3].update(offset=rows[3]["offset"] + 512), "document 3: starts at byte"),
        (lambda rows, sidecar: rows[3].update(length=rows[3]["length"] - 512), "document 3: not a readable tar"),
        (lambda rows, sidecar: rows[2].update(num_images=5), "document 2: its catalogue row differs in num_images"),
        (lambda rows, sidecar: rows[2].update(image_sha256=["0" * 64, "1" * 64]), "differs in image_sha256"),
        (lambda rows, sidecar: rows[2].update(key="0" * 32), "differs in key"),
        (lambda rows, sidecar: rows[1].update(scores=[("words", 2.0)]), "differs in scores"),
        (lambda rows, sidecar: sidecar.update(images=1000), "says 1000 images, its tar has 9"),
        (lambda rows, sidecar: sidecar.update(name="other"), "is the sidecar of 'other'"),
        (lambda rows, sidecar: (rows.pop(), sidecar.update(documents=9)), "holds something behind its last document"),
    ],
)
def test_what_a_checksum_cannot_see_is_found(tmp_path: Path, change: object, message: str) -> None:
    problems = rewritten(made_set(tmp_path, DOCUMENTS, per_shard=10), change)
    assert any(message in problem for problem in problems), problems


def test_an_image_that_is_none_is_found_by_decoding(tmp_path: Path) -> None:
    good = made_image(1, size=(96, 96))
    data = good.data[: len(good.data) // 2]
    bad = ImageSegment(data, replace(good.metadata, sha256=sha256_hex(data)))
    made_set(tmp_path, [replace(DOCUMENTS[1], segments=(DOCUMENTS[1].segments[0], bad))])
    assert check_shard(ShardCheck(tmp_path / "made-00000.json")).problems == ()
    (problem,) = check_shard(ShardCheck(tmp_path / "made-00000.json", decode=True)).problems
    assert "document 0: image 0 cannot be decoded" in problem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report["documents"].update(out=1), "says 1 documents, the sidecars"),
        (lambda report: report["images"]["dropped"].update(no_such_reason=0), "names the reason 'no_such_reason'"),
        (lambda report: report.update(shards=9), "says 9 shards, there are 3"),
        (lambda report: report.pop("images"), "lacks what it should have"),
        (lambda report: report["crawls"].update({"in": 7}), "of 7 crawl files"),
        (lambda report: report["records"].update(response=1), "differs from the sum of splits"),
    ],
)
def test_accounts_that_do_not_agree_are_said(built: Path, tmp_path: Path, change: object, message: str) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(built, folder)
    report = read_json(folder / "report.json")
    change(report)
    write_json(folder / "report.json", report)
    problems = check_accounts(folder, find_shards([folder]))
    assert any(message in problem for problem in problems), problems


def test_a_shard_that_no_split_lists_is_named(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(built, folder)
    made_set(folder, DOCUMENTS)
    problems = check_accounts(folder, find_shards([folder]))
    assert any("no record in splits/ lists made-00000, made-00001" in problem for problem in problems), problems


def test_an_early_catalogue_is_sound(tmp_path: Path) -> None:
    """Columns that came later are missing, not wrong."""
    made_set(tmp_path, DOCUMENTS, per_shard=10)
    sidecar = read_json(tmp_path / "made-00000.json")
    path = tmp_path / "made-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["license", "image_url", "image_source_sha256", "image_width", "image_height"]), path)
    del sidecar["sha256"][".json"]
    sidecar["bytes"][".parquet"], sidecar["sha256"][".parquet"] = path.stat().st_size, sha256_of(path)
    write_json(tmp_path / "made-00000.json", sidecar)
    assert check_shard(ShardCheck(tmp_path / "made-00000.json")).problems == ()
    assert find_shards([tmp_path])[0].catalogue()["image_url"].null_count == 10


def test_as_a_command_over_processes(run: Run, built: Path, tmp_path: Path) -> None:
    result = run(sys.executable, "-m", "lcl.cli", "verify", "--shards", built, "--num-workers", 2)
    assert result.returncode == 0 and "sound: 3 shards" in result.stdout, result.stderr
    folder = tmp_path / "shards"
    shutil.copytree(built, folder)
    flip(next(folder.glob("*-00002.tar")), 5000)
    result = run(sys.executable, "-m", "lcl.cli", "verify", "--shards", folder, "--num-workers", 2)
    assert_one_line_error(result, "1 of 3 shards are damaged", "-00002", "run the build again")
    assert "document 0" in result.stdout and json.dumps(str(folder))[1:-1] in result.stdout


def test_accounts_agree_after_a_removal(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(built, folder)
    (tmp_path / "list").write_text(find_shards([folder])[0].catalogue(["page_url"])["page_url"][0].as_py() + "\n")
    assert remove_documents(RemoveConfig(shards=(str(folder),), urls=str(tmp_path / "list")))["documents"] == 1
    verify(folder)
