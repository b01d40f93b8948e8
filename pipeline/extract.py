"""A page to its main content: text and image references in document order.

    bytes --charset--> html --guard--> mark every <img> --+--> main-content extraction --> text with marks --+--> pieces
                                                          +--> DOM --> candidate addresses of each image -----+

The marks are private-use characters in the images' alt texts: the extractor (resiliparse) keeps alt texts in
place, so the marks come back in document order inside the main text. A page's own such characters are removed first.
"""

import html as html_module
import re
from collections import Counter
from urllib.parse import urljoin, urlsplit

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5
from selectolax.lexbor import LexborHTMLParser, LexborNode

from lcl.core.document import PARAGRAPH_BREAK
from lcl.core.rejected import Reason, Rejected
from pipeline.raw import ImageReference, Piece

OPEN_MARK, CLOSE_MARK = "\ue000", "\ue001"
OWN_MARKS = re.compile(r"[\ue000\ue001]|&#(?:x0*e00[01]|0*5734[45]);?", re.IGNORECASE)
MARK = re.compile(f"{OPEN_MARK}([0-9]{{1,9}}){CLOSE_MARK}")
NUMBER = re.compile("[0-9]{1,9}")
IMAGE_TAG = re.compile(r"<img(?=[\s/>])", re.IGNORECASE)
LAZY_ATTRIBUTES = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-image", "data-full-src", "data-original-src", "data-actualsrc")
SOURCE_SETS = ("srcset", "data-srcset", "data-lazy-srcset")
DESCRIPTOR = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)([wx])")
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)

MAX_PAGE_BYTES = 4 << 20
MAX_TAGS = 200_000
MAX_ATTRIBUTES = 2_000
MAX_UNCLOSED = 200  # formatting tags that stay open are copied into each block that follows: a 29 kB page made 800,000 nodes
MAX_DEPTH = 2_000  # the parsers are quadratic in depth: 50,000 nested tags took lexbor 6 s, 2,000 take 10 ms
VOID_OR_IMPLIED = frozenset("area base br col embed hr img input link meta param source track wbr p li dt dd tr td th thead tbody tfoot option optgroup".split())
FORMATTING = frozenset("a b big code em font i nobr s small strike strong tt u".split())
TAG_NAME = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")


def decode_page(body: bytes, content_type: str) -> str:
    """The page as text: charset from the header, else from a meta tag, else detected."""
    declared = CHARSET.search(content_type)
    encoding = map_encoding_to_html5(declared[1], fallback_utf8=False) if declared else None
    return bytes_to_str(body, encoding or detect_encoding(body, from_html_meta=True) or "utf-8")


def check_page(html: str) -> None:
    """Raises Rejected for a page that would make an HTML parser slow: checked before any parser sees it."""
    num_tags = html.count("<")
    if len(html) > MAX_PAGE_BYTES or num_tags > MAX_TAGS:
        raise Rejected(Reason.PAGE_TOO_COMPLEX, f"{len(html)} characters, {num_tags} tags")
    position = 0
    while (position := html.find("<", position)) >= 0:  # only long tags can hold many attributes
        end = html.find(">", position)
        end = len(html) if end < 0 else end
        tag = html[position:end]
        if len(tag) > MAX_ATTRIBUTES * 2 and max(len(tag.split()), tag.count("=")) > MAX_ATTRIBUTES:
            raise Rejected(Reason.PAGE_TOO_COMPLEX, "more attributes in a tag than any page needs")
        position = end
    if num_tags > MAX_UNCLOSED:
        _check_nesting(html)


def _check_nesting(html: str) -> None:
    """A closing tag takes back only an open tag of its own name, as in the parsers."""
    opened: Counter[str] = Counter()
    depth = unclosed = 0
    for closing, name in TAG_NAME.findall(html):
        name = name.lower()
        if name in VOID_OR_IMPLIED or (closing and not opened[name]):
            continue
        step = -1 if closing else 1
        opened[name] += step
        depth += step
        unclosed += step * (name in FORMATTING)
        if depth > MAX_DEPTH or unclosed > MAX_UNCLOSED:
            raise Rejected(Reason.PAGE_TOO_COMPLEX, f"more than {MAX_DEPTH} tags, or {MAX_UNCLOSED} formatting tags, open at one place")


def extract_pieces(html: str, page_url: str) -> list[Piece]:
    """Text runs and image references of the page's main content, in document order, never two texts in a row.

    Raises Rejected if the page is too complex to parse or holds no text.
    """
    check_page(html)
    while (cleaned := OWN_MARKS.sub("", html)) != html:  # again, for what is left can join to a mark
        html = cleaned
    numbers = iter(range(len(html)))
    numbered = IMAGE_TAG.sub(lambda _: f"<img data-lcl={next(numbers)}", html)  # no quotes: the tag may stand inside an attribute
    marked = re.sub(r"<img data-lcl=([0-9]+)", rf"<img alt={OPEN_MARK}\1{CLOSE_MARK}", numbered)  # the first alt of a tag wins
    try:
        text = extract_plain_text(marked, main_content=True, alt_texts=True, list_bullets=False)
        tree = LexborHTMLParser(numbered)
    except Exception as error:  # two parsers written in C meet hostile bytes: whatever they raise means the same
        raise Rejected(Reason.PAGE_UNPARSABLE, str(error)) from error
    references = _image_references(tree, page_url)
    parts = MARK.split(text)
    pieces: list[Piece] = []
    for index, part in enumerate(parts):
        if index % 2 == 0:
            _append_text(pieces, _tidy(part))
        elif (reference := references.get(int(part))) is not None:
            pieces.append(reference)
    if not any(isinstance(piece, str) for piece in pieces):
        raise Rejected(Reason.NO_TEXT, page_url)
    return pieces


def _append_text(pieces: list[Piece], text: str) -> None:
    if not text:
        return
    if pieces and isinstance(pieces[-1], str):  # an image between them had no address
        pieces[-1] += PARAGRAPH_BREAK + text
    else:
        pieces.append(text)


def _tidy(text: str) -> str:
    """Paragraphs split by exactly one blank line, spaces and single newlines folded to one space."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.replace(OPEN_MARK, "").replace(CLOSE_MARK, "")))
    return PARAGRAPH_BREAK.join(paragraph for paragraph in paragraphs if paragraph)


def _image_references(tree: LexborHTMLParser, page_url: str) -> dict[int, ImageReference]:
    base = tree.css_first("base[href]")
    base_url = _resolve(page_url, base.attributes["href"] or "") if base is not None else page_url
    base_url = base_url or page_url
    references = {}
    for node in tree.css("img[data-lcl]"):
        addresses = _addresses(node)
        if all(address.startswith("data:") for address in addresses):
            addresses += _fallback_addresses(node)
        resolved = dict.fromkeys(url for url in (_resolve(base_url, address) for address in addresses) if url)
        number = node.attributes["data-lcl"] or ""
        if resolved and NUMBER.fullmatch(number):
            references[int(number)] = ImageReference(tuple(resolved), (node.attributes.get("alt") or "").strip())
    return references


def _addresses(node: LexborNode) -> list[str]:
    """Unresolved candidate addresses of an <img>: its <picture> sources and srcset by size, lazy attributes, src; data: last."""
    sets = [node]
    parent = node.parent
    if parent is not None and parent.tag == "picture":
        sets = [child for child in parent.css("source")] + sets
    sized: list[tuple[float, str]] = []
    for element in sets:
        for name in SOURCE_SETS:
            sized += _parse_source_set(element.attributes.get(name) or "")
    sized.sort(key=lambda item: -item[0])
    plain = [node.attributes.get(name) or "" for name in (*LAZY_ATTRIBUTES, "src")]
    found = [address for _, address in sized] + [address.strip() for address in plain if address.strip()]
    return sorted(found, key=lambda address: address.startswith("data:"))  # a data: URI is mostly a placeholder


def _parse_source_set(value: str) -> list[tuple[float, str]]:
    """(size, address) pairs of a srcset; a density x counts as 1000 px. Addresses may hold commas, not end in one.

    Words are taken one by one as in the HTML standard (4.8.4.2.1), in time linear in the length.
    """
    found: list[tuple[float, str]] = []
    for word in value.split():
        descriptor = DESCRIPTOR.fullmatch(word.partition(",")[0])
        if descriptor and found:
            size = float(descriptor[1]) * (1000 if descriptor[2] == "x" else 1)
            found[-1] = (size, found[-1][1])
            word = word.partition(",")[2]  # `640w,next.jpg`: the next address follows without a space
        if address := word.strip(","):
            found.append((1000.0, address))
    return found


def _fallback_addresses(node: LexborNode) -> list[str]:
    """Addresses in the <noscript> right behind a lazy image."""
    sibling = node.next
    while sibling is not None and sibling.tag == "-text" and not (sibling.text() or "").strip():
        sibling = sibling.next
    if sibling is None or sibling.tag != "noscript":
        return []
    inner = LexborHTMLParser(re.sub("(?i)^<noscript[^>]*>", "<div>", html_module.unescape(sibling.html or "")))
    found = inner.css_first("img")
    return _addresses(found) if found is not None else []


def _resolve(base_url: str, address: str) -> str:
    """The absolute http(s) or data: URL, or an empty string where there is none."""
    address = address.strip()
    if address.startswith("data:"):
        return address
    try:
        url = urljoin(base_url, address)
        parts = urlsplit(url)
        return url if parts.scheme in ("http", "https") and parts.hostname else ""
    except ValueError:  # an address such as http://[broken
        return ""
