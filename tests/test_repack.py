"""Repacking: the same documents bit for bit in an order that only the seed decides, continued exactly after kill -9."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.core.document import to_members
from lcl.core.files import read_json
from lcl.core.images import decode_image
from lcl.core.shards import ShardSet
from pipeline.tools.repack import RepackConfig, repack
from pipeline.tools.selecting import SelectConfig, select_documents
from pipeline.tools.verify_shards import VerifyConfig
from pipeline.tools.verify_shards import main as verify
from tests.conftest import Run, assert_one_line_error
from tests.kill_and_continue import leftovers, run_killed_at, steps_of
from tests.made_shards import file_bytes, made_document, made_image, made_set

DOCUMENTS = [made_document(number) for number in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_set(tmp_path_factory.mktemp("set") / "shards", DOCUMENTS)


def repacked(source: Path, output: Path, **options: object) -> ShardSet:
    repack(RepackConfig(shards=(str(source),), output=str(output), **options))
    return ShardSet([output])


def members(shards: ShardSet) -> list[list[tuple[str, bytes]]]:
    return sorted(to_members(document) for document in shards)


@settings(max_examples=12, deadline=None)
@given(per_shard=st.integers(1, 50), num_bytes=st.integers(1, 200_000), seed=st.integers(0, (1 << 64) - 1))
def test_the_documents_stay_bit_for_bit(folder: Path, tmp_path_factory: pytest.TempPathFactory, per_shard: int, num_bytes: int, seed: int) -> None:
    shards = repacked(folder, tmp_path_factory.mktemp("out") / "b", shard_documents=per_shard, shard_bytes=num_bytes, seed=seed)
    assert members(shards) == sorted(to_members(document) for document in DOCUMENTS)
    for shard in shards.shards:
        lengths = shard.catalogue(["length"])["length"].to_pylist()
        assert len(lengths) <= per_shard and sum(lengths[:-1]) < num_bytes


def test_the_same_seed_gives_the_same_bytes_and_another_another_order(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        repacked(folder, tmp_path / name, shard_documents=9, seed=seed)
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b")
    orders = [[document.key for document in ShardSet([tmp_path / name])] for name in "ac"]
    assert orders[0] != orders[1] and orders[0] != [document.key for document in DOCUMENTS]
    verify(VerifyConfig(shards=(str(tmp_path / "a"),), num_workers=1))


def test_the_tars_do_not_depend_on_how_the_source_was_sharded(folder: Path, tmp_path: Path) -> None:
    other = made_set(tmp_path / "other", list(reversed(DOCUMENTS)), per_shard=3)
    for name, source in (("a", folder), ("b", other), ("c", tmp_path / "a")):
        repacked(source, tmp_path / name, shard_documents=9, seed=1)
    tars = [{name: data for name, data in file_bytes(tmp_path / name).items() if name.endswith((".tar", ".parquet"))} for name in "abc"]
    assert tars[0] == tars[1] == tars[2] and len(tars[0]) == 10


def test_two_processes_write_what_one_does(folder: Path, tmp_path: Path) -> None:
    repacked(folder, tmp_path / "one", shard_documents=4)
    repacked(folder, tmp_path / "two", shard_documents=4, num_workers=2)
    assert file_bytes(tmp_path / "one") == file_bytes(tmp_path / "two")


def test_a_selection_is_repacked_alone(folder: Path, tmp_path: Path) -> None:
    select_documents(SelectConfig(shards=(str(folder),), where="num_images == 2", output=str(tmp_path / "picked")))
    shards = repacked(tmp_path / "picked", tmp_path / "b")
    assert members(shards) == sorted(to_members(document) for document in DOCUMENTS if len(document.images) == 2)


def test_images_get_the_wanted_side_and_small_ones_stay(tmp_path: Path) -> None:
    base = DOCUMENTS[0]
    large, small = made_image(1, size=(120, 80)), made_image(2, size=(30, 20))
    source = made_set(tmp_path / "a", [replace(base, segments=(*base.segments, large, small))])
    (document,) = repacked(source, tmp_path / "b", side_px=40)
    first, second = document.images
    assert (first.metadata.width, first.metadata.height) == (60, 40) == decode_image(first.data).size
    assert (first.metadata.source_sha256, first.metadata.phash, first.metadata.url) == (large.metadata.source_sha256, large.metadata.phash, large.metadata.url)
    assert second == small and document.texts == base.texts and document.key == base.key
    verify(VerifyConfig(shards=(str(tmp_path / "b"),), decode=True, num_workers=1))


def test_a_lost_shard_is_written_again_and_the_others_are_left_alone(folder: Path, tmp_path: Path) -> None:
    repacked(folder, tmp_path / "b", shard_documents=9)
    before = file_bytes(tmp_path / "b")
    kept = tmp_path / "b" / "repacked-000001.tar"
    written = kept.stat().st_mtime_ns
    (tmp_path / "b" / "repacked-000002.json").unlink()
    (tmp_path / "b" / ".repacked-000003.tar.abc.tmp").write_bytes(b"of a writer that was killed")
    repacked(folder, tmp_path / "b", shard_documents=9)
    assert file_bytes(tmp_path / "b") == before and kept.stat().st_mtime_ns == written


def test_killed_and_run_again_gives_the_undisturbed_bytes(tmp_path: Path) -> None:
    source = made_set(tmp_path / "a", [made_document(number) for number in range(150)], per_shard=50)

    def code(output: Path) -> str:
        return f"from pipeline.tools.repack import RepackConfig, repack; repack(RepackConfig(shards=({str(source)!r},), output={str(output)!r}, shard_documents=5))"

    steps = steps_of(code(tmp_path / "undisturbed"), tmp_path / "undisturbed")
    expected = file_bytes(tmp_path / "undisturbed")
    chance = random.Random(0)
    partial = 0
    for trial in range(5):
        output = tmp_path / f"trial-{trial}"
        first = chance.randrange(1, steps)
        run_killed_at(code(output), output, first)
        run_killed_at(code(output), output, chance.randrange(1, steps - first))
        partial += 0 < len(list(output.glob("*.json"))) < len([name for name in expected if name.endswith(".json")])
        repacked(source, output, shard_documents=5)
        assert file_bytes(output) == expected and not leftovers(output)
    assert partial >= 3, "runs were cut in the middle"


def wrong_options(source: Path, output: Path) -> None:
    repacked(source, output, shard_documents=9)
    repacked(source, output, shard_documents=8)


def other_source(source: Path, output: Path) -> None:
    repacked(source, output)
    repacked(made_set(output.parent / "other", DOCUMENTS[:5]), output)


def foreign_folder(source: Path, output: Path) -> None:
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    repacked(source, output)


def twice(source: Path, output: Path) -> None:
    repack(RepackConfig(shards=(str(source), str(source)), output=str(output)))


def other_versions(source: Path, output: Path) -> None:
    repacked(source, output)
    path = output / "repacked-000000.json"
    path.write_text(path.read_text().replace('"pyarrow": "', '"pyarrow": "0.'))
    repacked(source, output)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (wrong_options, "holds repacked shards of other documents or settings"),
        (other_source, "holds repacked shards of other documents or settings"),
        (foreign_folder, "is not empty and holds no repacked shards"),
        (twice, "is there twice; give --shards that share no documents|is given twice"),
        (other_versions, "was made by .* here are"),
        (lambda source, output: repacked(source, source), "is one of --shards"),
    ],
)
def test_mistakes_are_refused(folder: Path, tmp_path: Path, mistake: Callable[[Path, Path], None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mistake(folder, tmp_path / "b")


def test_a_damaged_source_is_named(tmp_path: Path) -> None:
    source = made_set(tmp_path / "a", DOCUMENTS[:3])
    tar = source / "made-00000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1  # inside a picture: it would be decoded all the same
    tar.write_bytes(data)
    with pytest.raises(ValueError, match="made-00000.tar is damaged"):
        repacked(source, tmp_path / "b")
    assert not list((tmp_path / "b").glob("*.tar"))


def test_as_a_command(run: Run, folder: Path, tmp_path: Path) -> None:
    words = ("python", "-m", "lcl.cli", "repack", "--shards", folder, "--output", tmp_path / "b", "--shard-documents", 15, "--seed", 3, "--num-workers", 2)
    result = run(*words)
    assert result.returncode == 0 and "40 documents with 39 images in 3 shards" in result.stdout, result.stderr
    assert read_json(tmp_path / "b" / "run.json")["config"]["seed"] == 3
    assert_one_line_error(run(*words, "--shard-documents", 16), "other documents or settings")
