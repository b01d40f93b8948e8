"""Selections: everything is in a condition's selection or in its opposite's, bytes are not copied, and readers take one like a set."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lcl.core.selection import RECORD, ROWS
from lcl.core.shards import ShardSet, find_shards, write_shard
from pipeline.tools.select_documents import main
from pipeline.tools.selecting import SelectConfig, select_documents
from tests.made_shards import file_bytes, made_document, made_set

DOCUMENTS = [made_document(number) for number in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_set(tmp_path_factory.mktemp("set") / "shards", DOCUMENTS)


def select(source: Path | tuple[Path, ...], where: str, output: Path) -> ShardSet:
    sources = source if isinstance(source, tuple) else (source,)
    select_documents(SelectConfig(shards=tuple(map(str, sources)), where=where, output=str(output)))
    return ShardSet([output])


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(bound=st.integers(0, 19), images=st.integers(0, 2))
def test_a_selection_and_its_opposite_are_all(folder: Path, tmp_path_factory: pytest.TempPathFactory, bound: int, images: int) -> None:
    output = tmp_path_factory.mktemp("picked")
    where = f"score.words <= {bound} or num_images == {images}"
    picked = list(select(folder, where, output / "yes"))
    others = list(select(folder, f"not ({where})", output / "no")) if len(picked) < 20 else []
    assert picked == [item for item in DOCUMENTS if item.scores["words"] <= bound or len(item.images) == images]
    assert sorted(item.key for item in picked + others) == sorted(item.key for item in DOCUMENTS)


def test_a_selection_of_a_selection_is_both_conditions(folder: Path, tmp_path: Path) -> None:
    select(folder, "num_images >= 1", tmp_path / "one")
    twice = select(tmp_path / "one", "domain == 'd1.example'", tmp_path / "two")
    once = select(folder, "num_images >= 1 and domain == 'd1.example'", tmp_path / "both")
    assert list(twice) == list(once) and len(once) == sum(len(item.images) >= 1 and item.domain == "d1.example" for item in DOCUMENTS)
    assert twice.fingerprint == once.fingerprint != ShardSet([folder]).fingerprint


def test_no_bytes_are_copied_and_the_same_command_writes_the_same(folder: Path, tmp_path: Path) -> None:
    before = file_bytes(folder)
    select(folder, "num_images == 1", tmp_path / "picked")
    first = file_bytes(tmp_path / "picked")
    assert set(first) == {RECORD, ROWS} and sum(map(len, first.values())) < 4000
    select(folder, "num_images == 1", tmp_path / "picked")
    assert file_bytes(tmp_path / "picked") == first and file_bytes(folder) == before


def test_sets_and_selections_mix(folder: Path, tmp_path: Path) -> None:
    select(folder, "num_images == 2", tmp_path / "picked")
    both = ShardSet([tmp_path / "picked", folder])
    assert len(both) == 20 + 6 and both.read(6) == DOCUMENTS[0]


def test_a_selection_moves_with_its_shards(tmp_path: Path) -> None:
    made_set(tmp_path / "here" / "shards", DOCUMENTS)
    before = list(select(tmp_path / "here" / "shards", "num_images == 2", tmp_path / "here" / "picked"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert list(ShardSet([tmp_path / "there" / "picked"])) == before


def test_shards_that_changed_are_refused(tmp_path: Path) -> None:
    source = made_set(tmp_path / "shards", DOCUMENTS)
    select(source, "num_images == 2", tmp_path / "picked")
    write_shard(source, "made-00001", DOCUMENTS[7:13], origin={})
    with pytest.raises(ValueError, match="made-00001.json has other documents than when .*picked selected from it: select again"):
        ShardSet([tmp_path / "picked"])


def test_damage_to_a_selection_is_named(folder: Path, tmp_path: Path) -> None:
    select(folder, "num_images == 2", tmp_path / "picked")
    rows = tmp_path / "picked" / ROWS
    good = rows.read_bytes()
    for place in range(0, len(good), 37):
        rows.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.raises(ValueError, match="rows.parquet is missing or damaged"):
            find_shards([tmp_path / "picked"])
    rows.write_bytes(good)
    record = tmp_path / "picked" / RECORD
    record.write_text(record.read_text().replace("lcl-selection/1", "lcl-selection/9"))
    with pytest.raises(ValueError, match="schema 'lcl-selection/9', this version reads 'lcl-selection/1'"):
        find_shards([tmp_path / "picked"])


@pytest.mark.parametrize(
    ("where", "message"),
    [("num_images > 99", "no document of .* meets"), ("score.wrods > 1", "did you mean score.words"), ("num_image > 1", "did you mean num_images")],
)
def test_mistakes_write_nothing(folder: Path, tmp_path: Path, where: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(SelectConfig(shards=(str(folder),), where=where, output=str(tmp_path / "picked")))
    assert not (tmp_path / "picked").exists()


def test_another_folder_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    select(folder, "num_images == 2", tmp_path / "picked")
    with pytest.raises(ValueError, match="holds something else than this selection"):
        select(folder, "num_images == 1", tmp_path / "picked")
    with pytest.raises(ValueError, match="holds something else than this selection"):
        select(folder, "num_images == 1", folder)
