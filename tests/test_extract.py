"""Main content in document order, and image addresses as a browser would resolve them."""

import time

import pytest

from lcl.core.rejected import Reason, Rejected
from pipeline.extract import CLOSE_MARK, MAX_ATTRIBUTES, MAX_DEPTH, OPEN_MARK, ImageReference, check_page, decode_page, extract_pieces

URL = "https://site.example/blog/post/index.html"
FILLER = "This paragraph holds enough words for a boilerplate remover to see that it is content, and it goes on for a while. " * 2


def page(body: str, head: str = "") -> str:
    return f"<html><head><title>t</title>{head}</head><body><nav><a href='/'>Home</a></nav><article><h1>Title</h1><p>{FILLER}</p>{body}<p>{FILLER}</p></article></body></html>"


def addresses(body: str, head: str = "") -> list[tuple[str, ...]]:
    return [piece.candidates for piece in extract_pieces(page(body, head), URL) if isinstance(piece, ImageReference)]


def test_text_and_images_come_in_document_order() -> None:
    pieces = extract_pieces(page("<p>before one</p><img src='/1.jpg'><p>between</p><figure><img src='/2.jpg'><figcaption>caption two</figcaption></figure>"), URL)
    shown = [piece if isinstance(piece, str) else piece.candidates[0] for piece in pieces]
    assert shown[1] == "https://site.example/1.jpg" and shown[3] == "https://site.example/2.jpg"
    assert shown[0].endswith("before one") and shown[2] == "between" and shown[4].startswith("caption two")


@pytest.mark.parametrize(
    ("tag", "first"),
    [
        ("<img src='a.jpg'>", "https://site.example/blog/post/a.jpg"),
        ("<img src='../a.jpg'>", "https://site.example/blog/a.jpg"),
        ("<img src='/a.jpg'>", "https://site.example/a.jpg"),
        ("<img src='//cdn.example/a.jpg'>", "https://cdn.example/a.jpg"),
        ("<IMG SRC=a.jpg>", "https://site.example/blog/post/a.jpg"),
        ("<img src='w_400,h_300/a.jpg'>", "https://site.example/blog/post/w_400,h_300/a.jpg"),
        ("<img src='small.jpg' srcset='a.jpg 1x, b.jpg 2x'>", "https://site.example/blog/post/b.jpg"),
        ("<img srcset='a.jpg 320w,b.jpg 1200w, c.jpg 640w'>", "https://site.example/blog/post/b.jpg"),
        ("<img srcset='x,1/a.jpg 320w, x,2/b.jpg 640w'>", "https://site.example/blog/post/x,2/b.jpg"),
        ("<picture><source srcset='big.webp 2000w'><img src='a.jpg'></picture>", "https://site.example/blog/post/big.webp"),
        ("<img src='data:image/gif;base64,R0lGOD' data-src='real.jpg'>", "https://site.example/blog/post/real.jpg"),
        ("<img src='data:image/gif;base64,R0lGOD' class=lazy><noscript><img src='real.jpg'></noscript>", "data:image/gif;base64,R0lGOD"),
        ("<img src='a%20b.jpg'>", "https://site.example/blog/post/a%20b.jpg"),
        ("<img src=' a.jpg '>", "https://site.example/blog/post/a.jpg"),
    ],
)
def test_addresses_are_resolved(tag: str, first: str) -> None:
    found = addresses(tag)
    assert len(found) == 1 and found[0][0] == first


def test_base_href_changes_what_relative_means() -> None:
    assert addresses("<img src='a.jpg'>", "<base href='/other/'>") == [("https://site.example/other/a.jpg",)]


def test_the_noscript_image_of_a_lazy_one_is_a_candidate() -> None:
    (found,) = addresses("<p><img src='data:image/gif;base64,R0lGOD'><noscript><img src='real.jpg'></noscript></p>")
    assert "https://site.example/blog/post/real.jpg" in found


@pytest.mark.parametrize("source", ["javascript:alert(1)", "file:///etc/passwd", "http://[broken", "", "ftp://x.example/a.jpg"])
def test_addresses_that_are_no_web_addresses_are_left_out(source: str) -> None:
    assert addresses(f"<img src='{source}'>") == []


def test_the_alt_text_is_the_page_s_own() -> None:
    (reference,) = [piece for piece in extract_pieces(page("<img src='a.jpg' alt='A &lt;red&gt; door'>"), URL) if isinstance(piece, ImageReference)]
    assert reference.alt == "A <red> door"


def test_a_long_srcset_is_read_in_linear_time() -> None:
    started = time.perf_counter()
    assert len(addresses("<img srcset='" + "a" * 500_000 + " b" * 500 + "'>")) == 1
    assert time.perf_counter() - started < 20  # a bound against hanging: a quadratic pattern took hours


@pytest.mark.parametrize("tag", ["<image data-lcl='²' src='a.jpg'>", "<image data-lcl='" + "9" * 5000 + "' src='a.jpg'>"])
def test_numbers_that_the_page_made_up_are_not_ours(tag: str) -> None:
    assert addresses(tag) == []


def test_a_tag_inside_an_attribute_leaks_no_markup() -> None:
    pieces = extract_pieces(page("<p><a data-caption=\"<img src='t.jpg'> LEAK\">link</a> end.</p>"), URL)
    assert not any("LEAK" in piece for piece in pieces if isinstance(piece, str))


@pytest.mark.parametrize("forged", [f"&{OPEN_MARK}#xe000;0&{OPEN_MARK}#xe001;", f"{OPEN_MARK}{'0' * 5000}{CLOSE_MARK}", f"{OPEN_MARK}0{CLOSE_MARK}", "&#xE000;0&#xE001;", "&#57344;0&#57345;", "&#x0e000;0&#xe001"])
def test_page_text_cannot_forge_an_image(forged: str) -> None:
    pieces = extract_pieces(page(f"<img src='a.jpg'><p>forged {forged} here</p>"), URL)
    assert sum(isinstance(piece, ImageReference) for piece in pieces) == 1
    assert not any(isinstance(piece, str) and (OPEN_MARK in piece or CLOSE_MARK in piece) for piece in pieces)


def test_texts_never_touch() -> None:
    pieces = extract_pieces(page("<p>one</p><img src='javascript:x'><p>two</p>"), URL)
    assert len(pieces) == 1 and "one\n\ntwo" in pieces[0]


@pytest.mark.parametrize(
    ("body", "header", "expected"),
    [
        ("é".encode("latin-1"), "text/html; charset=iso-8859-1", "é"),
        (b"<meta charset='shift_jis'><p>" + "日本".encode("shift_jis"), "text/html", "日本"),
        ("\ufeff日本".encode(), "text/html", "日本"),
        ("naïve café, déjà vu".encode() * 20, "text/html; charset=nonsense", "déjà"),
    ],
)
def test_charsets(body: bytes, header: str, expected: str) -> None:
    assert expected in decode_page(body, header)


HOSTILE = {
    "attributes without spaces": "<p " + "".join(f'a{i}=""' for i in range(40_000)) + ">",
    "closers of nothing": "<div></x>" * 20_000,
    "formatting left open": "".join(f"<font a{i}>" for i in range(400)) + "<div>x</div>" * 2000,
    "attributes": "<p " + " ".join(f"a{i}=1" for i in range(50_000)) + ">",
    "depth": "<div>" * 50_000,
    "tags": "<b>x</b>" * 150_000,
    "size": "x" * (5 << 20),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_pages_that_would_stop_a_parser_are_refused_before_one(kind: str) -> None:
    started = time.perf_counter()
    with pytest.raises(Rejected) as rejected:
        check_page(HOSTILE[kind])
    assert rejected.value.reason == Reason.PAGE_TOO_COMPLEX
    assert time.perf_counter() - started < 5  # a bound against hanging, not a measurement: parsers took up to 13 s and more


def test_ordinary_depth_and_inline_data_are_not_refused() -> None:
    check_page("<div>" * (MAX_DEPTH - 10) + "</div>" * (MAX_DEPTH - 10))
    check_page("<li>item" * (MAX_DEPTH * 2))
    check_page("<img src='data:image/png;base64," + "A" * 100_000 + "'>")
    check_page("<p " + "a=1 " * (MAX_ATTRIBUTES // 2) + ">")


def test_a_page_without_text_is_rejected() -> None:
    with pytest.raises(Rejected) as rejected:
        extract_pieces("<html><body></body></html>", URL)
    assert rejected.value.reason == Reason.NO_TEXT
