"""Where the image of an <img> may be, candidate addresses as a browser would resolve them, the best first; and the size that the page gives it.

    <picture> sources, srcset (widest first) --> lazy attributes --> src --> <noscript> --> inline data: --> absolute addresses
"""

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from urllib.parse import urljoin, urlsplit

from selectolax.lexbor import LexborNode

LAZY_ATTRIBUTES = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-image", "data-full-src", "data-original-src", "data-actualsrc", "data-hi-res-src", "data-url")
SOURCE_SETS = ("srcset", "data-srcset", "data-lazy-srcset")
DESCRIPTOR = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)([wx])")
DENSITY_PX = 1000.0  # what a density of 1x, or no descriptor, counts as beside widths
MAX_ADDRESS = 8192   # characters: longer ones are refused by servers, and joining two takes time that grows with both
SPACER_SIDES = frozenset(("0", "1", "2"))  # px, of counters and spacers
SPACER_FILE = re.compile(r"(?:^|[/_.-])(?:1x1|blank|clear|dot|grey|pixel|spacer|trans|transparent)\.(?:gif|png)(?:$|\?)", re.IGNORECASE)
MAX_SIDE = 24        # characters of a width or height that is kept: `123456.123456789 px` has 19
MAX_SOURCES = 16     # children of a <picture> that are looked at


def image_addresses(node: LexborNode, base_url: str, *, fallbacks: Sequence[LexborNode] = ()) -> tuple[str, ...]:
    """Absolute http(s) and data: addresses of an <img>, the best first, each once; none for counting pixels and spacers.

    `fallbacks` are images that stand for it where scripts do not run. An inline image comes last, for it is mostly a placeholder.
    """
    addresses: list[str] = []
    for element in (node, *fallbacks):
        if not _is_spacer(element.attributes):
            addresses += listed_addresses(element)
    resolved = dict.fromkeys(url for address in addresses if (url := resolve(base_url, address)) and SPACER_FILE.search(url) is None)
    return tuple(sorted(resolved, key=lambda url: url.startswith("data:")))


def rendered_sides(node: LexborNode, *, fallbacks: Sequence[LexborNode] = ()) -> tuple[str, str]:
    """The width and height attributes of an <img>, or of the first of `fallbacks` that has any; as written, empty where there is none or no size is that long.

    Those of a spacer speak of the spacer alone. What style sheets say is not looked at.
    """
    for element in (node, *fallbacks):
        attributes = element.attributes
        if not _is_spacer(attributes):
            width, height = (side if len(side) <= MAX_SIDE else "" for side in ((attributes.get(name) or "").strip() for name in ("width", "height")))
            if width or height:
                return width, height
    return "", ""


def resolve(base_url: str, address: str) -> str:
    """The absolute http(s) or data: URL, or an empty string where there is none."""
    address = address.strip()
    if address[:5].lower() == "data:":
        return "data:" + address[5:]
    if max(len(address), len(base_url)) > MAX_ADDRESS:
        return ""
    try:
        url = urljoin(base_url, address)
        parts = urlsplit(url)
        return url if parts.scheme in ("http", "https") and parts.hostname else ""
    except ValueError:  # an address such as http://[broken
        return ""


def _is_spacer(attributes: Mapping[str, str | None]) -> bool:
    sides = ((attributes.get(name) or "").strip().removesuffix("px") for name in ("width", "height"))
    return any(side in SPACER_SIDES for side in sides)


def listed_addresses(node: LexborNode) -> list[str]:
    """The addresses that an <img> and the sources of its <picture> list, the best first, as they are written."""
    elements = [node]
    parent = node.parent
    if parent is not None and parent.tag == "picture":
        elements = [child for child in islice(parent.iter(), MAX_SOURCES) if child.tag == "source"] + elements
    attributes = [element.attributes for element in elements]  # each call makes a dict of them
    sized = [pair for values in attributes for name in SOURCE_SETS if (value := values.get(name)) for pair in parse_source_set(value)]
    sized.sort(key=lambda pair: -pair[0])
    plain = [value for name in (*LAZY_ATTRIBUTES, "src") if (value := (attributes[-1].get(name) or "").strip())]
    return [address for _, address in sized] + plain


def parse_source_set(value: str) -> list[tuple[float, str]]:
    """(size, address) pairs of a srcset in its order; a density counts as 1000 px each. Addresses may hold commas, not end in one.

    Words are taken one by one as in the HTML standard (4.8.4.2.1), in time linear in the length.
    """
    found: list[tuple[float, str]] = []
    for word in value.split():
        descriptor = DESCRIPTOR.fullmatch(word.partition(",")[0])
        if descriptor and found:
            size = float(descriptor[1]) * (DENSITY_PX if descriptor[2] == "x" else 1)
            found[-1] = (size, found[-1][1])
            word = word.partition(",")[2]  # `640w,next.jpg`: the next address follows without a space
        if address := word.strip(","):
            found.append((DENSITY_PX, address))
    return found
