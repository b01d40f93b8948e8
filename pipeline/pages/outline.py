"""A page as a flat outline: its elements in document order, and the paragraphs and pictures that flow through them.

    lexbor tree --one walk--> elements (parent, tag, names, silent) + flow (Paragraph | Picture, each with its owner)

Everything that judges content works on these lists: walking costs about a microsecond per node, so it is done once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from selectolax.lexbor import LexborHTMLParser, LexborNode

# What stands in these is no text of the page, or not for readers.
SILENT = frozenset(
    "applet aside audio button canvas datalist dialog embed footer frameset head iframe input link map math menu meta nav noembed noframes noscript object script select style svg template "
    "textarea title video xmp".split()
)
INLINE = frozenset(
    "a abbr acronym amp-img b bdi bdo big cite code data del dfn em font i img ins kbd label mark noscript output picture q rp rt ruby s samp small source span strike strong "
    "sub sup time tt u var wbr".split()
)
IMAGES = frozenset(("img", "amp-img"))
HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
IMAGE_FILE = re.compile(r"\.(?:jpe?g|png|gif|webp|avif)(?:$|\?)", re.IGNORECASE)
SLUG_BREAK = re.compile("[-_ ]")
MAX_NAME_BREAKS = 2
MAX_SIGN_CHARACTERS = 2  # an emoji may be two
BODY = 0  # index of the first element


@dataclass(slots=True)
class Paragraph:
    """Text between two breaks; `owner` is the index of the block element that it stands in."""

    owner: int
    parts: list[str] = field(default_factory=list)
    num_characters: int = 0
    num_linked: int = 0              # of them, inside links

    @property
    def text(self) -> str:
        """The text with every run of white space folded to one space."""
        return " ".join("".join(self.parts).split())


@dataclass(slots=True)
class Picture:
    """An <img>; `linked` says that it leads to another page, as a teaser does, rather than to its own file."""

    owner: int
    node: LexborNode
    linked: bool
    fallbacks: list[LexborNode] = field(default_factory=list)  # the <img> of a <noscript> that stands for this one


Item = Paragraph | Picture


@dataclass(slots=True)
class Outline:
    """Parallel lists, parents before children, and the flow in document order.

    There is an entry for each block element, each link and each element that is silent; what else is inline counts as its parent.
    """

    parents: list[int] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)   # class, id and role of a block element
    blocks: list[int] = field(default_factory=list)  # nearest block element, which may be the element itself
    silent: list[bool] = field(default_factory=list)
    linked: list[bool] = field(default_factory=list)
    flow: list[Item] = field(default_factory=list)

    def add(self, parent: int, tag: str, attributes: Mapping[str, str | None], *, silent: bool) -> int:
        """Appends an element and returns its index."""
        index = len(self.tags)
        inline = tag in INLINE
        self.parents.append(parent)
        self.tags.append(tag)
        self.blocks.append(self.blocks[parent] if inline else index)
        self.names.append(_names(attributes) if attributes and not inline else "")
        self.linked.append(index != BODY and (self.linked[parent] or (tag == "a" and IMAGE_FILE.search(attributes.get("href") or "") is None)))
        self.silent.append(silent)
        return index


def read_outline(tree: LexborHTMLParser) -> Outline:
    """The outline of the page's body; an empty one for a page without a body."""
    outline = Outline()
    body = tree.body
    if body is None:
        return outline
    blocks, silent, linked, flow = outline.blocks, outline.silent, outline.linked, outline.flow
    outline.add(BODY, "body", {}, silent=False)
    opened = [(body.mem_id, BODY)]
    paragraph: Paragraph | None = None
    num_breaks = 0
    nodes = body.traverse(include_text=True)
    next(nodes)  # the body itself
    for node in nodes:
        tag = node.tag
        above = node.parent.mem_id
        while opened[-1][0] != above:
            closed = opened.pop()[1]
            if blocks[closed] == closed and opened[-1][1] != closed:
                paragraph = None
        parent = opened[-1][1]
        if silent[parent]:
            if tag in IMAGES and outline.tags[parent] == "noscript":
                _add_fallback(outline, parent, node)
            if tag != "-text":
                opened.append((node.mem_id, parent))  # one element stands for all that is silent below it
        elif tag == "-text":
            text = node.text_content
            blank = text.isspace()
            if paragraph is None or paragraph.owner != blocks[parent]:
                if blank:
                    continue
                paragraph = Paragraph(blocks[parent])
                flow.append(paragraph)
            paragraph.parts.append(text)
            if not blank:
                num_breaks = 0
                paragraph.num_characters += len(text)
                if linked[parent]:
                    paragraph.num_linked += len(text)
        elif tag == "br":
            num_breaks += 1
            if num_breaks > 1:
                paragraph = None
            elif paragraph is not None:
                paragraph.parts.append("\n")
        elif tag != "-comment":
            attributes = node.attributes
            quiet = tag in SILENT or (bool(attributes) and (_is_hidden(attributes) or (tag == "a" and _is_permalink(node, attributes))))
            if tag in IMAGES and not quiet:
                flow.append(Picture(parent, node, linked[parent]))
            inline = tag in INLINE
            if inline and tag != "a" and not quiet:
                index = parent  # it changes nothing for what stands in it
            else:
                index = outline.add(parent, tag, attributes, silent=quiet)
            opened.append((node.mem_id, index))
            if not inline:
                paragraph = None
                num_breaks = 0
    return outline


def _add_fallback(outline: Outline, noscript: int, node: LexborNode) -> None:
    """The image of a <noscript> stands for the image right before it in the same block, or else for itself."""
    parent = outline.parents[noscript]
    previous = outline.flow[-1] if outline.flow else None
    if isinstance(previous, Picture) and outline.blocks[previous.owner] == outline.blocks[parent]:
        previous.fallbacks.append(node)
    else:
        outline.flow.append(Picture(parent, node, outline.linked[parent]))


def _names(attributes: Mapping[str, str | None]) -> str:
    """Class, role and id; but an id of many words is the slug of a heading, as in `#sharing-with-a-single-developer`, and names no part of a page."""
    names = [name for name in (attributes.get("class"), attributes.get("role")) if name]
    identifier = attributes.get("id")
    if identifier and len(SLUG_BREAK.findall(identifier)) <= MAX_NAME_BREAKS:
        names.append(identifier)
    return " ".join(names)


def _is_permalink(node: LexborNode, attributes: Mapping[str, str | None]) -> bool:
    """A link of a heading to itself: a sign such as a pilcrow, which Sphinx, Markdown and wikis put behind it."""
    if not (attributes.get("href") or "").startswith("#"):
        return False
    text = node.text().strip()
    return 0 < len(text) <= MAX_SIGN_CHARACTERS and not any(character.isalnum() for character in text)


def _is_hidden(attributes: Mapping[str, str | None]) -> bool:
    if "hidden" in attributes:
        return True
    style = attributes.get("style")
    return style is not None and HIDDEN_STYLE.search(style) is not None
