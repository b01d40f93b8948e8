"""Fetching from a real server that misbehaves: each outcome, what is stored, and what the server saw of our manners."""

import gzip
import json
import random
import re
import shutil
import ssl
import subprocess
import time
from pathlib import Path

import brotli
import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from lcl.core.rejected import Reason
from pipeline.fetch.download import parse_retry_after
from pipeline.fetch.fetch_config import OptOuts
from pipeline.fetch.image_store import ImageStore
from pipeline.fetch.run_fetch import fetch_images
from tests.bad_server import (
    PICTURE,
    Server,
    Site,
    a_date_to_wait_for,
    drips,
    endless,
    endless_head,
    first,
    gives,
    hangs,
    no_http,
    not_found,
    picture,
    redirects,
    resets,
)
from tests.conftest import Run, assert_one_line_error
from tests.fetching import CONTACT, outcomes_of, rows_of, settings_for, write_urls

TEXT = {"Content-Type": "text/plain"}
BOMB = gzip.compress(PICTURE + bytes(50 << 20))


def header(name: str, value: str):  # noqa: ANN201
    return gives(headers={name: value})


# path -> (what the server does, the outcome, how often it is asked with one retry)
CASES = {
    "/fine.jpg": (gives(), "ok", 1),
    "/no-type.jpg": (gives(headers={"Content-Type": "text/html"}), "ok", 1),
    "/gzipped.jpg": (gives(gzip.compress(PICTURE), headers={"Content-Encoding": "gzip"}), "ok", 1),
    "/brotli.jpg": (gives(brotli.compress(PICTURE), headers={"Content-Encoding": "br"}), "ok", 1),
    "/claims-gzip.jpg": (gives(PICTURE, headers={"Content-Encoding": "gzip"}), Reason.ANSWER_UNREADABLE, 1),
    "/bomb.jpg": (gives(BOMB, headers={"Content-Encoding": "gzip"}), Reason.BODY_TOO_LARGE, 1),
    "/not-found.jpg": (not_found, Reason.HTTP_STATUS, 1),
    "/partial.jpg": (gives(status="206 Partial Content"), Reason.HTTP_STATUS, 1),
    "/page.jpg": (gives(b"<html>this is no picture</html>"), Reason.IMAGE_UNKNOWN_FORMAT, 1),
    "/svg.jpg": (gives(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), Reason.IMAGE_UNKNOWN_FORMAT, 1),
    "/empty.jpg": (gives(b""), Reason.IMAGE_UNKNOWN_FORMAT, 1),
    "/riff.jpg": (gives(b"RIFF\x00\x00\x00\x00WAVEfmt "), Reason.IMAGE_UNKNOWN_FORMAT, 1),
    "/cut-header.jpg": (gives(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"), Reason.IMAGE_DAMAGED, 1),
    "/announced.jpg": (gives(PICTURE, length=1 << 40), Reason.BODY_TOO_LARGE, 1),
    "/endless.jpg": (endless, Reason.BODY_TOO_LARGE, 1),
    "/endless-head.jpg": (endless_head, Reason.ANSWER_UNREADABLE, 1),
    "/too-short.jpg": (gives(PICTURE, length=len(PICTURE) + 100), Reason.CONNECTION_BROKEN, 2),
    "/reset.jpg": (resets, Reason.CONNECTION_BROKEN, 2),
    "/drips.jpg": (drips, Reason.FETCH_TIMEOUT, 2),
    "/hangs.jpg": (hangs, Reason.FETCH_TIMEOUT, 2),
    "/no-http.jpg": (no_http, Reason.ANSWER_UNREADABLE, 1),
    "/once-500.jpg": (first(1, gives(status="500 Oops"), gives()), "ok", 2),
    "/always-500.jpg": (gives(status="500 Oops"), Reason.SERVER_ERROR, 2),
    "/always-429.jpg": (gives(status="429 Too Many Requests"), Reason.TOO_MANY_REQUESTS, 2),
    "/noai.jpg": (header("X-Robots-Tag", "noai"), Reason.OPT_OUT_ROBOTS_TAG, 1),
    "/noimageai-for-us.jpg": (header("X-Robots-Tag", "lcl-fetch: noimageai"), Reason.OPT_OUT_ROBOTS_TAG, 1),
    "/noai-for-others.jpg": (header("X-Robots-Tag", "otherbot: noai"), "ok", 1),
    "/tdm.jpg": (header("tdm-reservation", "1"), Reason.OPT_OUT_TDMREP, 1),
    "/no-training.jpg": (header("Content-Usage", "train-ai=n"), Reason.OPT_OUT_AIPREF, 1),
    "/moved.jpg": (redirects("/fine.jpg"), "redirect", 1),
    "/moved-noai.jpg": (gives(b"", status="301 Moved", headers={"Location": "/fine.jpg", "X-Robots-Tag": "noai"}), Reason.OPT_OUT_ROBOTS_TAG, 1),
    "/nowhere.jpg": (gives(b"", status="302 Found"), Reason.HTTP_STATUS, 1),
    "/itself.jpg": (redirects("/itself.jpg"), Reason.TOO_MANY_REDIRECTS, 1),
    "/to-mail.jpg": (redirects("mailto:a@example.org"), "redirect", 1),
    "/to-metadata.jpg": (redirects("http://169.254.169.254/latest/meta-data/"), "redirect", 1),
    "/closed/a.jpg": (gives(), Reason.ROBOTS_DISALLOWED, 0),
    "/untrained/a.jpg": (gives(), Reason.OPT_OUT_AIPREF, 0),
}
ROBOTS = b"User-agent: *\nDisallow: /closed/\nContent-Usage: /untrained/ train-ai=n\n"


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201
    """The store after one run over all cases, and what the server saw."""
    folder = tmp_path_factory.mktemp("cases")
    site = Site({path: handler for path, (handler, _, _) in CASES.items()} | {"/robots.txt": gives(ROBOTS, headers=TEXT)})
    with Server(site) as server:
        settings = settings_for(folder, server, [server.url(path) for path in CASES], politeness={"per_host": 8})
        fetch_images(settings)
        yield site, server, Path(settings.output)


@pytest.mark.parametrize("path", CASES)
def test_each_case_has_its_outcome_and_is_asked_so_often(fetched, path: str) -> None:  # noqa: ANN001
    site, server, store = fetched
    _, outcome, num_asked = CASES[path]
    assert outcomes_of(store)[server.url(path)] == outcome
    assert site.asked(path) == num_asked


def test_a_redirect_to_a_private_address_is_an_outcome_and_is_not_followed(fetched) -> None:  # noqa: ANN001
    _, server, store = fetched
    assert outcomes_of(store)["http://169.254.169.254/latest/meta-data/"] == Reason.ADDRESS_REFUSED
    assert ImageStore(store).outcome(server.url("/to-metadata.jpg")) == Reason.ADDRESS_REFUSED
    assert ImageStore(store).outcome(server.url("/to-mail.jpg")) == "never_asked"


def test_bodies_are_found_and_nothing_is_stored_of_what_was_refused(fetched) -> None:  # noqa: ANN001
    _, server, store = fetched
    images = ImageStore(store)
    for path, (_, outcome, _) in CASES.items():
        found = images.find(server.url(path))
        assert found == (PICTURE if outcome == "ok" or path == "/moved.jpg" else None), path
    assert images.find(server.url("/never-asked.jpg")) is None and images.outcome(server.url("/never-asked.jpg")) == "never_asked"
    answers = 0
    for path in store.rglob("*.warc"):
        with open(path, "rb") as file:
            for record in ArchiveIterator(file, parse_http=False):
                assert record.verify_block_digest()
                answers += (record.record_type == WarcRecordType.response)
    assert answers == 1, "one body, seven addresses: it is stored once"


def test_robots_txt_was_asked_once_and_who_asks_is_said(fetched) -> None:  # noqa: ANN001
    site, _, store = fetched
    assert site.asked("/robots.txt") == 1
    assert len(site.agents) == 1 and re.fullmatch(rf"lcl-fetch/[0-9.]+ \(\+{CONTACT}\)", *site.agents)


def test_the_report_adds_up(fetched) -> None:  # noqa: ANN001
    _, _, store = fetched
    report = json.loads((store / "report.json").read_text())
    assert report["addresses"] == len(CASES) + 1 == report["with_body"] + report["redirected"] + sum(report["left_out"].values())
    assert len(rows_of(store)) == report["addresses"]


def run_site(folder: Path, site: Site, urls: list[tuple[str, str]], **options: object) -> tuple[dict[str, str], Path]:
    """Fetches (host, path) pairs from a site; outcomes by `host/path`."""
    with Server(site) as server:
        settings = settings_for(folder, server, [server.url(path, host) for host, path in urls], **options)
        fetch_images(settings)
        found = outcomes_of(settings.output)
        return {f"{host}{path}": found[server.url(path, host)] for host, path in urls}, Path(settings.output)


def test_delay_and_flights_of_each_host(tmp_path: Path) -> None:
    site = Site(seconds=0.15)
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    start = time.monotonic()
    run_site(tmp_path, site, [(host, f"/n/{number}.jpg") for host in hosts for number in range(12)], politeness={"per_host": 2, "delay_seconds": 0.1})
    for host in hosts:
        starts = sorted(site.starts(host))
        assert len(starts) == 13  # and robots.txt
        assert min(later - earlier for earlier, later in zip(starts, starts[1:], strict=False)) > 0.1 - 0.03
        assert 1 <= site.most_in_flight[host] <= 2
    assert time.monotonic() - start < 3 * 1.2 + 5, "hosts do not wait for each other"


def test_crawl_delay_takes_the_place_of_a_shorter_delay(tmp_path: Path) -> None:
    site = Site({"/robots.txt": gives(b"User-agent: *\nCrawl-delay: 0.4\n", headers=TEXT)})
    run_site(tmp_path, site, [("127.0.0.1", f"/n/{number}.jpg") for number in range(4)])
    starts = sorted(site.starts())
    assert min(later - earlier for earlier, later in zip(starts, starts[1:], strict=False)) > 0.4 - 0.03


@pytest.mark.parametrize("asks", ["seconds", "date"])
def test_retry_after_holds_the_whole_host(tmp_path: Path, asks: str) -> None:
    busy = gives(status="429 Too Many Requests", headers={"Retry-After": "1"}) if asks == "seconds" else a_date_to_wait_for
    site = Site({"/busy.jpg": first(1, busy, gives())})
    found, _ = run_site(tmp_path, site, [("127.0.0.1", "/busy.jpg"), *(("127.0.0.1", f"/n/{number}.jpg") for number in range(5))], politeness={"per_host": 1})
    assert set(found.values()) == {"ok"}
    first_end = next(end for _, path, _, end in site.log if path == "/busy.jpg")
    later = [start for start in site.starts() if start > first_end]
    assert len(later) >= 1 and min(later) - first_end > 0.9


@pytest.mark.parametrize("asks", ["429", "robots"])
def test_who_asks_for_too_long_a_wait_is_left_alone(tmp_path: Path, asks: str) -> None:
    busy = gives(status="503 Busy", headers={"Retry-After": "86400"})
    site = Site({"/robots.txt": gives(b"User-agent: *\nCrawl-delay: 86400\n", headers=TEXT)} if asks == "robots" else {"/a.jpg": busy, "/b.jpg": busy})
    found, _ = run_site(tmp_path, site, [("127.0.0.1", "/a.jpg"), ("127.0.0.1", "/b.jpg")], politeness={"per_host": 1})
    assert set(found.values()) == {Reason.WAIT_TOO_LONG}
    assert site.asked("/a.jpg") + site.asked("/b.jpg") == (0 if asks == "robots" else 1)


DATES = [("Thu, 01 Jan 1970 00:01:40 GMT", 100), ("Thu, 01 Jan 1970 00:00:00 -0000", 0), ("Fri, 99 Foo 9999", 0)]


@pytest.mark.parametrize(("value", "seconds"), [("120", 120), ("0", 0), ("", 0), ("soon", 0), ("-5", 0), ("9" * 50, float("inf")), *DATES])
def test_retry_after_values(value: str, seconds: float) -> None:
    assert parse_retry_after(value, now=0.0) == seconds


def test_a_dead_host_is_given_up(tmp_path: Path) -> None:
    site = Site({"/robots.txt": gives(b"", headers=TEXT)} | {f"/{number}.jpg": gives(status="502 Bad Gateway") for number in range(20)})
    found, _ = run_site(tmp_path, site, [("127.0.0.1", f"/{number}.jpg") for number in range(20)], politeness={"give_up_after": 3, "retries": 0, "per_host": 1})
    assert set(found.values()) == {Reason.SERVER_ERROR} and len(site.log) == 1 + 3


ROBOTS_CASES = {
    "127.0.0.1": (gives(b"User-agent: *\nDisallow: /\n", headers=TEXT), Reason.ROBOTS_DISALLOWED),
    "127.0.0.2": (gives(status="500 Oops"), Reason.ROBOTS_UNREACHABLE),
    "127.0.0.3": (hangs, Reason.ROBOTS_UNREACHABLE),
    "127.0.0.4": (gives(status="403 Forbidden"), "ok"),
    "127.0.0.5": (gives(b"User-agent: *\nDisallow: /a\n" + b"# filler\n" * 200_000, headers=TEXT), Reason.ROBOTS_DISALLOWED),
    "127.0.0.6": (gives(b"# filler\n" * 60_000 + b"User-agent: *\nDisallow: /\n", headers=TEXT), "ok"),
    "127.0.0.7": (redirects("/other/robots.txt"), Reason.ROBOTS_DISALLOWED),
    "127.0.0.8": (redirects("/robots.txt"), Reason.ROBOTS_UNREACHABLE),
}


def test_robots_txt_of_each_kind(tmp_path: Path) -> None:
    paths = {f"{host}/robots.txt": handler for host, (handler, _) in ROBOTS_CASES.items()} | {"/a.jpg": gives(), "/b.jpg": gives()}
    site = Site(paths | {"/other/robots.txt": gives(b"User-agent: *\nDisallow: /a", headers=TEXT)})
    found, _ = run_site(tmp_path, site, [(host, "/a.jpg") for host in ROBOTS_CASES])
    assert found == {f"{host}/a.jpg": outcome for host, (_, outcome) in ROBOTS_CASES.items()}
    for host, (_, outcome) in ROBOTS_CASES.items():
        assert site.asked("/a.jpg", host) == (outcome == "ok")


def test_rules_of_an_origin_are_asked_once_by_many_workers(tmp_path: Path) -> None:
    site = Site({"/.well-known/tdmrep.json": gives(json.dumps([{"location": "/n/1*", "tdm-reservation": 1}]).encode(), headers=TEXT)}, seconds=0.05)
    found, _ = run_site(tmp_path, site, [("127.0.0.1", f"/n/{number}.jpg") for number in range(20)], politeness={"per_host": 6}, opt_outs=OptOuts())
    reserved = {f"127.0.0.1/n/{number}.jpg" for number in (1, *range(10, 20))}
    assert {path for path, outcome in found.items() if outcome == Reason.OPT_OUT_TDMREP} == reserved and set(found.values()) == {"ok", Reason.OPT_OUT_TDMREP}
    assert site.asked("/robots.txt") == site.asked("/.well-known/tdmrep.json") == 1


def test_redirects_across_sites_loops_and_chains(tmp_path: Path) -> None:
    """Each 127.0.0.N is a site; with several partitions a redirect crosses them, and the target's own robots.txt counts."""
    with Server(Site()) as server:
        site = server.site
        hosts = [f"127.0.0.{number}" for number in range(1, 9)]
        site.paths |= {f"{here}/chain.jpg": redirects(server.url("/chain.jpg", there)) for here, there in zip(hosts, hosts[1:], strict=False)}
        site.paths |= {"127.0.0.8/chain.jpg": gives()}
        site.paths |= {f"{here}/loop.jpg": redirects(server.url("/loop.jpg", there)) for here, there in zip(hosts, hosts[1:] + hosts[:1], strict=True)}
        site.paths |= {"127.0.0.1/closed.jpg": redirects(server.url("/a.jpg", "127.0.0.2")), "127.0.0.2/robots.txt": gives(b"User-agent: *\nDisallow: /a.jpg")}
        urls = [server.url(path) for path in ("/chain.jpg", "/loop.jpg", "/closed.jpg")] + [server.url("/chain.jpg", hosts[3])]
        settings = settings_for(tmp_path, server, urls, limits={"max_redirects": 5})
        fetch_images(settings)
        images = ImageStore(Path(settings.output))
        assert images.find(server.url("/chain.jpg", hosts[3])) == PICTURE == images.find(server.url("/chain.jpg", hosts[0]))
        assert images.outcome(server.url("/loop.jpg")) == Reason.TOO_MANY_REDIRECTS and images.find(server.url("/loop.jpg")) is None
        assert images.outcome(server.url("/closed.jpg")) == Reason.ROBOTS_DISALLOWED
        assert max(entry for entry in site.most_in_flight.values()) <= 2
        asked = [(host, path) for host, path, _, _ in site.log if path != "/robots.txt"]
        assert len(asked) == len(set(asked)), "nothing was asked twice"


def test_the_same_command_again_asks_nothing_and_a_second_round_what_failed_in_passing(tmp_path: Path) -> None:
    site = Site({"/a.jpg": first(2, gives(status="500 Oops"), gives()), "/gone.jpg": gives(status="410 Gone"), "/robots.txt": gives(b"", headers=TEXT)})
    with Server(site) as server:
        settings = settings_for(tmp_path, server, [server.url(path) for path in ("/a.jpg", "/gone.jpg", "/n/1.jpg")])
        report = fetch_images(settings)
        num_asked = len(site.log)
        assert fetch_images(settings) == report and len(site.log) == num_asked
        again = settings_for(tmp_path, server, [server.url(path) for path in ("/a.jpg", "/gone.jpg", "/n/1.jpg")], round=2)
        assert fetch_images(again)["with_body"] == 2
        assert (site.asked("/a.jpg"), site.asked("/gone.jpg"), site.asked("/n/1.jpg")) == (3, 1, 1)
        assert ImageStore(Path(settings.output)).find(server.url("/a.jpg")) == PICTURE
        fetch_images(again)
        assert site.asked("/a.jpg") == 3


def garbled(seed: int):  # noqa: ANN201
    """An answer with a few bytes of its head or body changed, doubled or left out."""
    chance = random.Random(seed)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(PICTURE)}\r\nX-Robots-Tag: all\r\nTransfer-Encoding: identity\r\n\r\n".encode()
    if seed % 3 == 0:
        head = b"HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\nContent-Length: 0\r\n\r\n"
    if seed % 3 == 1:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n" + f"{len(PICTURE):x}\r\n".encode()
    data = bytearray(head + PICTURE)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(head))
        data[place : place + chance.randint(0, 4)] = chance.randbytes(chance.randint(0, 5))

    async def handler(exchange) -> None:  # noqa: ANN001
        exchange.writer.write(bytes(data))
        await exchange.writer.drain()

    return handler


def test_garbled_answers_have_an_outcome_each(tmp_path: Path) -> None:
    paths = {f"/{seed}.jpg": garbled(seed) for seed in range(300)}
    asked = [("127.0.0.1", path) for path in paths]
    found, store = run_site(tmp_path, Site(dict(paths)), asked, politeness={"per_host": 20, "retries": 0}, limits={"read_seconds": 0.3})
    assert len(found) == 300 and set(found.values()) <= {"ok", "redirect", *Reason} and len(set(found.values())) > 3
    assert json.loads((store / "report.json").read_text())["addresses"] >= 300


def test_names_that_cannot_be(tmp_path: Path) -> None:
    urls = [f"http://{'a.' * 200}example/1.jpg", "http://does-not-exist.invalid/2.jpg", "http://a.example:81/3.jpg"]
    settings = settings_for(tmp_path, None, urls, politeness={"retries": 0})
    fetch_images(settings)
    expected = [Reason.HOST_UNREACHABLE, Reason.HOST_UNREACHABLE, Reason.ADDRESS_REFUSED]
    assert outcomes_of(settings.output) == dict(zip(urls, expected, strict=True))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    path = tmp_path / "own.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", path, "-out", tmp_path / "own.crt", "-subj", "/CN=127.0.0.1", "-days", "1"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + (tmp_path / "own.crt").read_bytes())
    return path


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(tmp_path: Path, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    site = Site({"/a.jpg": gives()})
    with Server(site, tls=context) as server:
        settings = settings_for(tmp_path, server, [server.url("/a.jpg").replace("http:", "https:")])
        fetch_images(settings)
        assert set(outcomes_of(settings.output).values()) == {Reason.HOST_UNREACHABLE} and not site.log


def test_a_table_that_is_added_later_is_asked_alone(tmp_path: Path) -> None:
    with Server(Site()) as server:
        settings = settings_for(tmp_path, server, [server.url("/n/1.jpg")])
        fetch_images(settings)
        write_urls(tmp_path / "urls" / "more.parquet", [server.url("/n/1.jpg"), server.url("/n/2.jpg")])
        fetch_images(settings.__class__(**(settings.__dict__ | {"urls": (str(tmp_path / "urls"),)})))
        assert server.site.asked("/n/1.jpg") == server.site.asked("/n/2.jpg") == 1
        images = ImageStore(Path(settings.output))
        assert images.find(server.url("/n/1.jpg")) == picture(1) and images.find(server.url("/n/2.jpg")) == picture(2)


def test_mistakes_are_one_line(run: Run, tmp_path: Path) -> None:
    table = write_urls(tmp_path / "table.parquet", ["http://example.org/a.jpg", "https://example.org/a.jpg", "http://www.example.net/b.jpg", "data:,x"])
    command = ["python", "-m", "pipeline.fetch_images", "--output", tmp_path / "store"]
    assert_one_line_error(run(*command, "--urls", table, "--contact", "me"), "contact")
    assert_one_line_error(run(*command, "--urls", tmp_path / "none", "--contact", CONTACT), "--urls", "none")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "file").touch()
    assert_one_line_error(run(*command, "--urls", table, "--contact", CONTACT), "--output")
    planned = run(*command, "--urls", table, "--contact", CONTACT, "--dry-run")
    assert planned.returncode == 0 and "4 rows, 2 different addresses on 2 hosts" in planned.stderr, planned.stderr
