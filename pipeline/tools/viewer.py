"""Documents of shards as static HTML: pages to leaf through, and one that finds words in all of them.

    ShardSet --> documents (condition, first, number) --> page-0001.html ... with images --> index.html with the texts to search

Whatever a page of the web holds is text here: templates escape it, links go to http(s) only and carry no referrer, and a
Content-Security-Policy forbids every request to the outside. The one script is in index.html, allowed by its hash.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import jinja2
import numpy as np
from pydantic import Field

from lcl.core.config import config
from lcl.core.document import PARAGRAPH_BREAK, Document, ImageSegment
from lcl.core.files import open_aside, write_json
from lcl.core.html_page import page_template
from lcl.core.images import probe_image
from lcl.core.logs import progress_bar
from lcl.core.rejected import Rejected
from lcl.core.shards import ShardSet
from pipeline.rejects import read_rejects
from pipeline.tools.where import Condition

HERE = Path(__file__).parent
SCHEMA = "lcl-view/1"
MAX_TEXT = 20_000     # characters shown of one text between images
MAX_SEARCHED = 4_000  # characters of a document that can be found
MAX_TITLE = 140
NEARBY = 3            # dropped pages shown before and after a document in its crawl file
MAX_DROPPED_IMAGES = 50


@config
class ViewConfig:
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of shards, or selections of them."""
    output: str
    """Folder for the pages; open its index.html."""
    where: str = "True"
    """Which documents, as for `lcl select`."""
    first: Annotated[int, Field(ge=0)] = 0
    """Documents to pass over."""
    num_documents: Annotated[int, Field(ge=1)] = 200
    """Documents to show, at most."""
    per_page: Annotated[int, Field(ge=1)] = 20
    """Documents on a page."""
    images: Literal["beside", "inline"] = "beside"
    """beside: files in images/; inline: inside the pages, so that one page can be sent alone."""


def view_shards(settings: ViewConfig) -> dict[str, int]:
    """Writes the pages and returns counts. The same settings and shards give the same bytes.

    Raises ValueError if the folder holds something else, for a condition that cannot be understood, and if nothing meets it.
    """
    output = Path(settings.output)
    shards = ShardSet([Path(folder) for folder in settings.shards])
    chosen = _choose(shards, settings)
    _empty(output)
    write_json(output / "view.json", {"schema": SCHEMA})
    pages = [chosen[start : start + settings.per_page] for start in range(0, len(chosen), settings.per_page)]
    entries: list[dict[str, Any]] = []
    rejects = _Rejects(shards)
    document_page = page_template(HERE / "view_page.html")
    with progress_bar("pages", total=len(pages)) as bar:
        for number, indices in enumerate(pages, 1):
            cards = [_card(shards, index, output, settings, rejects) for index in indices]
            entries += [_entry(card, number) for card in cards]
            _write(output / page_name(number), document_page, cards=cards, number=number, num_pages=len(pages), page_name=page_name)
            bar.advance()
    script = (HERE / "view_search.js").read_text()
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    first_names = [{"name": page_name(number), "first": indices[0], "last": indices[-1]} for number, indices in enumerate(pages, 1)]
    counts = {"documents": len(chosen), "images": sum(entry["images"] for entry in entries), "pages": len(pages)}
    _write(
        output / "index.html", page_template(HERE / "view_index.html"), entries=entries, pages=first_names, script=script, script_hash=script_hash,
        counts=counts, num_all=len(shards), where=settings.where, sources=[Path(folder).name for folder in settings.shards],
    )
    return counts


def page_name(number: int) -> str:
    return f"page-{number:04d}.html"


def _choose(shards: ShardSet, settings: ViewConfig) -> list[int]:
    """The documents to show, as indices of the set. Catalogues are read until there are enough."""
    condition = Condition(settings.where)
    wanted = settings.first + settings.num_documents
    chosen: list[int] = []
    for start, shard in zip(shards.starts, shards.shards, strict=False):
        if len(chosen) < wanted:
            columns = condition.columns or ["num_images"]
            chosen += (int(start) + np.flatnonzero(condition(shard.catalogue(columns)))).tolist()
    chosen = chosen[settings.first : wanted]
    if not chosen:
        raise ValueError(f"no document of {', '.join(settings.shards)} meets --where {settings.where!r} behind the --first {settings.first}")
    return chosen


def _empty(output: Path) -> None:
    """Removes an earlier view. Raises ValueError if the folder holds anything else."""
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / "view.json").exists())):
        raise ValueError(f"--output {output} holds something else than a view; give another folder")
    for pattern in ("page-*.html", "index.html", "images/*"):
        for path in output.glob(pattern):
            path.unlink()
    output.mkdir(parents=True, exist_ok=True)


def _write(path: Path, page: jinja2.Template, **values: Any) -> None:
    with open_aside(path) as file:
        file.write(page.render(**values).encode("utf-8", "replace"))


class _Rejects:
    """What was left out, by crawl file; the last one that was asked for is kept."""

    def __init__(self, shards: ShardSet) -> None:
        self.folders = [shard.path.parent for shard in shards.shards]
        self.known: tuple[tuple[Path, str], list[dict[str, Any]]] | None = None

    def of(self, shard: int, crawl_file: str) -> list[dict[str, Any]]:
        key = (self.folders[shard], crawl_file)
        if self.known is None or self.known[0] != key:
            self.known = (key, read_rejects(*key))
        return self.known[1]


def _card(shards: ShardSet, index: int, output: Path, settings: ViewConfig, rejects: _Rejects) -> dict[str, Any]:
    """All that the template shows of a document."""
    document = shards.read(index)
    shard = int(np.searchsorted(shards.starts, index, side="right")) - 1
    parts: list[dict[str, Any]] = []
    for segment in document.segments:
        if isinstance(segment, ImageSegment):
            number = sum(part["kind"] == "image" for part in parts)
            parts.append({"kind": "image", "source": _image_source(document, number, segment, output, settings), "metadata": segment.metadata, "link": web_link(segment.metadata.url)})
        else:
            left = len(segment.text) - MAX_TEXT
            parts.append({"kind": "text", "paragraphs": segment.text[:MAX_TEXT].split(PARAGRAPH_BREAK), "left": max(0, left)})
    return {
        "document": document, "index": index, "shard": shards.shards[shard].path.stem, "link": web_link(document.page_url), "license_link": web_link(document.license),
        "parts": parts, **_dropped(document, rejects.of(shard, document.crawl.file)),
    }  # fmt: skip


def web_link(address: str) -> str:
    """The address if it is one of the web, else an empty text: a link must not run or open anything else."""
    try:
        is_web = address.lower().startswith(("http://", "https://")) and urlsplit(address).hostname
        return address if is_web and address.isprintable() else ""
    except ValueError:
        return ""


def _image_source(document: Document, number: int, segment: ImageSegment, output: Path, settings: ViewConfig) -> str:
    """Where the picture is for the page: a file beside it or a data: URL; empty if the bytes are no picture of a known format."""
    try:
        kind = str(probe_image(segment.data).format).lower()  # of the bytes: the name in the shard could say html
    except Rejected:
        return ""
    if settings.images == "inline":
        return f"data:image/{kind};base64,{base64.b64encode(segment.data).decode()}"
    name = f"{hashlib.sha256(segment.data).hexdigest()[:32]}.{kind}"
    path = output / "images" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(segment.data)
    return f"images/{name}"


def _dropped(document: Document, rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Images that this page lost, and the pages that were left out just before and behind it."""
    images = [row for row in rows if row["kind"] == "image" and row["crawl_offset"] == document.crawl.offset and row["page_url"] == document.page_url]
    pages = [row for row in rows if row["kind"] == "document"]
    before = [row for row in pages if row["crawl_offset"] < document.crawl.offset][-NEARBY:]
    behind = [row for row in pages if row["crawl_offset"] > document.crawl.offset][:NEARBY]
    return {"dropped_images": images[:MAX_DROPPED_IMAGES], "dropped_pages": before + behind}


def _entry(card: dict[str, Any], page: int) -> dict[str, Any]:
    """What the search knows of a document."""
    document: Document = card["document"]
    words = " ".join(document.texts)
    alts = " ".join(image.metadata.alt for image in document.images)
    return {
        "page": page, "id": f"d{card['index']}", "title": " ".join(words[:MAX_TITLE].split()) or "(no text)", "url": document.page_url[:500],
        "language": document.language, "images": len(document.images), "text": f"{words[:MAX_SEARCHED]} {alts[:MAX_SEARCHED]}",
    }  # fmt: skip
