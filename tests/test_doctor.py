"""`lcl doctor`: each thing that can be wrong is made wrong here, and found with its cure; what is right is left alone."""

import http.server
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from lcl.checks import environment
from lcl.checks.environment import check_free_disk, check_open_files, check_packages, check_shared_memory, check_threads
from lcl.checks.finding import Finding, lines_of
from lcl.checks.hosts import ask_hosts, ask_local, findings_of
from lcl.checks.peer import shared_storage
from lcl.checks.ray_access import check_jobs, check_ports, check_token
from tests.conftest import Run, assert_one_line_error


def test_a_cure_goes_with_what_is_wrong_and_with_nothing_else() -> None:
    with pytest.raises(AssertionError, match="a cure goes with what is wrong"):
        Finding("disk", "failed", "full")
    with pytest.raises(AssertionError, match="a cure goes with what is wrong"):
        Finding("disk", "ok", "half full", "make room")
    lines = lines_of([Finding("a", "ok", "well"), Finding("disk", "failed", "full", "make room")])
    assert lines == ["ok      a     well", "FAILED  disk  full", "              -> make room", "2 checks: 1 failed, 0 warnings"]


def test_versions_outside_their_limits_fail_and_others_than_tested_warn() -> None:
    installed = {**environment._installed(), "numpy": "9.0"}
    found = check_packages(installed, {})
    assert found.status == "failed" and "numpy 9.0, which must be" in found.found and "constraints.txt" in found.cure
    good = environment._installed()
    assert check_packages(good, {"numpy": good["numpy"]}).status == "ok"
    found = check_packages(good, environment._pinned("# comment\nnumpy==0.1\n"))
    assert found.status == "warning" and f"numpy {good['numpy']}, tested with 0.1" in found.found
    found = check_packages({name: one for name, one in good.items() if name != "deepspeed"}, {})
    assert found.status == "warning" and "deepspeed is not installed" in found.found


def test_limits_disks_and_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_open_files(1024).status == "warning" and "ulimit -n" in check_open_files(1024).cure
    assert check_open_files(1 << 20).status == "ok" and check_open_files(-1).status == "ok"
    assert check_threads({}, 8).status == "warning" and check_threads({"OMP_NUM_THREADS": "1"}, 8).status == "ok"
    assert check_shared_memory(tmp_path / "none").status == "note"
    monkeypatch.setattr(environment, "SHARED_MEMORY_BYTES", 1e18)
    assert "--shm-size" in check_shared_memory(tmp_path).cure
    monkeypatch.setattr(environment, "FEW_BYTES", 0)
    assert check_free_disk("--output", tmp_path / "not there yet").status == "ok" and "mount it" in check_free_disk("--shared", tmp_path / "not there").cure
    monkeypatch.setattr(environment, "FEW_BYTES", 1e18)
    assert check_free_disk("--shared", tmp_path).status == "warning" and "make room" in check_free_disk("--shared", tmp_path).cure
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert check_free_disk("--shared", tmp_path).status == "failed"


class JobInterface(http.server.BaseHTTPRequestHandler):
    """Ray's list of jobs, for everyone (status 200) or for nobody without a token."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/api/jobs/" and "Authorization" not in self.headers else 500)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def interface() -> Iterator[tuple[type[JobInterface], str]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), JobInterface)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield JobInterface, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_job_interface_without_a_token_fails(interface: tuple[type[JobInterface], str], monkeypatch: pytest.MonkeyPatch) -> None:
    kind, address = interface
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy must not answer in the place of the cluster
    found = check_jobs(address)
    assert found.status == "failed" and "anyone" in found.found and "RAY_AUTH_MODE=token" in found.cure
    for status, verdict in ((401, "ok"), (403, "ok"), (404, "warning")):
        monkeypatch.setattr(kind, "status", status)
        assert check_jobs(address).status == verdict
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert check_jobs(f"http://127.0.0.1:{probe.getsockname()[1]}").status == "note", "nothing answers: there is no Ray"


def test_a_token_that_others_can_read_fails(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert check_token({"RAY_AUTH_TOKEN_PATH": str(path)}).status == "note"
    path.write_text("canary-4711")
    path.chmod(0o644)
    found = check_token({"RAY_AUTH_TOKEN_PATH": str(path)})
    assert found.status == "failed" and f"chmod 600 {path}" in found.cure and "canary" not in str(found)
    path.chmod(0o600)
    assert check_token({"RAY_AUTH_TOKEN_PATH": str(path)}).status == "ok"
    (tmp_path / ".ray").mkdir()
    path.rename(tmp_path / ".ray" / "auth_token").chmod(0o640)
    assert check_token({"HOME": str(tmp_path)}).status == "failed", "where Ray itself puts it"
    assert check_token({"RAY_AUTH_MODE": "disabled"}).status == "warning"
    found = check_token({"RAY_AUTH_TOKEN": "canary-4711"})
    assert found.status == "note" and "canary" not in str(found)


def made_proc(folder: Path, *, host: str, command: str) -> Path:
    """A /proc with one process that has one listening socket."""
    (folder / "net").mkdir(parents=True)
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    row = f"   0: {host}:1A2B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0\n"
    (folder / "net" / "tcp").write_text(head + row)
    (folder / "77" / "fd").mkdir(parents=True)
    (folder / "77" / "cmdline").write_bytes(command.encode().replace(b" ", b"\0"))
    (folder / "77" / "fd" / "3").symlink_to("socket:[4242]")
    return folder


def test_ports_of_ray_on_every_interface_are_said(tmp_path: Path) -> None:
    found = check_ports(made_proc(tmp_path / "a", host="00000000", command="/site/ray/core/gcs_server --port=1"))
    assert found.status == "warning" and "gcs_server 6699" in found.found and "firewall" in found.cure  # 0x1A2B
    assert check_ports(made_proc(tmp_path / "b", host="0100007F", command="/site/ray/core/gcs_server --port=1")).status == "ok"
    assert check_ports(made_proc(tmp_path / "c", host="00000000", command="nginx")).status == "note"
    assert check_ports(tmp_path / "no proc").status == "note"


def answer(rank: int, **changes: object) -> Mapping[str, object]:
    storage = {"folder": "/data", "write_seconds": 0.002, "problem": None, "unseen": []}
    return {
        "rank": rank, "ranks": 2, "host": f"node{rank}", "backend": "gloo", "versions": {"torch": "2.15", "lcl": "0.1"}, "sum_is_right": True, "bytes_per_second": 1e9,
        "clock_seconds": 0.001, "clock_within_seconds": 0.0005, "storage": storage,
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "check", "said"),
    [
        ({"sum_is_right": False}, "collective", "the sum is wrong on node1"),
        ({"bytes_per_second": 1e6}, "collective", "1 MB/s"),
        ({"clock_seconds": -3.2}, "clocks", "node1 is 3.2 s behind of node0"),
        ({"versions": {"torch": "2.14", "lcl": "0.1"}}, "same versions", "node1 has torch 2.14, node0 2.15"),
        ({"storage": {"folder": "/data", "write_seconds": 0, "problem": "No space left on device", "unseen": []}}, "shared storage", "node1: No space left"),
        ({"storage": {"folder": "/data", "write_seconds": 0, "problem": None, "unseen": [0]}}, "shared storage", "node1 does not see what node0 wrote"),
        ({"problem": "gave no answer"}, "collective", "node1: gave no answer"),
    ],
)
def test_what_two_hosts_find_is_said_with_its_cure(changes: Mapping[str, object], check: str, said: str) -> None:
    names = ["node0", "node1"]
    assert {one.status for one in findings_of([answer(0), answer(1)], names)} == {"ok"}
    wrong = [one for one in findings_of([answer(0), answer(1, **changes)], names) if one.status != "ok"]
    assert [one.check for one in wrong] == [check] and said in wrong[0].found and wrong[0].cure


def test_storage_that_is_not_shared_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    seen = shared_storage(tmp_path / "a", 0, 2, "t", wait=lambda: None)
    assert seen["unseen"] == [1] and seen["problem"] is None and not list((tmp_path / "a").iterdir())
    assert shared_storage(tmp_path / "missing", 0, 1, "t", wait=lambda: None)["problem"]


@pytest.mark.slow
def test_processes_meet_here_and_by_ssh(tmp_path: Path) -> None:
    """Real collectives. In the place of ssh stands a program that runs the command here, and for one host fails as ssh does."""
    here = ask_local(shared=str(tmp_path), seconds=120)
    assert [one.status for one in findings_of(here, ["a", "b"])] == ["ok"] * 4, here
    assert not list(tmp_path.iterdir()), "its files go again"
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\n[ "$1" = gone ] && { echo "ssh: connect to host gone port 22: No route to host" >&2; exit 255; }\necho "a greeting"; exec sh -c "$2"\n')
    ssh.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    there = ask_hosts(["127.0.0.1", "localhost"], ssh=str(ssh), python=sys.executable, port=port, shared="", seconds=120)
    assert [one.status for one in findings_of(there, ["127.0.0.1", "localhost"])] == ["ok"] * 3, there
    lost = ask_hosts(["localhost", "gone"], ssh=str(ssh), python=sys.executable, port=port, shared="", seconds=5)
    (found,) = findings_of(lost, ["localhost", "gone"])
    assert found.status == "failed" and "gone: status 255, said: ssh: connect to host gone port 22: No route to host" in found.found


def test_the_command_says_json_and_fails_where_a_check_does(run: Run, tmp_path: Path, interface: tuple[type[JobInterface], str]) -> None:
    result = run(sys.executable, "lcl/doctor.py", "--parts", "ray", "--ray", interface[1], "--json")
    told = json.loads(result.stdout)
    assert result.returncode == 1 and not told["ok"] and told["schema"] == "lcl-doctor/1", result.stderr
    assert [one["status"] for one in told["findings"] if one["check"] == "ray jobs"] == ["failed"]
    assert_one_line_error(run(sys.executable, "lcl/doctor.py", "--hosts", "node1"), "--hosts node1", "two hosts or more")
    assert_one_line_error(run(sys.executable, "lcl/doctor.py", "--run", tmp_path), "holds no heartbeats")
