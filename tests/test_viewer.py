"""The viewer: all documents are there, hostile ones stay text, nothing outside is asked for, and the search finds."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcl.core.document import Document, ImageSegment, TextSegment, sha256_hex
from pipeline.rejects import read_rejects, write_rejects
from pipeline.tools.viewer import ViewConfig, view_shards, web_link
from tests.conftest import Run, assert_one_line_error
from tests.made_shards import file_bytes, made_document, made_image, made_set

DOCUMENTS = [made_document(number) for number in range(25)]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028'\"`{{ 7 * 7 }}\u202egpj.exe\x00\x1b"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_set(tmp_path_factory.mktemp("set") / "shards", DOCUMENTS)


def view(folder: Path, output: Path, **options: object) -> dict[str, int]:
    return view_shards(ViewConfig(shards=(str(folder),), output=str(output), **options))


class Tags(HTMLParser):
    """Tags with their attributes, text outside of scripts, and that no tag is left open or closed twice."""

    VOID = ("meta", "img", "br", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def pages(output: Path) -> Iterator[tuple[str, Tags]]:
    found = sorted(output.glob("*.html"))
    assert found
    for path in found:
        tags = Tags(path.read_text("utf-8"))
        assert tags.open == [], path
        yield path.name, tags


@pytest.mark.parametrize("images", ["beside", "inline"])
def test_every_document_is_there_with_its_pictures(folder: Path, tmp_path: Path, images: str) -> None:
    counts = view(folder, tmp_path / "view", per_page=10, images=images)
    assert counts == {"documents": 25, "images": sum(len(item.images) for item in DOCUMENTS), "pages": 3}
    shown = dict(pages(tmp_path / "view"))
    assert set(shown) == {"index.html", "page-0001.html", "page-0002.html", "page-0003.html"}
    sources = []
    for number, document in enumerate(DOCUMENTS):
        page = shown[f"page-000{number // 10 + 1}.html"]
        for text in (*document.texts, document.key, document.page_url, f"@ {document.crawl.offset}", *(image.metadata.alt for image in document.images)):
            assert text in page.text
    for _, page in shown.items():
        sources += [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == counts["images"]
    if images == "beside":
        assert sorted(sources) == sorted(f"images/{path.name}" for path in (tmp_path / "view" / "images").iterdir())
        assert {path.read_bytes() for path in (tmp_path / "view" / "images").iterdir()} == {image.data for item in DOCUMENTS for image in item.images}
    else:
        assert not (tmp_path / "view" / "images").exists() and all(source.startswith("data:image/jpeg;base64,") for source in sources)


def hostile_documents() -> list[Document]:
    good = made_image(1)
    html = b"<html><script>alert(1)</script></html>"
    no_picture = ImageSegment(html, replace(good.metadata, sha256=sha256_hex(html), url="javascript:alert(3)", alt=EVIL), "html")
    named_html = ImageSegment(good.data, replace(good.metadata, url=f"https://x.example/{EVIL}"), "html")
    base = made_document(1, text=EVIL, url="https://good.example/a?b=<c>&d='\"", license="javascript:alert(4)")
    first = replace(base, segments=(*base.segments, no_picture, named_html), language="<b>x", scores={"<i>": 1.0})
    second = replace(made_document(2, text="plain"), page_url="data:text/html,<script>alert(5)</script>")
    return [first, second, replace(made_document(3), segments=(TextSegment(EVIL),))]


@pytest.mark.parametrize("images", ["beside", "inline"])
def test_hostile_documents_stay_text(tmp_path: Path, images: str) -> None:
    output = tmp_path / "view"
    folder = made_set(tmp_path / "shards", hostile_documents())
    row = {"kind": "image", "crawl_file": "crawl.warc.gz", "crawl_offset": 1000, "page_url": "https://good.example/a?b=<c>&d='\"", "reason": "image_damaged", "detail": EVIL}
    write_rejects(folder, "made", [row | {"image_url": EVIL}, row | {"kind": "document", "image_url": "", "crawl_offset": 500}])
    view(folder, output, images=images)
    for name, page in pages(output):
        policy = next(attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'; img-src 'self' data:;") and "unsafe-inline'" not in policy.partition("script-src")[2]
        assert ("script-src 'sha256-" in policy) == (name == "index.html")
        scripts = [attributes for tag, attributes in page.tags if tag == "script"]
        assert scripts == ([{"type": "application/json", "id": "documents"}, {}] if name == "index.html" else [])
        for tag, attributes in page.tags:
            assert tag not in ("iframe", "object", "embed", "link", "base", "form", "svg", "b" if name == "index.html" else "")
            assert not any(key.startswith("on") for key in attributes)
            if tag == "a" and urlsplit(attributes["href"]).scheme:
                assert urlsplit(attributes["href"]).scheme in ("http", "https") and attributes["rel"] == "noopener noreferrer nofollow"
            if tag == "img":
                assert attributes["src"].startswith(("images/", "data:image/jpeg;"))
        if name != "index.html":
            assert "{{ 7 * 7 }}" in page.text and "no picture that can be shown" in page.text and "left out nearby: 1 image of" in page.text
    assert {path.suffix for path in output.rglob("*") if path.is_file()} <= {".html", ".jpeg", ".json"}


def test_the_data_of_the_search_cannot_leave_its_script(tmp_path: Path) -> None:
    view(made_set(tmp_path / "shards", hostile_documents()), tmp_path / "view")
    page = (tmp_path / "view" / "index.html").read_text("utf-8")
    inside = page.partition('id="documents">')[2].partition("</script>")[0]
    entries = json.loads(inside)
    assert "<" not in inside and len(entries) == 3 and EVIL in entries[2]["text"]


@given(st.text(max_size=30))
def test_links_go_to_the_web_only(text: str) -> None:
    for address in (text, f"javascript:{text}", f"http://{text}", f" https://{text}", f"data:{text}", f"file://{text}"):
        link = web_link(address)
        assert link in ("", address) and (not link or link.lower().startswith(("http://", "https://")))
    assert web_link("https://a.example/x") and not web_link("JavaScript:alert(1)") and not web_link("//a.example/x") and not web_link("https://a.example/\u202ex")


def test_a_condition_a_start_and_a_number_choose(folder: Path, tmp_path: Path) -> None:
    assert view(folder, tmp_path / "view", where="num_images == 2", first=2, num_documents=3)["documents"] == 3
    wanted = [item for item in DOCUMENTS if len(item.images) == 2][2:5]
    page = dict(pages(tmp_path / "view"))["page-0001.html"]
    assert all(item.key in page.text for item in wanted) and page.text.count("captured") == 3
    with pytest.raises(ValueError, match="no document of .* meets --where 'num_images > 9'"):
        view(folder, tmp_path / "other", where="num_images > 9")


def test_the_same_command_writes_the_same_and_leaves_nothing_of_a_larger_view(folder: Path, tmp_path: Path) -> None:
    view(folder, tmp_path / "a", per_page=2)
    view(folder, tmp_path / "a", per_page=10)
    view(folder, tmp_path / "b", per_page=10)
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b")


def test_what_was_left_out_nearby_is_shown(tmp_path: Path) -> None:
    folder = made_set(tmp_path / "shards", DOCUMENTS[3:5])
    pages_left_out = [
        {"kind": "document", "crawl_file": "crawl.warc.gz", "crawl_offset": offset, "page_url": f"https://left.example/{offset}", "image_url": "", "reason": "no_images", "detail": ""}
        for offset in (100, 200, 300, 400, 3500, 9000)
    ]
    place = {"crawl_file": "crawl.warc.gz", "crawl_offset": 4000, "page_url": DOCUMENTS[4].page_url}
    image = {"kind": "image", **place, "image_url": "https://i.example/s.gif", "reason": "image_too_small", "detail": "3 x 3"}
    write_rejects(folder, "made", [*pages_left_out, image, {**image, "crawl_file": "other.warc.gz"}])
    assert read_rejects(folder, "crawl.warc.gz") == sorted([*pages_left_out, image], key=lambda row: row["crawl_offset"]) and read_rejects(folder, "none") == []
    view(folder, tmp_path / "view", per_page=1)
    first, second = (dict(pages(tmp_path / "view"))[f"page-000{number}.html"].text for number in (1, 2))
    assert "0 images of this page, 5 pages" in first and "left.example/100" not in first and "left.example/200" in first
    assert "1 image of this page, 4 pages" in second and "image too small" in second and "https://i.example/s.gif 3 x 3" in second


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_finds_words(folder: Path, tmp_path: Path) -> None:
    view(folder, tmp_path / "view", per_page=10)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=2000", "--dump-dom"]
    result = subprocess.run([*command, f"file://{tmp_path}/view/index.html#{'document%2012%20begins'}"], capture_output=True, text=True, timeout=60)
    page = Tags(result.stdout)
    assert "1 found" in page.text
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a" and "#" in attributes["href"]] == ["page-0002.html#d12"]


def test_as_a_command(run: Run, folder: Path, tmp_path: Path) -> None:
    result = run("python", "-m", "lcl.cli", "view", "--shards", folder, "--output", tmp_path / "view", "--num-documents", 3)
    assert result.returncode == 0 and "3 documents with 3 images on 1 pages" in result.stdout, result.stderr
    assert_one_line_error(run("python", "-m", "lcl.cli", "view", "--shards", folder, "--output", folder), "holds something else than a view")
