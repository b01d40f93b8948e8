"""The store: tables to partitions, a ledger that survives torn files, an index that finds what was put in and nothing else."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from lcl.core.document import sha256_hex
from lcl.core.files import write_json
from lcl.core.rejected import Reason
from pipeline.addresses import normal_url
from pipeline.crawl import read_crawl
from pipeline.fetch.download import Image, Redirect, Refusal
from pipeline.fetch.image_store import SCHEMA, ImageStore, hash_key, partition_folder, write_index
from pipeline.fetch.ledger import Ledger, PartitionLocked, read_ledger
from pipeline.fetch.run_fetch import fetch_images
from pipeline.fetch.url_tables import Wanted, list_tables, partition_of, read_wanted, shuffle_tables, site_of
from tests.bad_server import Server, Site, picture
from tests.fetching import settings_for, write_urls


def image(number: int) -> Image:
    body = picture(number)
    headers = (("Content-Type", "image/jpeg"), ("Content-Encoding", "gzip"), ("X-Odd", "a\tb\u00ff"), ("Content-Length", "7"))
    return Image(url=f"http://example.org/{number}.jpg", status=200, headers=headers, body=body, sha256=sha256_hex(body))


def wanted(number: int) -> Wanted:
    return Wanted(f"example.org/{number}.jpg", f"http://example.org/{number}.jpg")


def open_ledger(folder: Path, **options: int) -> Ledger:
    return Ledger(folder, software="test", **({"round_number": 1} | options))


def test_each_address_is_in_one_partition_once(tmp_path: Path) -> None:
    urls = [f"http://{host}.example{site}.org/{number}.jpg" for site in range(20) for host in ("www", "img") for number in range(5)]
    write_urls(tmp_path / "in" / "a.parquet", [*urls, "https://www.example3.org/3.jpg", "data:image/png;base64,AAAA", "mailto:a@example.org", "http://[bad"])
    write_urls(tmp_path / "in" / "deep" / "b.parquet", urls[::-1])
    tables = list_tables([str(tmp_path / "in")])
    assert len(shuffle_tables(tables, tmp_path / "urls", num_partitions=7)) == 1
    assert shuffle_tables(tables, tmp_path / "urls", num_partitions=7) == []
    parts = [read_wanted(tmp_path / "urls", number) for number in range(7)]
    found = [item.url for part in parts for item in part.values()]
    assert sorted(found) == sorted({"https://www.example3.org/3.jpg", *urls} - {"http://www.example3.org/3.jpg"}), "https is preferred"
    for number, part in enumerate(parts):
        assert all(partition_of(URL(item.url), 7) == number and item.key == normal_url(item.url) for item in part.values())
    assert len([part for part in parts if part]) > 3


def test_hosts_of_a_site_share_a_partition() -> None:
    assert site_of("www.example.co.uk") == site_of("img.example.co.uk") == "example.co.uk"
    assert site_of("a.blogspot.com") != site_of("b.blogspot.com")
    assert site_of("127.0.0.1") == "127.0.0.1" and site_of("localhost") == "localhost"


def test_tables_that_are_none_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"link": ["http://example.org"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no column `url`; it has link"):
        shuffle_tables([tmp_path / "other.parquet"], tmp_path / "urls", num_partitions=2)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(ValueError, match="broken.parquet is no parquet file"):
        shuffle_tables([tmp_path / "broken.parquet"], tmp_path / "urls", num_partitions=2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no \*.parquet"):
        list_tables([str(tmp_path / "empty")])


def test_a_torn_tail_and_orphans_are_cut_off(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.add(wanted(1), image(1), max_redirects=5)
        ledger.add(wanted(2), Refusal(Reason.FETCH_TIMEOUT), max_redirects=5)
    whole = (tmp_path / "00000.warc").stat().st_size
    with open(tmp_path / "00000.warc", "ab") as file:
        file.write(b"WARC/1.1\r\nWARC-Type: resp")
    (tmp_path / "00001.warc").write_bytes(b"WARC/1.1\r\nnever committed")
    (tmp_path / ".ledger-000001.parquet.abc.tmp").write_bytes(b"PAR1")
    with open_ledger(tmp_path) as ledger:
        assert ledger.is_settled("example.org/1.jpg") and ledger.is_settled("example.org/2.jpg") and not ledger.is_settled("example.org/3.jpg")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.warc", "ledger-000000.parquet", "lock"]
        assert (tmp_path / "00000.warc").stat().st_size == whole
        ledger.add(wanted(3), image(3), max_redirects=5)
    assert [row.warc for row in read_ledger(tmp_path)] == [0, -1, 1]
    with open_ledger(tmp_path, round_number=2) as ledger:
        assert not ledger.is_settled("example.org/2.jpg") and ledger.is_settled("example.org/1.jpg")


def test_bodies_are_stored_once_and_files_end_at_their_size(tmp_path: Path) -> None:
    with open_ledger(tmp_path, warc_bytes=2000) as ledger:
        for number in range(12):
            ledger.add(wanted(number), image(number % 4), max_redirects=5)
    assert len(list(tmp_path.glob("*.warc"))) == 2 and len({(row.warc, row.offset) for row in read_ledger(tmp_path)}) == 4
    found = [answer for path in sorted(tmp_path.glob("*.warc")) for answer in read_crawl(path)]
    assert [answer.body for answer in found] == [picture(number) for number in range(4)], "our own reader of crawls reads them"
    assert found[0].headers["x-crawl-content-encoding"] == "gzip" and found[0].headers["content-length"] == str(len(picture(0)))


def test_a_partition_has_one_worker(tmp_path: Path) -> None:
    code = f"from pathlib import Path\nfrom pipeline.fetch.ledger import Ledger\nwith Ledger(Path({str(tmp_path)!r}), software='', round_number=1): print('held')"
    with open_ledger(tmp_path), pytest.raises(PartitionLocked, match="another process"), open_ledger(tmp_path):
        pass
    with open_ledger(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
        assert "PartitionLocked" in other.stderr
    assert "held" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent).stdout


def make_store(folder: Path, outcomes: dict[str, object], *, num_partitions: int = 3) -> ImageStore:
    write_json(folder / "store.json", {"schema": SCHEMA, "partitions": num_partitions})
    for partition in range(num_partitions):
        part = partition_folder(folder, partition)
        part.parent.mkdir(exist_ok=True)
        with open_ledger(part) as ledger:
            for url, outcome in outcomes.items():
                if partition_of(URL(url), num_partitions) == partition:
                    ledger.add(Wanted(normal_url(url), url), outcome, max_redirects=5)
            ledger.commit()
            write_index(part, list(ledger.rows.values()), num_partitions=num_partitions)
    return ImageStore(folder)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.integers(0, 40), st.one_of(st.integers(0, 5), st.integers(0, 40).map(str), st.sampled_from([Reason.HTTP_STATUS, Reason.SERVER_ERROR])), max_size=25))
def test_the_store_equals_a_dictionary(tmp_path_factory: pytest.TempPathFactory, plan: dict[int, object]) -> None:
    """Numbers are bodies, strings are redirects, over hosts in several partitions."""

    def url(number: int) -> str:
        return f"http://site{number % 7}.org/{number}.jpg"

    def outcome(value: object) -> object:
        return image(value) if type(value) is int else Redirect(302, url(int(value))) if type(value) is str else Refusal(value)

    outcomes = {url(number): outcome(value) for number, value in plan.items()}
    store = make_store(tmp_path_factory.mktemp("store"), outcomes)
    for number in range(41):
        value, seen = plan.get(number, "never_asked"), set()
        target = number
        while type(value) is str and value != "never_asked" and target not in seen and not isinstance(value, Reason):
            seen.add(target)
            target = int(value)
            value = plan.get(target, "never_asked")
        body = picture(value) if type(value) is int else None
        looped = type(value) is str and value != "never_asked"
        assert store.find(url(number)) == body
        assert store.outcome(url(number)) == ("ok" if body else Reason.TOO_MANY_REDIRECTS if looped else value)


def test_a_key_is_found_among_others_of_the_same_first_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("image_store", "url_tables"):
        monkeypatch.setattr(f"pipeline.fetch.{module}.hash_key", lambda key: (hash_key(key)[0] % 2, hash_key(key)[1]))
    store = make_store(tmp_path, {f"http://example.org/{number}.jpg": image(number) for number in range(9)})
    assert [store.find(f"http://example.org/{number}.jpg") for number in range(10)] == [*(picture(number) for number in range(9)), None]


def test_damage_and_unfinished_partitions_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image store"):
        ImageStore(tmp_path)
    make_store(tmp_path, {"http://example.org/1.jpg": image(1)}, num_partitions=1)
    part = partition_folder(tmp_path, 0)
    data = bytearray((part / "00000.warc").read_bytes())
    data[-20] ^= 1
    (part / "00000.warc").write_bytes(data)
    with pytest.raises(ValueError, match="00000.warc is damaged"):
        ImageStore(tmp_path).find("http://example.org/1.jpg")
    with open_ledger(part) as ledger:
        ledger.add(wanted(2), Refusal(Reason.HTTP_STATUS), max_redirects=5)
    with pytest.raises(ValueError, match="was not fetched to its end"):
        ImageStore(tmp_path).find("http://example.org/1.jpg")


def test_a_redirect_whose_target_a_killed_run_did_not_reach_is_followed(tmp_path: Path) -> None:
    with Server(Site()) as server:
        settings = settings_for(tmp_path, server, [server.url("/moved.jpg")], partitions=1)
        moved = server.url("/moved.jpg")
        with open_ledger(partition_folder(Path(settings.output), 0)) as ledger:
            ledger.add(Wanted(normal_url(moved), moved), Redirect(302, server.url("/n/1.jpg")), max_redirects=5)
        write_json(Path(settings.output) / "store.json", {"schema": SCHEMA, "partitions": 1})
        fetch_images(settings)
        assert ImageStore(Path(settings.output)).find(moved) == picture(1) and server.site.asked("/moved.jpg") == 0


def test_another_number_of_partitions_is_refused(tmp_path: Path) -> None:
    with Server(Site()) as server:
        fetch_images(settings_for(tmp_path, server, [server.url("/n/1.jpg")]))
        with pytest.raises(ValueError, match="Give 3"):
            fetch_images(settings_for(tmp_path, server, [server.url("/n/1.jpg")], partitions=4))
