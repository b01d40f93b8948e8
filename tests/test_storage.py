"""Inputs: what patterns name, reads that fail and are retried, an S3 server and web servers on loopback, with and without ranges."""

import functools
import gzip
import http.server
import os
import random
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from s3fs import S3FileSystem

from lcl.core import stores
from pipeline import storage
from pipeline.crawl import read_crawl
from pipeline.find_inputs import find_inputs
from pipeline.sources.kinds import detect_source, read_source
from pipeline.sources.options import SourceOptions
from pipeline.storage import FIRST_BYTES, LARGEST_BYTES, Input, InputUnreadable, bytes_read, fingerprint, open_input, open_scattered
from tests.builds import build_here, built_bytes
from tests.crawls import Capture, arc_file, html, jpeg, write_warc
from tests.s3_server import s3_server

DATA = bytes(random.Random(0).randbytes(300_000))


def names(inputs: list[Input]) -> list[str]:
    return [item.name for item in inputs]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.warc.gz", "a.warc", "deep/c.WARC.gz", "deep/notes.md", ".hidden.warc", "odd[1].warc"):
        path = tmp_path / "crawls" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "crawls"


def test_files_folders_and_globs_are_found_once_and_sorted(folder: Path) -> None:
    inputs = find_inputs([str(folder), str(folder / "*.warc"), str(folder / "a.warc"), f"file://{folder}/b.warc.gz"], endings=(".warc", ".warc.gz"))
    assert names(inputs) == ["a.warc", "b.warc.gz", "c.WARC.gz", "odd[1].warc"]
    assert inputs == sorted(set(inputs), key=lambda item: item.location)
    assert names(find_inputs([str(folder)])) == ["a.warc", "b.warc.gz", "c.WARC.gz", "notes.md", "odd[1].warc"]
    assert names(find_inputs([str(folder / "**/*.gz"), str(folder / "odd[1].warc")])) == ["b.warc.gz", "c.WARC.gz", "odd[1].warc"]


@pytest.mark.parametrize("name", ["warc.paths", "warc.paths.gz", "list.txt"])
def test_a_list_names_inputs_behind_a_prefix(tmp_path: Path, name: str) -> None:
    lines = b"# a comment\ncrawl-data/CC-MAIN-2024/1.warc.gz\n\n  crawl-data/CC-MAIN-2024/0.warc.gz\r\ns3://other/x.warc.gz\n"
    path = tmp_path / name
    if name.endswith(".gz"):  # several members, as `cat a.gz b.gz` leaves them
        path.write_bytes(gzip.compress(lines[:30]) + gzip.compress(lines[30:]))
    else:
        path.write_bytes(lines)
    found = find_inputs([str(path)], prefix="https://data.commoncrawl.org/", anonymous=True)
    assert [item.location for item in found] == [
        "https://data.commoncrawl.org/crawl-data/CC-MAIN-2024/0.warc.gz", "https://data.commoncrawl.org/crawl-data/CC-MAIN-2024/1.warc.gz", "s3://other/x.warc.gz",
    ]  # fmt: skip
    assert all(item.anonymous for item in found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: ["missing.warc"], "missing.warc: no such file"),
        (lambda folder: [str(folder / "a.warc")] * 2, "is given twice"),
        (lambda folder: [str(folder / "*.arc")], "names no file"),
        (lambda folder: [str(folder / "deep")], r"names no file that ends in \.arc"),
        (lambda folder: ["nonsense://x/y"], "nonsense://x/y: .*fsspec knows"),
        (lambda folder: ["s3://key:secret@bucket/a.warc"], r"s3://\.\.\.: an address with credentials; give them in the environment"),
        (lambda folder: ["memory://nothing/here.warc"], "no such file"),
    ],
)
def test_mistakes_say_what_to_change(folder: Path, make, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        find_inputs(make(folder), endings=(".arc",))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"missing/a.warc\n", "list.txt, line 1: missing/a.warc: no such file; --prefix"),
        (b"\n" + b"x" * 20_000, "line 2: a list of paths has at most"),
        (b"\xff\xfe", "is no list of paths"),
        (b"s3://a:b@c/d\n", "an address with credentials"),
    ],
)
def test_a_list_that_is_none_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        find_inputs([str(path)])


def test_a_list_of_endless_blank_lines_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.find_inputs.MAX_LIST_LINES", 1000)
    path = tmp_path / "bomb.paths.gz"
    path.write_bytes(gzip.compress(b"\n" * 10_000))
    with pytest.raises(ValueError, match="at most 1000 lines"):
        find_inputs([str(path)])


def test_paths_beside_a_file_never_leave_its_folder(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "link").symlink_to(tmp_path / "outside")
    source = Input(str(here / "a.jsonl"))
    assert source.beside("pictures/a.jpg").location == str(here / "pictures/a.jpg")
    for path in ("/etc/passwd", "../x", "a/../../x", "", "s3://b/x", "link", "link/x", "a\\..\\x", "file:///etc/passwd", "a\0b"):
        with pytest.raises(ValueError, match="no path inside|leaves the folder"):
            source.beside(path)
    assert Input("s3://bucket/folder/a.jsonl", anonymous=True).beside("b/c.jpg") == Input("s3://bucket/folder/b/c.jpg", anonymous=True)


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("/data/a.warc.gz", "a.warc.gz"), ("s3://bucket/x/a%20b.warc.gz", "a b.warc.gz"), ("https://a.example/x/c.parquet?token=1#y", "c.parquet"),
        ("zip://inner/d.warc::s3://bucket/e.zip", "d.warc"), ("https://a.example", "a.example"),
    ],
)  # fmt: skip
def test_names(location: str, name: str) -> None:
    assert Input(location).name == name


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, len(DATA) + 10), st.integers(0, 70_000)), max_size=8))
@pytest.mark.parametrize("where", ["local", "memory"])
def test_reads_and_seeks_are_those_of_bytes(tmp_path_factory: pytest.TempPathFactory, where: str, steps: list[tuple[int, int]]) -> None:
    if where == "local":
        path = tmp_path_factory.getbasetemp() / "data.bin"
        path.write_bytes(DATA)
        source = Input(str(path))
    else:
        fsspec.filesystem("memory").pipe("/data.bin", DATA)
        source = Input("memory://data.bin")
    plain = BytesIO(DATA)
    with open_input(source) as file, open_scattered(source) as scattered:
        for position, length in steps:
            assert file.seek(position) == plain.seek(position) == scattered.seek(position)
            expected = plain.read(length)
            assert file.read(length) == expected and file.tell() == plain.tell()
            part = scattered.read(length)  # raw: it may be short, but is empty only at the end
            assert expected.startswith(part) and bool(part) == bool(expected) and scattered.tell() == position + len(part)
        assert scattered.seek(0, os.SEEK_END) == len(DATA) and scattered.seek(-7, os.SEEK_CUR) == len(DATA) - 7 and scattered.read(9) == DATA[-7:]
    assert open_input(source).seek(0, os.SEEK_END) == len(DATA)


@settings(max_examples=40, deadline=None)
@given(records=st.lists(st.tuples(st.integers(0, 5 << 20), st.integers(1, 3 << 20)), min_size=1, max_size=5))
def test_scattered_reads_take_little_more_than_they_are_asked_for(tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, int]]) -> None:
    path = tmp_path_factory.getbasetemp() / "large.bin"
    if not path.exists():
        path.write_bytes(random.Random(1).randbytes(8 << 20))
    with open_scattered(path) as file:
        for position, length in records:
            before, left = bytes_read(), length
            file.seek(position)
            while left:
                left -= len(file.read(min(left, 1 << 16)))
            assert bytes_read() - before <= min(2 * length, length + LARGEST_BYTES) + FIRST_BYTES
            before = bytes_read()
            file.seek(position + length - 1)
            assert file.read(1) and bytes_read() == before, "the last block is kept"


class Flaky(fsspec.AbstractFileSystem):
    """A storage whose reads fail: the first `failures` of them, each with another exception."""

    protocol = "flaky"
    cachable = False
    failures = 0
    version = 0
    calls = 0

    def info(self, path: str, **_: object) -> dict:
        return {"name": path, "size": len(DATA), "type": "file", "ETag": str(Flaky.version)}

    def _open(self, path: str, mode: str = "rb", **_: object) -> BytesIO:
        class File(BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                Flaky.calls += 1
                if Flaky.failures > 0 and self.tell() > 0:
                    Flaky.failures -= 1
                    raise [OSError("reset"), TimeoutError(), RuntimeError("session closed"), ConnectionError("x")][Flaky.failures % 4]
                return super().read(size)

        return File(DATA)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Input:
    monkeypatch.setattr(stores, "FIRST_WAIT_SECONDS", 0.001)
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.failures = Flaky.version = Flaky.calls = 0
    return Input("flaky://bucket/data.bin")


def test_failed_reads_are_repeated_from_their_place(flaky: Input) -> None:
    with open_input(flaky) as file:
        assert file.read(1000) == DATA[:1000]
        Flaky.failures = stores.ATTEMPTS - 1
        assert file.read() == DATA[1000:]
        assert Flaky.failures == 0
    with open_scattered(flaky) as file:
        assert file.read(1000) == DATA[:1000]
        Flaky.failures = stores.ATTEMPTS - 1
        file.seek(200_000)
        assert file.read(1000) == DATA[200_000:201_000] and Flaky.failures == 0
        Flaky.failures = 10**6
        file.seek(100_000)
        for _ in range(2):  # nor is the block of before taken for what could not be read
            with pytest.raises(InputUnreadable, match="flaky://bucket/data.bin cannot be read"):
                file.read(1000)


def test_reads_that_go_on_failing_and_files_that_change_are_errors_of_their_own(flaky: Input) -> None:
    with open_input(flaky) as file:
        file.read(1000)
        Flaky.failures = 10**6
        with pytest.raises(InputUnreadable, match=rf"flaky://bucket/data.bin cannot be read: .*\({stores.ATTEMPTS} attempts\)"):
            file.read()
        assert Flaky.failures == 10**6 - stores.ATTEMPTS
    Flaky.failures = 0
    with open_input(flaky) as file:
        file.read(1000)
        Flaky.failures, Flaky.version = 1, 1
        with pytest.raises(InputUnreadable, match="changed while it was read"):
            file.read()


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.parquet", "a.arc", "a.jsonl.gz"])
def test_no_reader_takes_a_broken_connection_for_a_damaged_file(flaky: Input, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a crawl would end at the break, and count as done."""
    path = tmp_path / name
    if ".warc" in name:
        write_warc(path, [Capture(f"https://a.example/{number}", random.Random(number).randbytes(50_000)) for number in range(20)], gzipped=name.endswith("gz"))
    elif name.endswith("parquet"):
        rows = {"url": [f"https://a.example/{number}" for number in range(2000)], "text": [random.Random(number).randbytes(400).hex() for number in range(2000)]}
        pq.write_table(pa.table(rows), path, row_group_size=100)
    elif name.endswith("arc"):
        path.write_bytes(arc_file([b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000] * 9))
    else:
        path.write_bytes(gzip.compress(b"".join(b'{"text": "%s", "url": "https://a.example/i.jpg"}\n' % random.Random(n).randbytes(5000).hex().encode() for n in range(80))))
    whole = len(list(read_crawl(path) if "arc" in name else read_source(Input(str(path)), SourceOptions())))
    assert whole >= 9
    monkeypatch.setattr("tests.test_storage.DATA", path.read_bytes())
    source = Input(f"flaky://bucket/{name}")
    read = functools.partial(read_crawl, source) if "arc" in name and "parquet" not in name else functools.partial(read_source, source, SourceOptions())
    Flaky.failures = 0
    assert len(list(read())) == whole
    items = read()
    next(items)
    Flaky.failures = 10**6
    with pytest.raises(InputUnreadable, match="cannot be read"):
        list(items)


def test_a_copy_has_the_same_fingerprint_and_a_changed_file_another(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(DATA)
    fsspec.filesystem("memory").pipe("/copy/a.bin", DATA)
    before = fingerprint(path)
    assert before == fingerprint(Input("memory://copy/a.bin")) and before.startswith(f"{len(DATA)}-")
    path.write_bytes(DATA[:-1] + b"?")
    assert fingerprint(path) != before


# --- a real S3 server, a real web server ---


def test_an_object_store_without_credentials_is_one_line_with_the_cure(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    request.addfinalizer(S3FileSystem.clear_instance_cache)  # fsspec keeps one for all that come, and with it what credentials there were
    S3FileSystem.clear_instance_cache()
    with pytest.raises(ValueError, match="^s3://no-bucket/x cannot be read: NoCredentialsError: .*; credentials come from the environment .* --anonymous asks without$"):
        find_inputs(["s3://no-bucket/x"])


CAPTURES = [
    Capture("https://a.example/", html("<p>Some words here.</p><img src='/red.jpg'>")),
    Capture("https://a.example/red.jpg", jpeg((200, 0, 0)), "image/jpeg"),
]


def test_a_crawl_and_a_parquet_from_s3_give_the_same_as_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crawl = write_warc(tmp_path / "crawl.warc.gz", CAPTURES)
    table = tmp_path / "pairs.parquet"
    urls = [f"https://a.example/{number}.jpg" for number in range(3000)]
    pq.write_table(pa.table({"URL": urls, "TEXT": [f"picture {url}" for url in urls]}), table, row_group_size=500)
    with s3_server(monkeypatch, "bucket") as client:
        client.upload_file(str(crawl), "bucket", "crawls/crawl.warc.gz")
        client.upload_file(str(table), "bucket", "tables/pairs.parquet", ExtraArgs={"ACL": "public-read"})
        client.put_object(Bucket="bucket", Key="warc.paths.gz", Body=gzip.compress(b"crawls/crawl.warc.gz\n"))
        expected = [Input("s3://bucket/crawls/crawl.warc.gz")]
        assert find_inputs(["s3://bucket/crawls"]) == find_inputs(["s3://bucket/crawls/*.gz"]) == find_inputs([expected[0].location]) == expected
        assert find_inputs(["s3://bucket/warc.paths.gz"], prefix="s3://bucket/") == expected
        with pytest.raises(ValueError, match="s3://bucket/none.warc: no such file"):
            find_inputs(["s3://bucket/none.warc"])
        for name, source in (("local", str(crawl)), ("remote", expected[0].location)):
            (record,) = build_here([source], tmp_path / name)
            assert record["documents"] == {"in": 1, "out": 1}
        local, remote = ({path: data for path, data in built_bytes(tmp_path / name).items() if "/" not in path} for name in ("local", "remote"))
        assert local == remote and len(local) == 4
        (remote,) = find_inputs(["s3://bucket/tables/"])
        assert detect_source(remote) == "pairs"
        documents = list(read_source(remote, SourceOptions()))
        assert documents == list(read_source(Input(str(table)), SourceOptions())) and len(documents) == 3000
        assert open_input(Input(remote.location, anonymous=True)).read() == table.read_bytes()
        with pytest.raises(InputUnreadable, match="crawl.warc.gz cannot be read: PermissionError"):  # only its owner may read it
            open_input(Input(expected[0].location, anonymous=True))
        missing = Input("s3://bucket/none.parquet")
        with pytest.raises(InputUnreadable, match="s3://bucket/none.parquet cannot be read: FileNotFoundError"):
            open_input(missing)


class Ranges(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def send_head(self):  # Python's server has no ranges
        wanted = self.headers.get("Range")
        if not wanted or self.command == "HEAD":
            return super().send_head()
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        data = Path(self.translate_path(self.path)).read_bytes()
        part = data[int(start) : int(end) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        return BytesIO(part)


class NoRanges(Ranges):
    send_head = http.server.SimpleHTTPRequestHandler.send_head


@pytest.fixture(params=[Ranges, NoRanges])
def web(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(request.param, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_web_server_with_and_without_ranges(web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BLOCK_BYTES", 50_000)
    (tmp_path / "served" / "data.bin").write_bytes(DATA)
    write_warc(tmp_path / "served" / "crawl.warc.gz", CAPTURES)
    source = Input(f"{web}/data.bin")
    with open_input(source) as file:
        assert file.seek(-100, os.SEEK_END) == len(DATA) - 100
        assert file.read() == DATA[-100:]
        file.seek(120_000)
        assert file.read(100_000) == DATA[120_000:220_000]
    assert fingerprint(source) == fingerprint(tmp_path / "served" / "data.bin")
    (crawl,) = find_inputs([f"{web}/crawl.warc.gz"])
    assert [item.body for item in read_crawl(crawl)] == [item.body for item in read_crawl(tmp_path / "served" / "crawl.warc.gz")]
    with pytest.raises(ValueError, match="no such file .a web server has neither folders nor globs"):
        find_inputs([f"{web}/none.warc.gz"])
