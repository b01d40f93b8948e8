"""Takedown: what is listed goes and nothing else, untouched files are not even opened, and a kill at any time leaves a whole set."""

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcl.core.document import Document, from_members, to_members
from lcl.core.files import read_json
from lcl.core.shards import Shard, ShardSet, is_whole, read_bytes, read_members, read_sidecar
from pipeline.tools.removal import RemoveConfig, remove_documents, without_images
from pipeline.tools.takedown import Takedown, read_takedown
from pipeline.tools.verify_shards import VerifyConfig
from pipeline.tools.verify_shards import main as verify
from tests.builds import build_here
from tests.conftest import Run, assert_one_line_error
from tests.crawls import Capture, html, jpeg, write_warc
from tests.kill_and_continue import leftovers, run_killed_at, steps_of
from tests.made_shards import file_bytes, file_states, made_document, made_image, made_set

DOCUMENTS = [made_document(number) for number in range(30)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made_set(tmp_path / "shards", DOCUMENTS)


def remove(folder: Path, *, min_images: int = 1, phash_bits: int = 0, note: str = "", **lists: list[str]) -> dict[str, int]:
    files = {}
    for name, entries in lists.items():
        path = folder.parent / f"{name}.txt"
        path.write_text("# a list\n\n" + "\n".join(entries) + "\n")
        files[name] = str(path)
    return remove_documents(RemoveConfig(shards=(str(folder),), min_images=min_images, phash_bits=phash_bits, note=note, **files))


def held(folder: Path) -> list[Document]:
    return list(ShardSet([folder]))


def test_pages_go_by_address_in_any_spelling(folder: Path) -> None:
    counts = remove(folder, urls=["http://D1.example:80/1#part", "https://d2.example/%32", "d3.example/3", "https://d0.example/not-there"])
    assert counts == {"shards": 5, "rewritten": 1, "documents": 3, "images": 3}
    assert held(folder) == [item for item in DOCUMENTS if item.page_url not in ("https://d1.example/1", "https://d2.example/2", "https://d3.example/3")]
    verify(VerifyConfig(shards=(str(folder),), num_workers=1))


def test_domains_take_their_subdomains_and_the_images_that_they_served(folder: Path) -> None:
    assert remove(folder, domains=["2.example", "ample"])["rewritten"] == 0, "a part of a name is no domain"
    remove(folder, domains=["d1.example", "IMG2.example."], min_images=0)
    left = held(folder)
    assert [item.key for item in left] == [item.key for item in DOCUMENTS if item.domain != "d1.example"]
    assert not any("img2.example" in image.metadata.url for item in left for image in item.images)
    remove(folder, domains=["example"])
    assert held(folder) == [] and len(ShardSet([folder]).shards) == 5, "an empty shard is a shard"
    verify(VerifyConfig(shards=(str(folder),), num_workers=1))


@pytest.mark.parametrize("kind", ["sha256", "source_sha256", "phash", "url"])
def test_an_image_goes_and_its_document_keeps_its_text(folder: Path, kind: str) -> None:
    target = DOCUMENTS[5].images[0]
    value = getattr(target.metadata, kind)
    assert remove(folder, **{"urls" if kind == "url" else "hashes": [value.upper() if kind != "url" else value]})["images"] == 1
    after = held(folder)[5]
    assert after.images == DOCUMENTS[5].images[1:]
    assert after.texts == ["Document 5 begins.\n\nAfter picture 0 of 5.", "After picture 1 of 5."]
    assert [item for item in held(folder) if item.key != after.key] == [item for item in DOCUMENTS if item.key != after.key]
    verify(VerifyConfig(shards=(str(folder),), num_workers=1))


def test_perceptual_hashes_match_up_to_the_bits_that_are_given(folder: Path) -> None:
    near = f"{int(DOCUMENTS[5].images[0].metadata.phash, 16) ^ 0b10011:016x}"
    assert [remove(folder, hashes=[near], phash_bits=bits)["images"] for bits in (0, 2, 3)] == [0, 0, 1]


@pytest.mark.parametrize(("min_images", "stays"), [(0, True), (1, False), (2, False)])
def test_a_document_that_is_left_with_too_few_images_goes(folder: Path, min_images: int, stays: bool) -> None:
    (image,) = DOCUMENTS[4].images
    counts = remove(folder, hashes=[image.metadata.sha256], min_images=min_images)
    assert (DOCUMENTS[4].key in {item.key for item in held(folder)}) == stays and counts["documents"] == (not stays)
    assert DOCUMENTS[3] in held(folder), "one that had no image before stays"


def test_a_document_without_text_or_image_always_goes(tmp_path: Path) -> None:
    only = made_document(1, text="", num_images=0)
    picture = made_image(9)
    folder = made_set(tmp_path / "shards", [Document(key=only.key, segments=(picture,), page_url=only.page_url, crawl=only.crawl)])
    remove(folder, hashes=[picture.metadata.sha256], min_images=0)
    assert held(folder) == []


@given(st.integers(0, 40), st.sets(st.integers(0, 40)))
def test_without_images_keeps_the_words_in_order(number: int, numbers: set[int]) -> None:
    document = made_document(number, num_images=number % 6)
    after = without_images(document, tuple(numbers))
    assert after.images == [image for place, image in enumerate(document.images) if place not in numbers]
    assert "\n\n".join(after.texts) == "\n\n".join(document.texts)
    kinds = [segment.kind for segment in after.segments]
    assert not any(pair == ("text", "text") for pair in zip(kinds, kinds[1:], strict=False))


def test_untouched_files_keep_bytes_and_time_and_twice_is_once(folder: Path) -> None:
    before = file_states(folder)
    remove(folder, urls=["https://d1.example/9"])
    after = file_states(folder)
    touched = {name for name in before if before[name] != after.get(name)}
    assert touched == {"made-00001.tar", "made-00001.parquet", "made-00001.json"}
    assert set(after) - set(before) == {"made-00001.r1.tar", "made-00001.r1.parquet", "removals/made-00001.r1.json"}
    assert remove(folder, urls=["https://d1.example/9"])["rewritten"] == 0
    assert file_states(folder) == after


def test_tars_of_other_shards_are_not_opened(folder: Path) -> None:
    for tar in folder.glob("*.tar"):
        if tar.stem != "made-00001":
            tar.write_bytes(b"\xff" * tar.stat().st_size)
    assert remove(folder, urls=["https://d1.example/9"])["documents"] == 1


def test_a_damaged_shard_gets_no_new_checksum(folder: Path) -> None:
    tar = folder / "made-00001.tar"
    tar.write_bytes(b"\xff" * tar.stat().st_size)
    before = file_bytes(folder)
    with pytest.raises(ValueError, match="made-00001.tar is damaged"):
        remove(folder, urls=["https://d1.example/9"])
    assert file_bytes(folder) == before


def test_in_two_steps_or_in_one_the_tar_is_the_same(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "shards"
    shutil.copytree(folder, other)
    remove(folder, urls=["https://d1.example/9", "https://d2.example/10"])
    remove(other, urls=["https://d1.example/9"])
    remove(other, urls=["https://d2.example/10"])
    assert (folder / "made-00001.r1.tar").read_bytes() == (other / "made-00001.r2.tar").read_bytes()
    assert not list(other.glob("made-00001.tar")) and not list(other.glob("made-00001.r1.*")), "old revisions are gone"
    assert [read_json(path / "made-00001.json")["removed"] for path in (folder, other)] == [{"documents": 2, "images": len(DOCUMENTS[9].images + DOCUMENTS[10].images)}] * 2
    verify(VerifyConfig(shards=(str(other),), num_workers=1))


def test_the_log_says_what_went_and_why(folder: Path) -> None:
    remove(folder, urls=["https://d1.example/9"], hashes=[DOCUMENTS[11].images[1].metadata.source_sha256], note="letter of 3 May")
    log = read_json(folder / "removals" / "made-00001.r1.json")
    images = DOCUMENTS[11].images[1]
    assert log["note"] == "letter of 3 May" and log["revision"] == 1 and log["schema"] == "lcl-removal/1"
    assert log["documents"] == [{"key": DOCUMENTS[9].key, "page_url": "https://d1.example/9", "reason": "url"}]
    assert log["images"] == [{"key": DOCUMENTS[11].key, "url": images.metadata.url, "sha256": images.metadata.sha256, "reason": "sha256"}]


CODE = "from pipeline.tools.removal import RemoveConfig, remove_documents; remove_documents(RemoveConfig(shards=({folder!r},), domains={domains!r}))"


def test_killed_and_run_again_gives_the_undisturbed_bytes(tmp_path: Path) -> None:
    """At every kill each shard is the old one or the new one, whole."""
    original = made_set(tmp_path / "shards", [made_document(number) for number in range(300)], per_shard=10)
    domains = tmp_path / "domains.txt"
    domains.write_text("d1.example\nimg2.example\n")
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(original, undisturbed)
    steps = steps_of(CODE.format(folder=str(undisturbed), domains=str(domains)), undisturbed)
    old, new = ({path.stem: list(map(to_members, held_of(path))) for path in folder.glob("*.json")} for folder in (original, undisturbed))
    chance = random.Random(1)
    mixed = 0
    for trial in range(6):
        folder = tmp_path / f"trial-{trial}"
        shutil.copytree(original, folder)
        first = chance.randrange(1, steps)
        for step in (first, chance.randrange(1, steps - first)):
            run_killed_at(CODE.format(folder=str(folder), domains=str(domains)), folder, step)
            states = set()
            for path in folder.glob("*.json"):
                assert is_whole(path)
                now = list(map(to_members, held_of(path)))
                assert now in (old[path.stem], new[path.stem])
                states.add(now == new[path.stem])
            mixed += len(states) == 2
        remove_documents(RemoveConfig(shards=(str(folder),), domains=str(domains)))
        assert file_bytes(folder) == file_bytes(undisturbed) and not leftovers(folder)
    assert mixed >= 4, "runs were cut in the middle"


def held_of(sidecar: Path) -> list[Document]:
    shard = Shard(sidecar, read_sidecar(sidecar))
    return [from_members(read_members(read_bytes(shard.tar, offset=row["offset"], length=row["length"]))) for row in shard.catalogue().to_pylist()]


@pytest.mark.parametrize("moment", ["log", "tar", "parquet", "commit", "old tar"])
def test_a_kill_between_any_two_steps(folder: Path, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moments themselves, exactly: a file takes or loses its name, and nothing after that happens."""
    undisturbed = tmp_path / "undisturbed" / "shards"
    shutil.copytree(folder, undisturbed)
    remove(undisturbed, urls=["https://d1.example/9"])
    suffix = {"log": "removals/made-00001.r1.json", "tar": "made-00001.r1.tar", "parquet": "made-00001.r1.parquet", "commit": "shards/made-00001.json"}.get(moment)
    replace, unlink = os.replace, Path.unlink

    class Killed(BaseException):
        pass

    def replace_and_die(source: Path, target: Path) -> None:
        replace(source, target)
        if suffix and str(target).endswith(suffix):
            raise Killed

    def unlink_and_die(path: Path, **options: bool) -> None:
        unlink(path, **options)
        if moment == "old tar" and path.name == "made-00001.tar":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_and_die)
        patch.setattr(Path, "unlink", unlink_and_die)
        with pytest.raises(Killed):
            remove(folder, urls=["https://d1.example/9"])
    assert [item.key for item in held(folder)] in ([item.key for item in DOCUMENTS], [item.key for item in DOCUMENTS if item.page_url != "https://d1.example/9"])
    remove(folder, urls=["https://d1.example/9"])
    assert file_bytes(folder) == file_bytes(undisturbed)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({}, "nothing is listed; give --urls, --domains or --hashes"),
        ({"urls": []}, "nothing is listed"),
        ({"hashes": ["abc"]}, "hashes.txt, line 3: 'abc' is no hash"),
        ({"domains": ["d1.example", "https://a.example/x"]}, "domains.txt, line 4: 'https://a.example/x' is no domain"),
        ({"urls": ["two words"]}, "urls.txt, line 3: 'two words' is no address"),
    ],
)
def test_mistakes_in_lists_are_named(folder: Path, lists: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        remove(folder, **lists)


def test_the_lists_answer_for_a_build_too(tmp_path: Path) -> None:
    path = tmp_path / "domains.txt"
    path.write_text("*.gone.example\n")
    takedown = read_takedown(domains=str(path))
    assert takedown.document_reason(page_url="https://www.gone.example/a", domain="www.gone.example") == "domain gone.example"
    assert takedown.document_reason(page_url="https://begone.example/a", domain="begone.example") == ""
    assert takedown.image_reason(url="http://cdn.gone.example/i.jpg", hashes=(), phash="") == "domain gone.example"
    assert Takedown().document_reason(page_url="http://[broken", domain="") == "" == Takedown(urls=frozenset({"x"})).image_reason(url="http://[broken", hashes=(), phash="")


def test_a_build_that_lost_a_shard_does_not_bring_back_what_was_removed(tmp_path: Path) -> None:
    captures = [Capture(f"https://{site}.example/", html(f"<p>{site} of its own</p><img src='https://a.example/i.jpg'>")) for site in "ab"]
    crawl = write_warc(tmp_path / "crawl.warc.gz", [*captures, Capture("https://a.example/i.jpg", jpeg((200, 0, 0)), "image/jpeg")])
    output = tmp_path / "shards"
    build_here([crawl], output, shard_documents=1)
    (tmp_path / "domains.txt").write_text("b.example\n")
    assert remove_documents(RemoveConfig(shards=(str(output),), domains=str(tmp_path / "domains.txt")))["documents"] == 1
    build_here([crawl], output, shard_documents=1)  # nothing is lost: nothing to do
    assert [document.page_url for document in ShardSet([output])] == ["https://a.example/"]
    for path in output.glob("*-00000.*"):
        path.unlink()
    with pytest.raises(ValueError, match="documents were taken down .*would bring them back.*lcl remove"):
        build_here([crawl], output, shard_documents=1)
    assert not any("b.example" in document.page_url for document in ShardSet([output]))


def test_a_selection_is_refused_and_as_a_command(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("d1.example\n")
    command = (sys.executable, "-m", "lcl.cli")
    assert run(*command, "select", "--shards", folder, "--where", "num_images > 0", "--output", tmp_path / "picked").returncode == 0
    assert_one_line_error(run(*command, "remove", "--shards", tmp_path / "picked", "--domains", tmp_path / "list.txt"), "is a selection")
    result = run(*command, "remove", "--shards", folder, "--domains", tmp_path / "list.txt")
    assert result.returncode == 0 and "removed 8 documents and 9 images; 5 of 5 shards were rewritten" in result.stdout, result.stderr
    with pytest.raises(ValueError, match="select again"):
        ShardSet([tmp_path / "picked"])
