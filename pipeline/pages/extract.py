"""A page to what a document needs of it: text and image references of the main content in order, licence, opt-outs.

    bytes --charset--> html --scripts cut, guard--> lexbor tree --+--> outline --> main content --+--> pieces
                                                                  +--> addresses of each <img> ---+
                                                                  +--> title, licence, opt-outs
"""

import re
from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple

from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5
from selectolax.lexbor import LexborDocumentOptions, LexborHTMLParser, LexborNode, SelectolaxError

from lcl.core.document import PARAGRAPH_BREAK
from lcl.core.rejected import Reason, Rejected
from pipeline.pages.image_addresses import image_addresses, listed_addresses, rendered_sides, resolve
from pipeline.pages.main_content import main_content
from pipeline.pages.outline import Item, Outline, Paragraph, Picture, read_outline
from pipeline.pages.page_guard import check_page
from pipeline.raw import ImageReference, Piece

CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)
LICENSES = '[rel~="license" i][href]'
CREATIVE_COMMONS = 'a[href*="creativecommons.org/licenses/"], a[href*="creativecommons.org/publicdomain/"]'
ROBOTS_WORDS = {"noai": "noai", "noimageai": "noimageai", "noindex": "noindex", "none": "noindex"}  # `none` is noindex and nofollow
LICENSE_HINTS = ("license", "creativecommons")
SHARED_IMAGES = frozenset(("og:image", "twitter:image"))
FILE_ENDING = re.compile(r"(?:-[0-9]{1,5}x[0-9]{1,5})?(?:\.\w{1,5})?$")  # with the size that some publishers add
WITHOUT_EVENTS = LexborDocumentOptions.WO_EVENTS.value  # with them, a <select> takes time quadratic in its options
NO_CONTENT = "aside audio button dialog footer iframe nav object select template textarea video".split()  # cut from the tree, which saves half of the walk
MAX_PICTURES = 10_000
CELLS = frozenset(("td", "th"))
MAX_CELL = 80  # characters: cells of data; what is longer is a column of a layout


class Extracted(NamedTuple):
    """What a page holds: text runs and image references in order, never two texts in a row, and what it says of itself."""

    pieces: tuple[Piece, ...]
    title: str                # of the page; the heading that repeats it is not in the pieces
    license: str              # address of the licence that the page names, or ""
    opt_outs: frozenset[str]  # of "noai", "noimageai", "noindex", "tdm-reservation", from its meta tags


def decode_page(body: bytes, content_type: str) -> str:
    """The page as text: charset from the header, else from a meta tag, else detected."""
    declared = CHARSET.search(content_type)
    encoding = map_encoding_to_html5(declared[1], fallback_utf8=False) if declared else None
    return bytes_to_str(body, encoding or detect_encoding(body, from_html_meta=True) or "utf-8")


def extract_page(html: str, page_url: str) -> Extracted:
    """The main content of a page and what the page says of itself. Raises Rejected if it is too complex to parse or holds no text."""
    html = check_page(html)
    try:
        tree = LexborHTMLParser(html, options=WITHOUT_EVENTS)
    except (SelectolaxError, ValueError, RuntimeError) as error:
        raise Rejected(Reason.PAGE_UNPARSABLE, str(error)) from error
    title = _title(tree)
    head = tree.css("meta, base")
    base_url, opt_outs = _base_url(head, page_url), page_opt_outs(head)
    shared = _shared_images(head)
    lowered = html.lower()
    license = page_license(tree, base_url) if any(hint in lowered for hint in LICENSE_HINTS) else ""
    tree.strip_tags(NO_CONTENT, recursive=True)  # behind the licence, which often stands in a footer
    outline = read_outline(tree)
    content = main_content(outline, title=title)
    if sum(isinstance(item, Picture) for item in content) > MAX_PICTURES:
        raise Rejected(Reason.PAGE_TOO_COMPLEX, f"more than {MAX_PICTURES} images")
    pieces = _pieces(_with_lead_picture(content, outline, shared), outline, base_url)
    if not any(isinstance(piece, str) for piece in pieces):
        raise Rejected(Reason.NO_TEXT, page_url)
    return Extracted(tuple(pieces), title, license, opt_outs)


def extract_pieces(html: str, page_url: str) -> list[Piece]:
    """Text runs and image references of the page's main content, in document order, never two texts in a row. Raises as extract_page."""
    return list(extract_page(html, page_url).pieces)


def page_license(tree: LexborHTMLParser, base_url: str) -> str:
    """The address that the page links as its licence (rel=license), else its first Creative Commons link, else an empty string."""
    for selector in (LICENSES, CREATIVE_COMMONS):
        for node in tree.css(selector):
            if (url := resolve(base_url, node.attributes["href"] or "")).startswith("http"):
                return url
    return ""


def page_opt_outs(head: Iterable[LexborNode]) -> frozenset[str]:
    """What the page's meta elements refuse: noai, noimageai, noindex (robots), tdm-reservation (TDMRep, W3C 2024)."""
    found = set()
    for node in head:
        name, content = ((node.attributes.get(key) or "").strip().lower() for key in ("name", "content"))
        if name == "robots":
            found.update(ROBOTS_WORDS[word] for word in re.split(r"[\s,]+", content) if word in ROBOTS_WORDS)
        elif name == "tdm-reservation" and content == "1":
            found.add(name)
    return frozenset(found)


def _title(tree: LexborHTMLParser) -> str:
    node = tree.css_first("title")
    return " ".join(node.text().split()) if node is not None else ""


def _base_url(head: Iterable[LexborNode], page_url: str) -> str:
    """What addresses of the page are relative to: its first <base href>, if that is a web address."""
    first = next((href for node in head if node.tag == "base" and (href := node.attributes.get("href")) is not None), "")
    url = resolve(page_url, first) if first else ""
    return url if url.startswith("http") else page_url


def _shared_images(head: Iterable[LexborNode]) -> set[str]:
    """Names of the image files that the page gives for sharing."""
    shared = (node.attributes for node in head if (node.attributes.get("property") or node.attributes.get("name")) in SHARED_IMAGES)
    return {_file_name(attributes.get("content") or "") for attributes in shared} - {""}


def _with_lead_picture(content: Sequence[Item], outline: Outline, names: Set[str]) -> list[Item]:
    """With the picture that the page gives for sharing, if it stands above the content and not in it: the lead image of many sites."""
    if not names or not content or any(names & _file_names(item) for item in content):
        return [*content]
    for item in outline.flow:
        if item is content[0]:
            break
        if isinstance(item, Picture) and not item.linked and names & _file_names(item):
            return [item, *content]
    return [*content]


def _file_names(item: Item) -> set[str]:
    return set(map(_file_name, listed_addresses(item.node))) - {""} if isinstance(item, Picture) else set()


def _file_name(url: str) -> str:
    """The last part of an address's path, without its ending and size: what a picture and its copies in other sizes share."""
    if url.startswith("data:"):
        return ""
    return FILE_ENDING.sub("", re.split("[?#]", url, maxsplit=1)[0].rpartition("/")[2][-200:])


def _pieces(content: Iterable[Item], outline: Outline, base_url: str) -> list[Piece]:
    pieces: list[Piece] = []
    texts: list[str] = []
    previous: Paragraph | None = None
    for item in content:
        if isinstance(item, Paragraph):
            if text := item.text:
                if texts:
                    texts.append(" " if previous is not None and _in_one_row(previous, item, outline) else PARAGRAPH_BREAK)
                texts.append(text)
                previous = item
        elif candidates := image_addresses(item.node, base_url, fallbacks=item.fallbacks):
            if texts:
                pieces.append("".join(texts))
                texts = []
            alt = " ".join((item.node.attributes.get("alt") or "").split())
            pieces.append(ImageReference(candidates, alt, rendered=rendered_sides(item.node, fallbacks=item.fallbacks)))
    return [*pieces, "".join(texts)] if texts else pieces


def _in_one_row(first: Paragraph, second: Paragraph, outline: Outline) -> bool:
    """Whether both are short cells of one row of a table, which make one line."""
    owners = (first.owner, second.owner)
    return (
        all(outline.tags[owner] in CELLS for owner in owners)
        and outline.parents[owners[0]] == outline.parents[owners[1]]
        and max(first.num_characters, second.num_characters) <= MAX_CELL
    )
