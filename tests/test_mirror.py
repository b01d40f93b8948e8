"""Mirrors on a real S3 server on loopback: what is published comes back, what is not committed is not there, others' files are never replaced, failures are tried again."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from lcl.core import mirror as mirrors
from lcl.core import stores
from lcl.core.files import sha256_of
from lcl.core.mirror import Mirror, MirrorError
from lcl.core.shard_mirror import fetch_sets, fetch_shards, folders_of, local_folder, publish_records, publish_shard
from lcl.core.shards import ShardSet, find_shards, write_shard
from pipeline.tools.removal import RemoveConfig, remove_documents
from tests.builds import build_here
from tests.conftest import Run, assert_one_line_error
from tests.crawls import Capture, html, jpeg, write_warc
from tests.made_shards import file_bytes, made_document, made_set
from tests.processes import ROOT
from tests.s3_server import Request, s3_server

INTERNAL_ERROR = "500 Internal Server Error"


class Store:
    """The server, a bucket for each test, and what was asked of it."""

    def __init__(self) -> None:
        self.client: Any = None
        self.bucket = ""
        self.requests: list[tuple[str, str]] = []
        self.fail: Callable[[Request], str | None] = lambda request: None

    def see(self, request: Request) -> str | None:
        self.requests.append((request["REQUEST_METHOD"], request["PATH_INFO"] + "?" + request["QUERY_STRING"]))
        return self.fail(request)

    def address(self, prefix: str) -> str:
        return f"s3://{self.bucket}/{prefix}"

    def names(self, prefix: str) -> list[str]:
        return sorted(item["Key"].removeprefix(f"{prefix}/") for item in self.client.list_objects_v2(Bucket=self.bucket, Prefix=f"{prefix}/").get("Contents", []))

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def sent(self) -> list[str]:
        """Paths of what was put since the last call, parts of files included."""
        found, self.requests = [path for method, path in self.requests if method == "PUT"], []
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    store = Store()
    with pytest.MonkeyPatch.context() as patch, s3_server(patch, "first", fail=store.see) as client:
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # botocore's own retries would hide ours
        store.client = client
        yield store


@pytest.fixture
def store(server: Store, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(stores, "FIRST_WAIT_SECONDS", 0.01)
    server.bucket = f"bucket-{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"
    server.fail = lambda request: None
    server.client.create_bucket(Bucket=server.bucket)
    server.requests = []
    return server


def made_unit(folder: Path, *sizes: int, seed: int = 0) -> dict[str, str]:
    """Files a, b, ... of random bytes, and commit.json with their checksums, which are returned."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, size in zip("abc", sizes, strict=False):
        (folder / name).write_bytes(random.Random(f"{seed}{name}").randbytes(size))
        files[name] = sha256_of(folder / name)
    (folder / "commit.json").write_text(json.dumps(files))
    return files


def fetch_unit(mirror: Mirror, folder: Path) -> None:
    data = mirror.read("commit.json")
    assert data is not None
    folder.mkdir(exist_ok=True)
    mirror.fetch(folder, json.loads(data), "commit.json", data)


def test_what_is_published_comes_back_large_files_in_parts(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "PART_BYTES", 5 << 20)
    files, mirror = made_unit(tmp_path / "here", 0, 1000, 13 << 20), Mirror(store.address("unit/"))
    assert mirror.read("commit.json") is None and mirror.sizes() == {}
    assert mirror.publish(tmp_path / "here", files, "commit.json")
    assert sum("partNumber" in path for path in store.sent()) == 3
    assert mirror.sizes() == {path.name: path.stat().st_size for path in sorted((tmp_path / "here").iterdir())}
    fetch_unit(mirror, tmp_path / "there")
    assert file_bytes(tmp_path / "there") == file_bytes(tmp_path / "here")
    assert not mirror.publish(tmp_path / "here", files, "commit.json") and not store.sent()


PUBLISH = """
import json, sys
from pathlib import Path
from lcl.core.mirror import Mirror
folder = Path(sys.argv[2])
Mirror(sys.argv[1]).publish(folder, json.loads((folder / "commit.json").read_text()), "commit.json")
"""


@pytest.mark.parametrize("last", ["a", "b", "commit.json"])
def test_killed_before_the_commit_there_is_nothing_and_the_same_command_sends_the_rest(store: Store, tmp_path: Path, last: str) -> None:
    """kill -9 while `last` is on its way."""
    files, mirror, names = made_unit(tmp_path / "here", 1000, 2000), Mirror(store.address("unit")), ["a", "b", "commit.json"]
    process: subprocess.Popen

    def kill(request: Request) -> str | None:
        if request["REQUEST_METHOD"] != "PUT" or not request["PATH_INFO"].endswith(f"/{last}"):
            return None
        process.kill()
        return "503 Service Unavailable"

    store.fail = kill
    process = subprocess.Popen([sys.executable, "-c", PUBLISH, mirror.address, str(tmp_path / "here")], cwd=ROOT)
    assert process.wait() == -signal.SIGKILL
    store.fail = lambda request: None
    assert mirror.read("commit.json") is None and list(mirror.sizes()) == names[: names.index(last)]
    store.sent()
    assert mirror.publish(tmp_path / "here", files, "commit.json")
    assert [Path(path.partition("?")[0]).name for path in store.sent()] == names[names.index(last) :], "what is whole is not sent again"
    fetch_unit(mirror, tmp_path / "there")
    assert file_bytes(tmp_path / "there") == file_bytes(tmp_path / "here")


def test_data_that_nothing_vouches_for_is_replaced_where_it_differs(store: Store, tmp_path: Path) -> None:
    files, mirror = made_unit(tmp_path / "here", 1000, 2000), Mirror(store.address("unit"))
    store.put("unit/a", b"x" * 1000)
    store.put("unit/b", b"half")
    assert mirror.publish(tmp_path / "here", files, "commit.json")
    fetch_unit(mirror, tmp_path / "there")
    assert file_bytes(tmp_path / "there") == file_bytes(tmp_path / "here")


def test_the_commit_file_of_others_is_never_replaced(store: Store, tmp_path: Path) -> None:
    files, mirror = made_unit(tmp_path / "a", 1000), Mirror(store.address("unit"))
    others, theirs = made_unit(tmp_path / "b", 1000, seed=1), Mirror(store.address("unit"))
    theirs.publish(tmp_path / "b", others, "commit.json")
    store.sent()
    with pytest.raises(MirrorError, match=r"unit/commit.json is of another build or run"):
        mirror.publish(tmp_path / "a", files, "commit.json")
    assert not store.sent(), "their data stays too"


@pytest.mark.parametrize("equal", [True, False])
def test_of_two_that_commit_at_once_one_wins(store: Store, tmp_path: Path, equal: bool) -> None:
    """The other's commit comes after we looked: the store itself must refuse ours."""
    files, mirror = made_unit(tmp_path, 1000), Mirror(store.address("unit"))
    ours = (tmp_path / "commit.json").read_bytes()
    theirs = ours if equal else b"{}"

    def meanwhile(request: Request) -> None:
        if request["REQUEST_METHOD"] == "PUT" and request["PATH_INFO"].endswith("unit/a"):
            threading.Thread(target=store.put, args=("unit/commit.json", theirs)).start()
        elif request["REQUEST_METHOD"] == "PUT" and request.get("HTTP_IF_NONE_MATCH"):
            while store.names("unit") != ["a", "commit.json"]:
                pass

    store.fail = meanwhile
    if equal:
        assert mirror.publish(tmp_path, files, "commit.json")
    else:
        with pytest.raises(MirrorError, match="another process is writing there"):
            mirror.publish(tmp_path, files, "commit.json")
    assert mirror.read("commit.json") == theirs


def test_a_flaky_server_is_asked_again(store: Store, tmp_path: Path) -> None:
    """Every request fails the first time that it is made."""
    files, mirror, seen = made_unit(tmp_path / "here", 1000, 2000, 3000), Mirror(store.address("unit")), set()

    def fail(request: Request) -> str | None:
        asked = (request["REQUEST_METHOD"], request["PATH_INFO"], request["QUERY_STRING"])
        if asked in seen:
            return None
        seen.add(asked)
        return INTERNAL_ERROR

    store.fail = fail
    assert mirror.publish(tmp_path / "here", files, "commit.json")
    fetch_unit(mirror, tmp_path / "there")
    assert len(seen) > 8 and file_bytes(tmp_path / "there") == file_bytes(tmp_path / "here")


def test_a_store_that_goes_on_failing_is_an_error_in_the_end(store: Store, tmp_path: Path) -> None:
    files, mirror = made_unit(tmp_path, 10), Mirror(store.address("unit"))
    store.fail = lambda request: INTERNAL_ERROR
    with pytest.raises(MirrorError, match=rf"unit/commit.json cannot be read: OSError: .*\({stores.ATTEMPTS} attempts\)"):
        mirror.publish(tmp_path, files, "commit.json")


def test_damage_and_names_that_leave_the_folder_are_found(store: Store, tmp_path: Path) -> None:
    files, mirror = made_unit(tmp_path / "here", 1000, 2000), Mirror(store.address("unit"))
    mirror.publish(tmp_path / "here", files, "commit.json")
    store.put("unit/b", b"x" * 2000)
    with pytest.raises(MirrorError, match="unit/b is damaged"):
        fetch_unit(mirror, tmp_path / "there")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["a"], "no commit file, nothing in part"
    store.client.delete_object(Bucket=store.bucket, Key="unit/b")
    with pytest.raises(MirrorError, match="unit/b cannot be read: FileNotFoundError"):
        fetch_unit(mirror, tmp_path / "there")
    for name in ("../b", "/b", "a/../../b"):
        with pytest.raises(MirrorError, match="names a file outside of its folder"):
            mirror.fetch(tmp_path / "there", {name: files["a"]}, "commit.json", b"{}")


def test_a_store_in_memory_keeps_the_same_laws(tmp_path: Path) -> None:
    files, mirror = made_unit(tmp_path / "here", 0, 1000), Mirror("memory://test_mirror/unit")
    assert mirror.sizes() == {} and mirror.publish(tmp_path / "here", files, "commit.json") and not mirror.publish(tmp_path / "here", files, "commit.json")
    fetch_unit(mirror, tmp_path / "there")
    assert file_bytes(tmp_path / "there") == file_bytes(tmp_path / "here") and list(mirror.sizes()) == ["a", "b", "commit.json"]
    (tmp_path / "here" / "commit.json").write_text("{}")
    with pytest.raises(MirrorError, match="another build or run"):
        mirror.publish(tmp_path / "here", files, "commit.json")
    with pytest.raises(MirrorError, match="only S3 replaces on condition"):
        mirror.publish(tmp_path / "here", files, "commit.json", replaces=lambda theirs: ())
    mirror.remove(["a", "commit.json", "never there"])
    assert list(mirror.sizes()) == ["b"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/data/shards", "is no address of an object store: give one such as s3://bucket/prefix"),
        ("file:///data/shards", "no address of an object store"),
        ("https://host/shards", "no address of an object store"),
        ("s3://", "no address of an object store"),
        ("zip://a::s3://bucket/b.zip", "no address of an object store"),
        ("s3://key:secret@bucket/shards", r"s3://\.\.\.: an address with credentials; give them in the environment"),
        ("nonsense://bucket/shards", "nonsense://bucket/shards: .*fsspec knows"),
        ("gs://bucket/shards", "gs://bucket/shards: .*gcsfs"),
    ],
)
def test_what_is_no_address_of_a_store_is_named(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Mirror(address)
    assert "secret" not in str(error.value)


def test_what_the_store_refuses_is_a_line(store: Store, tmp_path: Path) -> None:
    files = made_unit(tmp_path, 10)
    with pytest.raises(MirrorError, match="s3://no-such-bucket/unit/a cannot be written: FileNotFoundError: The specified bucket does not exist$"):
        Mirror("s3://no-such-bucket/unit").publish(tmp_path, files, "commit.json")
    with pytest.raises(MirrorError, match="s3://no-such-bucket/unit/ cannot be read: FileNotFoundError: The specified bucket does not exist$"):
        fetch_shards("s3://no-such-bucket/unit", tmp_path / "copy")
    store.fail = lambda request: "403 Forbidden"
    with pytest.raises(MirrorError, match="commit.json cannot be read: PermissionError"):
        Mirror(store.address("unit")).publish(tmp_path, files, "commit.json")


# --- sets of shards ---


def publish_set(address: str, folder: Path) -> int:
    return sum(publish_shard(address, shard.path) for shard in find_shards([folder]))


def documents(folder: Path) -> list[tuple[str, int]]:
    return [(document.page_url, len(document.images)) for document in ShardSet([folder])]


def test_shards_come_back_and_only_what_is_missing_is_sent_or_fetched(store: Store, tmp_path: Path) -> None:
    folder, address, cache = made_set(tmp_path / "set", [made_document(number) for number in range(20)]), store.address("a/shards"), str(tmp_path / "cache")
    assert publish_set(address, folder) == 3 and publish_set(address, folder) == 0
    fetch_sets([address, str(tmp_path / "set")], cache)
    copy = local_folder(address + "/", cache)
    assert copy == local_folder(address, cache) and copy.name.startswith("shards-") and local_folder("x/y", "") == Path("x/y")
    assert {name: data for name, data in file_bytes(copy).items() if name != "address.txt"} == file_bytes(folder)
    assert ShardSet([copy]).fingerprint == ShardSet([folder]).fingerprint
    (copy / "made-00001.tar").unlink()
    store.client.delete_object(Bucket=store.bucket, Key="a/shards/made-00002.json")
    store.requests = []
    fetch_shards(address, copy)
    got = [path for method, path in store.requests if method == "GET" and ".tar" in path]
    assert len(got) == 1 and "made-00001.tar" in got[0]
    assert sorted(path.name for path in copy.iterdir()) == ["address.txt", *(f"made-0000{number}.{ending}" for number in (0, 1) for ending in ("json", "parquet", "tar"))]


def test_processes_that_fetch_at_once_fetch_once(store: Store, tmp_path: Path) -> None:
    folder, address = made_set(tmp_path / "set", [made_document(number) for number in range(14)]), store.address("shards")
    publish_set(address, folder)
    store.requests = []
    threads = [threading.Thread(target=fetch_shards, args=(address, tmp_path / "copy")) for _ in range(4)]  # each opens the folder itself, so the lock keeps them apart as it does processes
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert documents(tmp_path / "copy") == documents(folder)
    assert sum(method == "GET" and ".tar" in path for method, path in store.requests) == 2


def test_documents_that_are_taken_down_go_at_the_mirror_and_in_copies(store: Store, tmp_path: Path) -> None:
    folder, address = made_set(tmp_path / "set", [made_document(number) for number in range(12)]), store.address("shards")
    publish_set(address, folder)
    fetch_shards(address, tmp_path / "copy")
    before = made_set(tmp_path / "before", [made_document(number) for number in range(12)])
    (tmp_path / "domains.txt").write_text("d1.example\n")
    remove_documents(RemoveConfig(shards=(str(folder),), domains=str(tmp_path / "domains.txt")))
    assert publish_set(address, folder) == 2 and publish_set(address, folder) == 0
    expected = [f"made-0000{number}{ending}" for number in (0, 1) for ending in (".json", ".r1.parquet", ".r1.tar")]
    assert store.names("shards") == expected
    fetch_shards(address, tmp_path / "copy")
    assert documents(tmp_path / "copy") == documents(folder) and not any("d1." in url for url, _ in documents(tmp_path / "copy"))
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["address.txt", *expected]
    with pytest.raises(MirrorError, match="has revision 1, .* 0: `lcl remove` the same here first"):
        publish_set(address, before)
    with pytest.raises(MirrorError, match="is a shard of another build"):
        write_shard(tmp_path, "made-00000", [made_document(100)], origin={"by": "others"})
        publish_set(address, tmp_path)
    assert store.names("shards") == expected


def test_addresses_that_hold_no_whole_set_are_named(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, address = made_set(tmp_path / "set", [made_document(0)]), store.address("shards")
    with pytest.raises(MirrorError, match="holds no committed shard: publish some"):
        fetch_shards(address, tmp_path / "copy")
    publish_set(address, folder)
    fetch_shards(address, tmp_path / "copy")
    assert "holds no report.json: its 1 shards are taken" in caplog.text
    (folder / "report.json").write_text('{"shards": 2}')
    publish_records(address, folder)
    with pytest.raises(MirrorError, match="holds 1 shards, and its report.json counts 2: wait until all are published"):
        fetch_shards(address, tmp_path / "copy")
    for name, message in (("selection.json", "is a selection"),):
        store.put(f"shards/{name}", b"{}")
        with pytest.raises(MirrorError, match=message):
            fetch_shards(address, tmp_path / "copy")
    store.put("else/a.json", b"[1]")
    with pytest.raises(MirrorError, match="a.json is no sidecar of a shard"):
        fetch_shards(store.address("else"), tmp_path / "else")
    with pytest.raises(ValueError, match="holds the shards of .*/shards, not of .*/else: give another folder"):
        fetch_shards(store.address("else"), tmp_path / "copy")
    with pytest.raises(ValueError, match="is not empty and holds no copy of"):
        fetch_shards(address, folder)
    with pytest.raises(ValueError, match="is an address: give --data.cache"):
        fetch_sets([address], "")
    with pytest.raises(ValueError, match="no such folder of shards; of shards at an address only"):
        find_shards([Path(address)])


def test_a_set_is_copied_there_and_back_by_command(store: Store, tmp_path: Path, run: Run) -> None:
    folder, address = made_set(tmp_path / "set", [made_document(number) for number in range(9)]), store.address("shards")
    (folder / "report.json").write_text('{"shards": 2}')
    there = run("lcl", "copy-shards", "--shards", folder, "--output", address)
    assert f"2 shards of {folder}, 2 of them new or of a new revision: {address}" in there.stdout, there.stderr
    back = run("lcl", "copy-shards", "--shards", address, "--output", tmp_path / "copy")
    assert f"2 shards of {address}: {tmp_path / 'copy'}" in back.stdout, back.stderr
    assert file_bytes(tmp_path / "copy") == file_bytes(folder) | {"address.txt": address.encode()}


def test_a_copy_is_between_a_folder_and_an_address(run: Run) -> None:
    assert_one_line_error(run("lcl", "copy-shards", "--shards", "a", "--output", "b"), "are one folder and one address")


# --- builds ---

CAPTURES = [
    [
        Capture(f"https://{name}.example/{page}", html(f"<p>Some words of page {page} of {name}.</p><img src='/{page}.jpg'>"))
        if part == "page" else Capture(f"https://{name}.example/{page}.jpg", jpeg((20 * page, 90, 90)), "image/jpeg")
        for page in range(3) for part in ("page", "image")
    ]
    for name in ("a", "b")
]  # fmt: skip
CANARY = "canary-7f3a9c"


def test_a_build_puts_there_what_it_leaves_here(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Interrupted between the two splits, and again by the same command. No artefact holds what the environment keeps secret."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"{CANARY}-{name}")
    S3FileSystem.clear_instance_cache()
    crawls, address, output = [write_warc(tmp_path / f"{name}.warc.gz", captures) for name, captures in zip("ab", CAPTURES, strict=True)], store.address("shards"), tmp_path / "shards"
    store.fail = lambda request: "403 Forbidden" if request["REQUEST_METHOD"] == "PUT" and "/b-" in request["PATH_INFO"] else None
    with pytest.raises(MirrorError, match=r"/b-\w+-00000.tar cannot be written: PermissionError"):
        build_here(crawls, output, shard_documents=2, mirror=address)
    assert sum(name.endswith(".json") for name in store.names("shards")) == 3, "run.json and the shards of one split"
    store.fail = lambda request: None
    build_here(crawls, output, shard_documents=2, mirror=address)
    here = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    assert {"run.json", "report.json", "timing.json", "README.md"} < here.keys() and sum(name.endswith(".tar") for name in here) == 4
    there = {name: store.client.get_object(Bucket=store.bucket, Key=f"shards/{name}")["Body"].read() for name in store.names("shards")}
    assert there == here
    store.sent()
    build_here(crawls, output, shard_documents=2, mirror=address)
    assert {Path(path.partition("?")[0]).name for path in store.sent()} <= {"run.json", "report.json", "timing.json", "README.md"}
    fetch_shards(address, tmp_path / "copy")
    assert ShardSet([tmp_path / "copy"]).fingerprint == ShardSet([output]).fingerprint
    artefacts = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(artefacts) > 30 and not any(CANARY.encode() in path.read_bytes() for path in artefacts) and CANARY not in caplog.text
    with pytest.raises(MirrorError, match="run.json is of another build .with another --shard-documents"):
        build_here(crawls, tmp_path / "other", shard_documents=3, mirror=address)
    store.put("else/run.json", b"[]")
    with pytest.raises(MirrorError, match="else/run.json is of no build of shards: give another --mirror"):
        build_here(crawls, output, shard_documents=2, mirror=store.address("else"))
    with pytest.raises(ValueError, match="is no address of an object store"):
        build_here(crawls, tmp_path / "third", mirror=str(tmp_path))
    assert not (tmp_path / "third").exists()


def test_a_pattern_names_folders_in_order(tmp_path: Path) -> None:
    for name in ("part-1", "part-0", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "part-2").touch()
    assert folders_of(f"{tmp_path}/part-*", "") == [tmp_path / "part-0", tmp_path / "part-1"] and folders_of(str(tmp_path / "part-1"), "") == [tmp_path / "part-1"]
    with pytest.raises(ValueError, match="no folder of shards has such a name"):
        folders_of(f"{tmp_path}/none-*", "")
