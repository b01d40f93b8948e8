"""The shard build as users run it: an embedded Ray, a Ray job, interruptions, and mistakes."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcl.core.shards import ShardSet, verify_shard
from lcl.ray_head import RayHead, ray_head
from tests.builds import build_here, built_bytes
from tests.conftest import ROOT, Run, assert_one_line_error
from tests.crawls import Capture, html, jpeg, write_sites, write_warc
from tests.processes import wait_until
from tests.s3_server import s3_server

SCRIPT = "pipeline/build_shards.py"


def write_site(path: Path, number: int, num_pages: int = 4) -> Path:
    colour = (40 * number, 90, 200)
    pages = [Capture(f"https://s{number}.example/{page}", html(f"<p>Site {number}, page {page}.</p><img src='/i.jpg'>")) for page in range(num_pages)]
    return write_warc(path, [*pages, Capture(f"https://s{number}.example/i.jpg", jpeg(colour), "image/jpeg"), Capture(f"https://s{number}.example/none", html(""))])


@pytest.fixture
def crawls(tmp_path: Path) -> list[Path]:
    return [write_site(tmp_path / f"site-{number}.warc.gz", number) for number in range(3)]


def test_an_embedded_ray_builds_and_continues(run: Run, crawls: list[Path], tmp_path: Path) -> None:
    """One good build; the same again changes nothing; a build that lost a shard is mended; the report adds up."""
    output = tmp_path / "shards"
    result = run(sys.executable, SCRIPT, "--crawl", *crawls, "--output", output)
    assert result.returncode == 0, result.stderr
    report = json.loads((output / "report.json").read_text())
    assert report["crawls"] == {"in": 3, "out": 3, "failed": {}}
    assert report["documents"] == {"in": 15, "out": 12, "dropped": {"no_images": 3}}
    assert report["images"] == {"in": 12, "out": 12, "dropped": {}}
    assert len(ShardSet([output])) == 12
    before = built_bytes(output)
    lost = sorted(output.glob("site-1-*.json"))[0]
    lost.unlink()
    lost.with_suffix(".tar").unlink()
    again = run(sys.executable, SCRIPT, "--crawl", *reversed(crawls), "--output", output)
    assert again.returncode == 0, again.stderr
    assert built_bytes(output) == before
    for sidecar in (path.with_suffix(".json") for path in output.glob("*.tar")):
        verify_shard(sidecar)
    other_rules = run(sys.executable, SCRIPT, "--crawl", *crawls, "--output", output, "--images.min-side-px", 20)
    assert_one_line_error(other_rules, "holds another build", "--output")
    assert built_bytes(output) == before


@pytest.mark.slow
def test_a_list_of_crawls_on_s3_gives_the_bytes_of_local_files(run: Run, crawls: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`warc.paths.gz` with a prefix; one file that it names is missing."""
    local, remote, paths = tmp_path / "local", tmp_path / "remote", tmp_path / "warc.paths.gz"
    build_here(crawls, local, dedup__near={"on": True})
    names = [crawl.name for crawl in crawls] + ["none.warc.gz"]
    with s3_server(monkeypatch, "bucket") as client:
        for crawl in crawls:
            client.upload_file(str(crawl), "bucket", f"crawl-data/{crawl.name}")
        options = ["--crawl", paths, "--prefix", "s3://bucket/", "--output", remote, "--max-failed-crawls"]
        paths.write_bytes(gzip.compress("".join(f"crawl-data/{name}\n" for name in names).encode()))
        result = run(sys.executable, SCRIPT, *options, 0.3)
        assert result.returncode == 0, result.stderr
        paths.write_bytes(gzip.compress(b"crawl-data/site-0.warc.gz\n"))
        assert_one_line_error(run(sys.executable, SCRIPT, *options, 0.3), "holds another build")
    failed = json.loads((remote / "report.json").read_text())["crawls"]["failed"]["none.warc.gz"]
    assert failed["reason"] == "crawl_unreadable" and "s3://bucket/crawl-data/none.warc.gz cannot be read: FileNotFoundError" in failed["message"]
    built, expected = ({name: data for name, data in built_bytes(folder).items() if name != "report.json"} for folder in (remote, local))
    assert built == expected and len(built) == 12


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    with ray_head(tmp_path_factory.mktemp("ray")) as head:
        yield head


def submit(head: RayHead, *options: object) -> subprocess.Popen:
    command = ["ray", "job", "submit", "--address", head.jobs, "--working-dir", ".", "--", "python", SCRIPT, *options]
    return subprocess.Popen([str(word) for word in command], cwd=ROOT, env=head.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_ray_job_gives_the_bytes_of_a_local_build_also_after_kills(head: RayHead, crawls: list[Path], tmp_path: Path) -> None:
    """The job's driver killed in the middle and submitted again; one bad crawl file among good ones."""
    local, output = tmp_path / "local", tmp_path / "shards"
    build_here(crawls, local, dedup__near={"on": True}, keep_rejects=True)
    bad = tmp_path / "bad.warc.gz"
    bad.write_bytes(b"no crawl at all")
    options = ["--crawl", *crawls, bad, "--output", output, "--max-failed-crawls", "0.3", "--keep-rejects", "True"]
    first = submit(head, *options)
    deadline = time.monotonic() + 120
    while not list(output.glob("*.json")) and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.05)
    for driver in drivers(output):
        os.kill(driver, signal.SIGKILL)
    first.communicate(timeout=120)
    second = submit(head, *options)
    printed = second.communicate(timeout=300)[0]
    assert second.returncode == 0, printed
    report = json.loads((output / "report.json").read_text())
    assert report["crawls"]["in"] == 4 and report["crawls"]["failed"]["bad.warc.gz"]["reason"] == "not_a_crawl"
    built, expected = ({name: data for name, data in built_bytes(folder).items() if name != "report.json"} for folder in (output, local))  # bad is in one alone
    assert built == expected and len(built) == 15


def drivers(output: Path) -> list[int]:
    """Process ids of the build scripts that write into `output`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(output).encode() in words and any(word.endswith(SCRIPT.encode()) for word in words) and b"submit" not in words:
            found.append(int(entry.name))
    return found


def test_a_job_on_two_nodes_loses_one_of_them_and_no_byte(head: RayHead, tmp_path: Path) -> None:
    """The second node, with three of the cluster's CPUs, is killed when the first input is extracted."""
    crawls = write_sites(tmp_path, num_sites=6)
    rules = {"shard_documents": 7, "keep_rejects": True}
    build_here(crawls, tmp_path / "local", **rules)
    command = ["ray", "start", "--address", head.address, "--block", "--num-cpus", "3", "--disable-usage-stats", "--object-store-memory", "100000000"]
    node = subprocess.Popen(command, env=head.environment | {"TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: num_cpus(head) == os.cpu_count() + 3, what="the second node")
        options = [word for name, value in rules.items() for word in (f"--{name.replace('_', '-')}", value)]
        job = submit(head, "--crawl", *crawls, "--output", tmp_path / "shards", "--dedup.near.on", "False", *options)
        wait_until(lambda: any((tmp_path / "shards").glob("work/extracted/*.json")), what="the first input")
        assert job.poll() is None, "the build ended before its node did"
    finally:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()
    printed = job.communicate(timeout=300)[0]
    assert job.returncode == 0, printed
    built = built_bytes(tmp_path / "shards")
    assert built == built_bytes(tmp_path / "local") and sum(name.endswith(".tar") for name in built) >= 12


def num_cpus(head: RayHead) -> int:
    """CPUs of all nodes that are alive."""
    nodes = json.loads(subprocess.check_output(["ray", "list", "nodes", "--address", head.jobs, "--filter", "state=ALIVE", "--detail", "--format", "json"], env=head.environment))
    return int(sum(node["resources_total"]["CPU"] for node in nodes))


def test_relative_paths_are_refused_inside_a_job(head: RayHead, crawls: list[Path]) -> None:
    job = submit(head, "--crawl", crawls[0], "--output", "outputs/shards")
    text = job.communicate(timeout=300)[0]
    assert job.returncode != 0 and "outputs/shards is a relative path: in a Ray job" in text and "Traceback" not in text


def test_the_job_interface_asks_for_the_token(head: RayHead) -> None:
    import urllib.error
    import urllib.request

    with pytest.raises(urllib.error.HTTPError, match="401") as error:
        urllib.request.urlopen(f"{head.jobs}/api/jobs/", timeout=10)
    error.value.close()
    token = Path(head.environment["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o777 == 0o600


def dry(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_a_single_bad_crawl_file_is_one_line(run: Run, tmp_path: Path) -> None:
    result = run(sys.executable, SCRIPT, "--crawl", dry(tmp_path, "bad.warc.gz", b"no crawl"), "--output", tmp_path / "shards")
    assert_one_line_error(result, "bad.warc.gz is no crawl", "give .warc")
    assert not list((tmp_path / "shards").glob("*.tar"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: ["--crawl", folder / "missing.warc.gz", "--output", folder / "s"], "missing.warc.gz: no such file"),
        (lambda folder: ["--crawl", dry(folder, "a.warc", b"x"), folder / "a.warc", "--output", folder / "s"], "is given twice"),
        (lambda folder: ["--crawl", dry(folder, "a.warc", b"x"), "--output", dry(folder, "file", b"")], "is a file; give a folder"),
        (lambda folder: ["--crawl", dry(folder, "a.warc", b"x"), "--output", folder], "is not empty and holds no shard build"),
        (lambda folder: ["--crawl", dry(folder, "a.warc", b"x"), "--ouput", folder / "s", "--output", folder / "t"], "did you mean --output?"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(run: Run, tmp_path: Path, make, message: str) -> None:
    (tmp_path / "here").mkdir()
    words = make(tmp_path / "here")
    before = sorted((tmp_path / "here").rglob("*"))
    assert_one_line_error(run(sys.executable, SCRIPT, *words), message)
    assert sorted((tmp_path / "here").rglob("*")) == before


def test_two_crawls_of_one_name_are_refused(run: Run, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_site(tmp_path / folder / "x.warc.gz", 1)
    result = run(sys.executable, SCRIPT, "--crawl", tmp_path / "a/x.warc.gz", tmp_path / "b/x.warc.gz", "--output", tmp_path / "s")
    assert_one_line_error(result, "has the same file name as", "rename one")


def test_no_document_at_all_is_an_error_that_points_to_the_report(run: Run, tmp_path: Path) -> None:
    crawl = write_warc(tmp_path / "a.warc.gz", [Capture("https://a.example/", html(""))])
    result = run(sys.executable, SCRIPT, "--crawl", crawl, "--output", tmp_path / "shards")
    assert_one_line_error(result, "no page became a document", "report.json")
