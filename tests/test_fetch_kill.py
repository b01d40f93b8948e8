"""kill -9 of a fetch at any time: the same command goes on, nothing that was committed is asked again, and the outcomes are those of an undisturbed run."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.fetch.fetch_config import FetchConfig
from pipeline.fetch.image_store import ImageStore
from pipeline.fetch.run_fetch import fetch_images
from tests.bad_server import PICTURE, Server, Site, gives, not_found, redirects
from tests.conftest import ROOT
from tests.fetching import CONTACT, rows_of, settings_for

NUM_HOSTS = 4


def make_site(num_urls: int) -> Site:
    """Pictures, some twice, and some paths that fail, each in the same way whenever it is asked."""
    site = Site(seconds=0.01)
    for number in range(0, num_urls, 8):
        site.paths |= {f"/n/{number}.jpg": not_found, f"/n/{number + 1}.jpg": redirects(f"/n/{number + 2}.jpg"), f"/n/{number + 3}.jpg": gives(PICTURE)}
        site.paths |= {f"/n/{number + 4}.jpg": gives(headers={"X-Robots-Tag": "noai"})}
    return site


def addresses(server: Server, num_urls: int) -> list[str]:
    return [server.url(f"/n/{number}.jpg", f"127.0.0.{number % NUM_HOSTS + 1}") for number in range(num_urls)]


def command(settings: FetchConfig) -> list[str]:
    flags = {
        "urls": settings.urls[0], "output": settings.output, "contact": CONTACT, "partitions": settings.partitions, "ports": settings.ports[0], "allow-loopback": True,
        "commit-outcomes": 2, "opt-outs.tdm-file": False, "politeness.delay-seconds": 0, "politeness.backoff-seconds": 0.05, "politeness.retries": 1,
    }  # fmt: skip
    return [sys.executable, "-m", "pipeline.fetch_images", *(str(word) for name, value in flags.items() for word in (f"--{name}", value))]


def check_kills(tmp_path: Path, *, num_trials: int, num_urls: int, seed: int) -> None:
    chance = random.Random(seed)
    with Server(make_site(num_urls), num_hosts=NUM_HOSTS) as server:
        undisturbed = settings_for(tmp_path / "undisturbed", server, addresses(server, num_urls))
        fetch_images(undisturbed)
    site = make_site(num_urls)
    with Server(site, num_hosts=NUM_HOSTS) as server:
        settings = settings_for(tmp_path / "killed", server, addresses(server, num_urls))
        caught = 0
        committed: dict[str, int] = {}
        for trial in range(num_trials):
            process = subprocess.Popen(command(settings), cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ)
            goal = len(site.log) + chance.randint(1, max(2, 3 * num_urls // num_trials))
            deadline = time.monotonic() + (chance.uniform(0.5, 3) if trial % 5 == 4 else 60)  # some while it starts
            while process.poll() is None and len(site.log) < goal and time.monotonic() < deadline:
                time.sleep(0.001)
            process.kill()
            process.communicate()
            caught += process.returncode == -9
            for row in rows_of(settings.output):
                host, _, path = row.url.removeprefix("http://").partition("/")
                asked = site.asked(f"/{path}", host.partition(":")[0])
                assert committed.setdefault(row.url, asked) == asked, f"{row.url} was asked again"
        assert caught >= num_trials * 0.6 and len(committed) > num_urls / 4, "most runs were cut, and what they did was kept"
        last = subprocess.run(command(settings), cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert last.returncode == 0, last.stderr
        for url, asked in committed.items():
            host, _, path = url.removeprefix("http://").partition("/")
            assert site.asked(f"/{path}", host.partition(":")[0]) == asked, f"{url} was asked again"
        images, expected = ImageStore(Path(settings.output)), ImageStore(Path(undisturbed.output))
        for url in addresses(server, num_urls):
            other = url.replace(f":{server.port}/", f":{undisturbed.ports[0]}/")  # the undisturbed run had a server of its own
            assert images.outcome(url) == expected.outcome(other) and images.find(url) == expected.find(other), url
        rows = rows_of(settings.output)
        assert len(rows) == len({row.key for row in rows}) == num_urls + num_urls // 8  # and the targets of redirects
        assert not [path for path in Path(settings.output).rglob("*") if path.name.endswith(".tmp")], "nothing temporary is left"
        assert max(site.most_in_flight.values()) <= settings.politeness.per_host


def test_kill_9_a_few_times(tmp_path: Path) -> None:
    check_kills(tmp_path, num_trials=3, num_urls=160, seed=1)


@pytest.mark.slow
def test_kill_9_at_random_times(tmp_path: Path) -> None:
    check_kills(tmp_path, num_trials=24, num_urls=320, seed=2)
