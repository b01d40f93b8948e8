"""What stands between a page and a parser: scripts are cut out, and pages that would make a parser slow are refused.

    html --> without scripts, styles, drawings, comments --> size, tags, attributes, nesting --> html | Rejected

Cutting by text is safe where it is wrong about what a parser would call a script: the parser never sees what was cut, and everything that it
does see was counted. Each step is linear in the length of the page.
"""

import re
from collections import Counter
from collections.abc import Iterable

from lcl.core.rejected import Reason, Rejected

MAX_PAGE_CHARACTERS = 4 << 20
MAX_TAGS = 200_000
MAX_ATTRIBUTES = 10_000  # in one tag: a parser looks at each earlier one, which takes 0.15 s for 10,000 and 3.5 s for 50,000 (lexbor, 2026)
MAX_DEPTH = 2_000        # parsers are quadratic in depth: 50,000 nested tags took lexbor 6 s, 2,000 take 10 ms
MAX_NODES = 2_000_000    # formatting tags that stay open are copied into each block that follows: a 29 kB page made 800,000 nodes
LONG_TAG = 4_000         # characters; shorter tags hold too few attributes to matter

CUT = re.compile(r"<(!--|(?:script|style|svg)(?=[\s/>]))", re.IGNORECASE)
CUT_ENDS = {kind: re.compile(rf"</{kind}(?=[\s/>])", re.IGNORECASE) for kind in ("script", "style", "svg")} | {"!--": re.compile("--(?=>)")}
TAG_NAME = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
FORMATTING = frozenset("a b big code em font i nobr s small strike strong tt u".split())
VOID_OR_IMPLIED = frozenset("area base br col embed hr img input link meta param source track wbr p li dt dd tr td th thead tbody tfoot option optgroup".split())


def check_page(html: str) -> str:
    """The page without scripts, fit for a parser. Raises Rejected for one that would make it slow or its tree huge."""
    if len(html) > MAX_PAGE_CHARACTERS:
        raise Rejected(Reason.PAGE_TOO_COMPLEX, f"{len(html)} characters")
    html = cut_scripts(html)
    num_tags = html.count("<")
    if num_tags > MAX_TAGS:
        raise Rejected(Reason.PAGE_TOO_COMPLEX, f"{num_tags} tags")
    parts = html.split(">")
    if max(map(len, parts)) > LONG_TAG:
        _check_attributes(parts)
    if num_tags**2 / 4 > MAX_NODES:  # half of the tags left open, the other half blocks: the worst that a page of fewer tags can do
        _check_nesting(html, num_tags)
    return html


def cut_scripts(html: str) -> str:
    """The page without scripts, styles, drawings (SVG) and comments; one that is never closed stays."""
    kept: list[str] = []
    position = start = 0
    endless: set[str] = set()
    while (found := CUT.search(html, position)) is not None:
        kind = found[1].lower()
        position = found.end()
        if kind not in endless:
            end = CUT_ENDS[kind].search(html, found.start() + 2)  # two, for `<!-->` is a whole comment
            behind = html.find(">", end.end()) + 1 if end else 0
            if behind:
                kept.append(html[start : found.start()])
                position = start = behind
            else:
                endless.add(kind)
    return "".join((*kept, html[start:]))


def _check_attributes(parts: Iterable[str]) -> None:
    """`parts` end where a tag may end; the cost of a tag is the square of its attributes."""
    pairs = 0
    for part in parts:
        if len(part) > LONG_TAG and "<" in part:
            tag = part[part.index("<") :]
            pairs += max(len(tag.split()), tag.count("=")) ** 2
    if pairs > MAX_ATTRIBUTES**2:
        raise Rejected(Reason.PAGE_TOO_COMPLEX, f"tags of more than {MAX_ATTRIBUTES} attributes, or many of nearly as many")


def _check_nesting(html: str, num_tags: int) -> None:
    """A closing tag takes back only an open tag of its own name, as in the parsers."""
    opened: Counter[str] = Counter()
    depth = formatting = most = 0
    for closing, name in TAG_NAME.findall(html):
        if not name.islower():
            name = name.lower()
        if name in VOID_OR_IMPLIED:
            continue
        if not closing:
            opened[name] += 1
            depth += 1
            if depth > MAX_DEPTH:
                raise Rejected(Reason.PAGE_TOO_COMPLEX, f"more than {MAX_DEPTH} tags open at one place")
            if name in FORMATTING:
                formatting += 1
                most = max(most, formatting)
        elif opened[name]:
            opened[name] -= 1
            depth -= 1
            formatting -= name in FORMATTING
    if most * num_tags > MAX_NODES:
        raise Rejected(Reason.PAGE_TOO_COMPLEX, f"{most} formatting tags open at one place on a page of {num_tags} tags")
