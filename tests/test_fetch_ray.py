"""Fetching on a real Ray: a downloader actor for each node, the same store as in one process; an actor that dies is no loss."""

import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import ray

from pipeline.fetch.image_store import ImageStore
from pipeline.fetch.run_fetch import fetch_images
from tests.bad_server import Server, Site
from tests.fetching import outcomes_of, settings_for


def test_on_ray_with_an_actor_that_dies(tmp_path: Path) -> None:
    with Server(Site(seconds=0.05)) as server:
        urls = [server.url(f"/n/{number}.jpg", f"127.0.0.{number % 8 + 1}") for number in range(120)]
        settings = settings_for(tmp_path, server, urls, executor="ray", commit_outcomes=5)

        def kill_when_busy() -> None:
            while len(server.site.log) < 40:
                time.sleep(0.01)
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # some end while they are looked at
                    if "DownloaderActor" in " ".join(process.cmdline()[:1]):
                        process.kill()

        killer = threading.Thread(target=kill_when_busy)
        killer.start()
        try:
            report = fetch_images(settings)
        finally:
            ray.shutdown()
            killer.join(30)
        assert len(server.site.log) > 120 + 8, "what the actor had not committed was asked again"
        assert report["with_body"] == 120 and set(outcomes_of(settings.output).values()) == {"ok"}
        assert all(ImageStore(Path(settings.output)).find(url) for url in urls)
        assert max(server.site.most_in_flight.values()) <= settings.politeness.per_host
