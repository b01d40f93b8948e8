"""Two hosts on this machine, and on them what `lcl cluster render` wrote: Slurm, DeepSpeed over pdsh, Ray with its token; kills, a cut cable, a full disk. `make test-cluster` runs it."""

import json
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cluster.rendered import render_files
from cluster.settings import read_profile
from lcl.core.logs import read_metrics
from tests import lab
from tests.builds import built_bytes
from tests.crawls import write_sites
from tests.lab import Host
from tests.processes import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(lab.missing() is not None, reason=str(lab.missing()))]

STEPS = 60
TRAIN_SECONDS = 900  # for a start on a busy machine
SLURM = """ClusterName=lab
SlurmctldHost=node1
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/slurm
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName=node1 NodeAddr=10.77.0.1 CPUs=2 RealMemory=4000
NodeName=node2 NodeAddr=10.77.0.2 CPUs=2 RealMemory=4000
PartitionName=all Nodes=node1,node2 Default=YES State=UP
"""
PROFILE = """places = ["slurm", "hosts"]
[environment]
GLOO_SOCKET_IFNAME = "eth0"
[data]
crawl = ["{folder}/crawl"]
output = "{folder}/ray-shards"
options = ["--shard-documents", "7", "--dedup.near.on", "False"]
nodes = 2
cpus = 1
memory_gib = 2
array_tasks = 2
[train]
preset = "toy"
shards = ["{shards}"]
output = "{output}"
options = ["--steps", "{steps}", "--save-every", "{steps}"]
nodes = 2
gpus = 0
cpus = 1
memory_gib = 2
zero_stage = 2
collective_seconds = 60
[evaluate]
images = "/none"
output = "/none"
[ray]
dashboard_host = "10.77.0.1"
object_store_mib = 100
[hosts]
names = ["10.77.0.1", "10.77.0.2"]
user = "root"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def nodes(folder: Path) -> Iterator[list[Host]]:
    with lab.hosts(folder) as found:
        yield found


@pytest.fixture(scope="module")
def slurm(nodes: list[Host], folder: Path) -> Host:
    """The host on which jobs are submitted."""
    for name in ("slurm", "munge"):
        (folder / name).mkdir(mode=0o700)
    (folder / "slurm.conf").write_text(SLURM.format(folder=folder))
    key = folder / "munge" / "key"
    key.write_bytes(random.Random(0).randbytes(128))
    key.chmod(0o600)
    for host in nodes:
        host.check("mkdir", "-p", "/run/munge", "/run/slurmd")
        files = [f"--{name}-file=/run/munge/{name}" for name in ("log", "pid", "seed")]
        host.check("munged", "--force", f"--key-file={key}", "--socket=/run/munge/munge.socket.2", *files)
    nodes[0].check("slurmctld", "-L", folder / "slurmctld.log", SLURM_CONF=conf(folder))
    for host in nodes:
        host.check("slurmd", "-L", folder / f"slurmd-{host.name}.log", "-N", host.name, SLURM_CONF=conf(folder))
    wait_until(lambda: " 2 " in nodes[0].run("sinfo", "--noheader", "--states=idle", "--format= %D ", SLURM_CONF=conf(folder)).stdout, what="two idle nodes")
    return nodes[0]


def conf(folder: Path) -> str:
    return str(folder / "slurm.conf")


def rendered(folder: Path, name: str, shards: Path) -> Path:
    """The files of the lab's profile, with a training into `folder`/NAME."""
    text = PROFILE.format(folder=folder, shards=shards, output=folder / name, steps=STEPS)
    out = folder / f"rendered-{name}"
    for path, content in render_files(read_profile(text, origin="lab")).items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text(content)
    return out


def steps_of(run: Path) -> int:
    """Steps that a run has reported so far."""
    return len(read_metrics(run / "metrics.jsonl")) if (run / "metrics.jsonl").exists() else 0


def finished(run: Path) -> bool:
    return (run / "status.json").exists() and json.loads((run / "status.json").read_text()) == {"step": STEPS, "finished": True}


@pytest.fixture(scope="module")
def whole(nodes: list[Host], folder: Path, shards: Path) -> Path:
    """A training that nothing interrupted, by `deepspeed --hostfile` over pdsh, ZeRO-2."""
    out = rendered(folder, "whole", shards)
    printed = nodes[0].check("bash", out / "deepspeed" / "launch.sh", timeout=TRAIN_SECONDS)
    assert finished(folder / "whole"), printed
    return folder / "whole"


def assert_equal_weights(run: Path, other: Path) -> None:
    ours, theirs = (load_file(one / f"step-{STEPS:06d}" / "model.safetensors") for one in (run, other))
    assert ours.keys() == theirs.keys() and all(bool((ours[name] == theirs[name]).all()) for name in theirs)


def test_two_hosts(nodes: list[Host]) -> None:
    assert nodes[0].check("pdsh", "-R", "ssh", "-w", "10.77.0.1,10.77.0.2", "hostname").split() in (["10.77.0.1:", "node1", "10.77.0.2:", "node2"], ["10.77.0.2:", "node2", "10.77.0.1:", "node1"])


def test_deepspeed_over_pdsh_trains_with_zero_2_on_both_hosts(whole: Path) -> None:
    written = {path.name for path in (whole / f"step-{STEPS:06d}" / "engine").iterdir()}
    assert sum("optim_states" in name for name in written) == 2 and steps_of(whole) == STEPS
    assert json.loads((whole / "run.json").read_text())["config"]["engine"]["zero_stage"] == 2


def test_slurm_takes_every_script(slurm: Host, folder: Path, shards: Path) -> None:
    scripts = sorted((rendered(folder, "tested", shards) / "slurm").glob("*.sbatch"))
    assert len(scripts) == 4
    for script in scripts:
        result = slurm.run("sbatch", "--test-only", script, SLURM_CONF=conf(folder))
        assert result.returncode == 0 and "to start at" in result.stdout, f"{script.name}: {result.stdout}"
    wrong = folder / "wrong.sbatch"
    wrong.write_text(scripts[-1].read_text().replace("--nodes", "--nodess"))
    assert slurm.run("sbatch", "--test-only", wrong, SLURM_CONF=conf(folder)).returncode != 0


def test_a_signal_saves_and_slurm_goes_on_from_there_bit_for_bit(slurm: Host, folder: Path, shards: Path, whole: Path) -> None:
    run = folder / "requeued"
    out = rendered(folder, "requeued", shards) / "slurm"
    job = re.search(r"\d+", slurm.check("bash", "-c", f"cd {out} && sbatch train.sbatch", SLURM_CONF=conf(folder)))[0]
    wait_until(lambda: steps_of(run) >= 3, seconds=TRAIN_SECONDS, what=f"training under Slurm ({out})")
    slurm.check("scancel", "--signal=USR1", job, SLURM_CONF=conf(folder))
    wait_until(lambda: (run / "status.json").exists(), what="the save")
    status = json.loads((run / "status.json").read_text())
    assert 3 <= status["step"] < STEPS and not status["finished"]
    wait_until(lambda: finished(run), seconds=TRAIN_SECONDS, what="the requeued job")
    shown = slurm.check("scontrol", "show", "job", job, SLURM_CONF=conf(folder))
    assert "Restarts=1" in shown, shown
    assert_equal_weights(run, whole)


@pytest.fixture(scope="module")
def crawl(folder: Path) -> Path:
    (folder / "crawl").mkdir()
    write_sites(folder / "crawl", num_sites=4)
    return folder / "crawl"


@pytest.fixture(scope="module")
def ray_cluster(nodes: list[Host], folder: Path, shards: Path) -> Iterator[tuple[Path, list[subprocess.Popen]]]:
    """Head and worker, by the rendered scripts."""
    out = rendered(folder, "ray", shards) / "ray"
    started = [nodes[0].start("bash", out / "start_head.sh")]
    try:
        wait_until(lambda: asks(nodes[0], "") is not None, what="Ray's head")
        token = folder / "home" / "node1" / ".lcl" / "ray_token"
        nodes[1].check("mkdir", "-p", folder / "home" / "node2" / ".lcl")
        (folder / "home" / "node2" / ".lcl" / "ray_token").write_text(token.read_text())  # copy_token.sh would write to root's real home
        started.append(nodes[1].start("bash", out / "start_worker.sh"))
        alive = ["ray", "list", "nodes", "--address", "http://10.77.0.1:8265", "--filter", "state=ALIVE", "--format", "json"]
        settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        wait_until(lambda: nodes[0].run(*alive, **settings).stdout.count('"node_ip"') == 2, what="two nodes of Ray")
        yield out, started
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()
            process.stdout.close()


def asks(host: Host, token: str) -> int | None:
    """The status with which the job interface answers; None if nobody does."""
    code = f"""import urllib.error, urllib.request
try:
    print(urllib.request.urlopen(urllib.request.Request("http://10.77.0.1:8265/api/jobs/", headers={{"Authorization": "Bearer {token}"}} if "{token}" else {{}}), timeout=5).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    print(0)"""
    return int(host.check("python", "-S", "-c", code)) or None


def test_the_job_interface_answers_nobody_without_the_token(nodes: list[Host], folder: Path, ray_cluster: tuple[Path, list[subprocess.Popen]]) -> None:
    token = (folder / "home" / "node1" / ".lcl" / "ray_token").read_text().strip()
    assert [asks(nodes[1], given) for given in ("", "0" * 64, token)] == [401, 403, 200]
    listening = nodes[0].check("ss", "-ltnH")
    assert "10.77.0.1:8265" in listening and "0.0.0.0:8265" not in listening


def test_a_build_loses_a_raylet_and_no_byte(nodes: list[Host], folder: Path, crawl: Path, ray_cluster: tuple[Path, list[subprocess.Popen]]) -> None:
    """Submitted from the second host; the first host's tasks go on when the second one's raylet is killed."""
    out, _ = ray_cluster
    command = ["lcl", "build-shards", "--crawl", crawl, "--output", folder / "here", "--executor", "here", "--shard-documents", "7", "--dedup.near.on", "False"]
    nodes[0].check(*command, timeout=TRAIN_SECONDS)
    job = nodes[1].start("bash", out / "submit.sh")
    wait_until(lambda: any((folder / "ray-shards").glob("work/extracted/*.json")), what="the first input of the build")
    pids = [line.split()[0] for line in nodes[1].check("ps", "-eo", "pid,comm").splitlines() if line.split()[1] == "raylet"]
    assert len(pids) == 1
    nodes[1].check("kill", "-9", *pids)
    printed = job.communicate(timeout=TRAIN_SECONDS)[0]
    assert job.returncode == 0, printed
    built = built_bytes(folder / "ray-shards")
    assert built == built_bytes(folder / "here") and any(name.endswith(".tar") for name in built)


COLLECTIVE = """import os, torch
from lcl.distributed import process_group, sum_over_ranks
with process_group(threads=1, timeout_seconds=60):
    while True:
        sum_over_ranks(torch.ones(1))
        open(os.environ["BEGUN"], "w").close()
"""


def test_a_cut_cable_ends_a_collective_with_a_message(nodes: list[Host], folder: Path) -> None:
    begun = folder / "begun"
    shared = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29600", "GLOO_SOCKET_IFNAME": "eth0", "BEGUN": str(begun)}
    ranks = [host.start("python", "-c", COLLECTIVE, RANK=str(rank), **shared) for rank, host in enumerate(nodes)]
    try:
        wait_until(begun.exists, seconds=TRAIN_SECONDS, what="a collective")
        nodes[1].check("ip", "link", "set", "eth0", "down")
        printed = [rank.communicate(timeout=180)[0] for rank in ranks]
    finally:
        nodes[1].check("ip", "link", "set", "eth0", "up")
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert all(rank.returncode not in (0, -signal.SIGKILL) for rank in ranks)
    assert all("imed out" in text or "timeout" in text.lower() or "Connection closed" in text for text in printed), printed


def test_a_full_disk_is_said_in_a_line_and_leaves_a_checkpoint_that_serves(nodes: list[Host], folder: Path, shards: Path) -> None:
    """A disk of one host with room for the first checkpoints only; with more room the same command goes on."""
    disk = folder / "disk"
    disk.mkdir()
    nodes[0].check("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk)
    command = ["lcl", "pretrain", "--preset", "toy", "--data.shards", shards, "--output", disk / "run"]
    result = nodes[0].run(*command, timeout=TRAIN_SECONDS)
    assert result.returncode == 1 and "make room" in result.stdout.lower() and "Traceback" not in result.stdout, result.stdout
    nodes[0].check("mount", "-o", "remount,size=200m", disk)
    nodes[0].check(*command, timeout=TRAIN_SECONDS)
    assert '"finished": true' in nodes[0].check("cat", disk / "run" / "status.json")
