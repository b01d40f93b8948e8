"""Entry point: the whole system on one machine, from a crawl to a report.

    crawl --(ray job submit)--> shards --(deepspeed)--> encoder --(evaluations)--> results --> index.html
"""

import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from pydantic import Field

from lcl.core.config import config, run_command
from lcl.core.files import open_aside
from lcl.core.logs import set_up_logging

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120  # for Ray's head to answer; it took 6 s on an idle pair of cores and 37 s on a busy one


OfEachClass = Annotated[int, Field(ge=10, multiple_of=10)]


@config
class DemoConfig:
    output: str | None = None
    """Folder for everything that the demo makes (demo, or demo-NAME for a crawl of yours); the same command again continues."""
    crawl: tuple[str, ...] = ()
    """Crawl files of your own; without any, the sample crawl is made and used."""
    num_pages: Annotated[int, Field(ge=16)] = 400
    """Pages of the sample crawl."""
    num_labelled: tuple[OfEachClass, OfEachClass] = (1500, 800)
    """Labelled pictures to train probes on, and to test with; of ten digits as many each."""
    train_preset: str = "small"
    """Preset of the pretraining."""
    steps: Annotated[int, Field(ge=0)] = 0
    """Training steps; 0 takes the preset's."""
    num_ranks: Annotated[int, Field(ge=0)] = 0
    """Training processes; 0 takes one per GPU, or two on a CPU."""


def main(settings: DemoConfig) -> None:
    set_up_logging()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that Ray's head is stopped on the way out
    if not (ROOT / "pipeline" / "build_shards.py").exists():
        raise ValueError(f"the demo runs the scripts of a checkout, and {ROOT} is none: clone the repository and install it with pip install -e .")
    started = time.perf_counter()
    crawls = [Path(name).resolve() for name in settings.crawl]
    for path in crawls:
        if not path.is_file():
            raise ValueError(f"{path}: no such crawl file")
    output = Path(settings.output or default_output(crawls)).resolve()
    output.mkdir(parents=True, exist_ok=True)
    sample, shards, run = output / "sample", output / "shards", output / "run"
    labelled, results = sample / "labelled", output / "results"

    _say("1/5 sample crawl and labelled pictures")
    train, test = settings.num_labelled
    counts = ["--num-pages", settings.num_pages, "--num-labelled-train", train, "--num-labelled-test", test]
    _run([sys.executable, "pipeline/samples/sample_crawl.py", "--output", sample, *counts])

    _say("2/5 shards, by a Ray job")
    with ray_head(output) as head:
        build = [sys.executable, "pipeline/build_shards.py", "--crawl", *(crawls or [sample / "sample.warc.gz"]), "--output", shards]
        _run(["ray", "job", "submit", "--address", head.jobs, "--working-dir", ".", "--", *build], head.environment)

    _say("3/5 pretraining, by DeepSpeed")
    ranks = settings.num_ranks or torch.cuda.device_count() or 2
    options = ["--preset", settings.train_preset, "--data.shards", shards, "--output", run] + (["--steps", settings.steps] if settings.steps else [])
    _run(["deepspeed", "--num_gpus", ranks, "--master_port", _free_port(), "lcl/pretrain.py", *options])

    _say("4/5 evaluation on labelled pictures that no page holds")
    for label in ("colour", "digit"):
        for script, task in (("lcl/eval_linear_probe.py", "linear_probe"), ("lcl/eval_zero_shot.py", "zero_shot")):
            _run([sys.executable, script, "--checkpoint", run, "--data", labelled / label, "--output", results / f"{label}_{task}.json"])

    _say("5/5 report")
    minutes = (time.perf_counter() - started) / 60
    source = ", ".join(path.name for path in crawls) or "the sample crawl"
    page = output / "index.html"
    note = f"{source}, {ranks} ranks, {minutes:.1f} minutes in this run."
    results_note = "The labelled pictures are coloured digits of the sample crawl's kind, held out from its pages. " + (
        "This crawl is another: what it teaches need not help with them." if crawls else "Minutes suffice for the colours, not for the digits (docs/demo.md)."
    )
    options = ["--shards", shards, "--run", run, "--results", *sorted(results.glob("*.json")), "--output", page]
    _run([sys.executable, "lcl/report.py", *options, "--note", note, "--results-note", results_note])
    _say(f"done in {minutes:.1f} minutes; open {page}")


def default_output(crawls: Sequence[Path]) -> str:
    """`demo`, or `demo-NAME` with the first crawl file's name, its endings and odd characters left out."""
    return "demo-" + re.sub(r"[^A-Za-z0-9_-]+", "-", crawls[0].name.partition(".")[0]) if crawls else "demo"


def _say(text: str) -> None:
    log.info("=== %s", text)


def _run(command: Sequence[object], environment: dict[str, str] | None = None) -> None:
    words = [str(word) for word in command]
    log.info("$ %s", " ".join(words))
    process = subprocess.Popen(words, cwd=ROOT, env=environment or _environment(), start_new_session=True)
    try:
        status = process.wait()
    except BaseException:  # Ctrl-C or SIGTERM: launchers leave their ranks behind, so the whole group is ended
        _end_group(process)
        raise
    if status:
        raise ValueError(f"that command ended with status {status}; its message is above. The same demo command continues from there.")


def _end_group(process: subprocess.Popen, *, ends_its_own: bool = False) -> None:
    """Ends a process that leads a session, and all in its group: SIGTERM, and SIGKILL for what is left after half a minute.

    One that `ends_its_own` gets the SIGTERM alone.
    """
    try:
        if ends_its_own:
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
    except ProcessLookupError:
        return
    except subprocess.TimeoutExpired:
        log.warning("%s did not end within 30 s and is killed", process.args[0])
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # nobody was left


def _environment() -> dict[str, str]:
    """This environment with our own interpreter first on the path, one thread a process, and no usage reports."""
    bin_folder = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", "")]), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RayHead(NamedTuple):
    jobs: str
    """Address of its job interface."""
    address: str
    """What other nodes join, host:port."""
    environment: dict[str, str]
    """With which its commands reach it."""


@contextmanager
def ray_head(output: Path) -> Iterator[RayHead]:
    """A Ray head of our own on free ports, with a token and a home folder of its own; stopped by its process id at the end.

    Raises ValueError if it does not start.
    """
    home = output / "ray-home"
    home.mkdir(exist_ok=True)
    token = home / "token"
    with open_aside(token) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(secrets.token_hex(32).encode())
    port, dashboard, agent = _free_port(), _free_port(), _free_port()
    address = f"http://127.0.0.1:{dashboard}"
    environment = _environment() | {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment.pop("RAY_ADDRESS", None)
    command = ["ray", "start", "--head", "--block", "--port", port, "--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard]
    command += ["--ray-client-server-port", _free_port(), "--dashboard-agent-listen-port", agent, "--disable-usage-stats", "--object-store-memory", 200_000_000]
    ray = shutil.which("ray", path=environment["PATH"])
    if ray is None:
        raise ValueError("the command `ray` is not installed: pip install -e '.[data]'")
    log_path = output / "ray.log"
    with open(log_path, "ab") as log_file:
        head = subprocess.Popen([str(word) for word in command], env=environment, stdout=log_file, stderr=log_file, start_new_session=True)
    try:
        for answers in (f"{address}/api/jobs/", f"http://127.0.0.1:{agent}/api/local_raylet_healthz"):  # jobs are refused while their agent is not up
            _wait_for(answers, head, token.read_text(), log_path)
        yield RayHead(address, f"127.0.0.1:{port}", environment)
    finally:
        _end_group(head, ends_its_own=True)  # `ray start --block` ends its own processes, and no other Ray's
        token.unlink()


def _wait_for(address: str, head: subprocess.Popen, token: str, log_path: Path) -> None:
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
    for _ in range(START_SECONDS * 2):
        if head.poll() is not None:
            break
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise ValueError(f"Ray did not start within {START_SECONDS} s; {log_path} says why")


if __name__ == "__main__":
    run_command(DemoConfig, main, description=__doc__.splitlines()[0])
