"""From pages without their images to shards: extract, fetch from a real server on loopback, assemble. What refuses training stays out."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lcl.core.rejected import Reason
from lcl.core.shards import ShardSet
from pipeline.fetch.run_fetch import fetch_images
from pipeline.tools.selecting import SelectConfig, select_documents
from tests.bad_server import Server, Site, gives
from tests.builds import build_captures, build_here
from tests.crawls import Capture, html, jpeg, write_warc
from tests.fetching import settings_for

HERE, THERE = jpeg((1, 100, 200)), jpeg((200, 100, 1))


def test_images_that_the_crawl_lacks_are_listed_fetched_and_put_in_their_places(tmp_path: Path) -> None:
    site = Site({"/there.jpg": gives(THERE), "/noai.jpg": gives(jpeg((9, 9, 9)), headers={"X-Robots-Tag": "noai"})})
    with Server(site) as server:
        body = f"<img src='/here.jpg'><p>between</p><img src='{server.url('/there.jpg')}'><img src='{server.url('/noai.jpg')}'><img src='{server.url('/gone.jpg')}'>"
        crawl = write_warc(tmp_path / "a.warc.gz", [Capture("https://a.example/p", html(body)), Capture("https://a.example/here.jpg", HERE, "image/jpeg")])
        output = tmp_path / "out"
        wanted = list_wanted(crawl, output)
        assert sorted(wanted) == sorted(server.url(path) for path in ("/there.jpg", "/noai.jpg", "/gone.jpg"))
        fetch_images(replace(settings_for(tmp_path, server, []), urls=(str(output / "work" / "wanted"),)))
    (record,) = build_here([crawl], output, image_store=str(tmp_path / "store"))
    (document,) = ShardSet([output])
    assert [image.metadata.url for image in document.images] == ["https://a.example/here.jpg", server.url("/there.jpg")]
    assert record["images"] == {"in": 4, "out": 2, Reason.IMAGE_NOT_IN_CRAWL: 2} and site.asked("/there.jpg") == 1


def list_wanted(crawl: Path, output: Path) -> list[str]:
    from lcl.core.config import from_dict, to_dict
    from pipeline.build_config import BuildConfig
    from pipeline.run_splits import build_shards

    values = to_dict(BuildConfig(crawl=(str(crawl),), output=str(output), executor="here", until="wanted", max_failed_crawls=0.0))
    values["dedup"]["near"]["on"] = False
    report = build_shards(from_dict(BuildConfig, values, origin="test"))
    urls = [url for table in (output / "work" / "wanted").glob("*.parquet") for url in pq.read_table(table)["url"].to_pylist()]
    assert report["wanted"] == len(urls) and not list(output.glob("*.tar"))
    return urls


def test_captured_headers_that_refuse_training_are_honoured(tmp_path: Path) -> None:
    refused = [("X-Robots-Tag", "googlebot: noindex"), ("X-Robots-Tag", "noimageai")]
    captures = [
        Capture("https://a.example/1", html("<img src='/a.jpg'><img src='/b.jpg'>")),
        Capture("https://a.example/2", html("two <img src='/a.jpg'>"), headers=[("tdm-reservation", "1")]),
        Capture("https://a.example/a.jpg", HERE, "image/jpeg"),
        Capture("https://a.example/b.jpg", THERE, "image/jpeg", headers=refused),
    ]
    record = build_captures(tmp_path, captures)
    assert record["documents"] == {"in": 2, "out": 1, Reason.OPT_OUT_TDMREP: 1}
    assert record["images"] == {"in": 2, "out": 1, Reason.OPT_OUT_ROBOTS_TAG: 1}
    (tmp_path / "all").mkdir()
    assert build_captures(tmp_path / "all", captures, honour_opt_outs=False)["images"]["out"] == 3


def test_licences_and_lists_of_images_that_must_not_be_kept(tmp_path: Path) -> None:
    by = '<a rel="license" href="https://creativecommons.org/licenses/by/4.0/">CC BY</a>'
    captures = [
        Capture("https://a.example/1", html(f"<img src='/a.jpg'><img src='/b.jpg'><p>{by}</p>")),
        Capture("https://a.example/2", html("two <img src='/a.jpg'>")),
        Capture("https://a.example/a.jpg", HERE, "image/jpeg"),
        Capture("https://a.example/b.jpg", THERE, "image/jpeg"),
    ]
    listed = tmp_path / "forbidden.txt"
    listed.write_text(hashlib.md5(THERE).hexdigest() + " known\n")
    record = build_captures(tmp_path, captures, require_license=["cc-by"], image_lists={"forbidden_md5": [str(listed)]})
    assert record["documents"] == {"in": 2, "out": 1, Reason.NO_LICENSE: 1}
    assert record["images"] == {"in": 2, "out": 1, Reason.IMAGE_FORBIDDEN: 1}
    (document,) = ShardSet([tmp_path / "shards"])
    assert document.license == "https://creativecommons.org/licenses/by/4.0/" and "CC BY" in (tmp_path / "shards" / "README.md").read_text().upper().replace("-", " ")


def test_published_similarities_reach_the_shards_and_can_be_selected_by(tmp_path: Path) -> None:
    matches = (("a", 1, 0.31), ("b", 0, 0.17))
    rows = [{"raw_url": f"https://a.example/{name}.jpg", "matched_text_index": place, "matched_sim": similarity} for name, place, similarity in matches]
    sentences = ["The first sentence is about a picture of blue.", "The second one is about red, and no other."]
    source = tmp_path / "docs_no_face_shard_7_v3.jsonl"
    source.write_text(json.dumps({"url": "https://a.example/page", "text_list": sentences, "image_info": rows}))
    crawl = write_warc(tmp_path / "a.warc.gz", [Capture(f"https://a.example/{name}.jpg", data, "image/jpeg") for name, data in (("a", HERE), ("b", THERE))])
    build_here([source, crawl], tmp_path / "out")
    (document,) = ShardSet([tmp_path / "out"])
    assert [(image.metadata.similarity, image.metadata.sentence) for image in document.images] == [(0.17, 0), (0.31, 1)]
    assert document.scores["similarity_min"] == 0.17 and document.scores["similarity_mean"] == pytest.approx(0.24)
    chosen = SelectConfig(shards=(str(tmp_path / "out"),), where="score.similarity_min > 0.15 and score.similarity_max < 0.32", output=str(tmp_path / "picked"))
    assert select_documents(chosen)["documents"] == 1
