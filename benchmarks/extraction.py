"""Entry point: text and images of the main content against labelled pages, and documents per second, ours and the peers' in one process.

    python benchmarks/extraction.py --articles FOLDER --pages FOLDER --output extraction.json

    articles (html/*.html.gz, ground-truth.json) --extract--> text ---> F1 of four-word shingles, seconds of processor time
    pages (*/source.html.gz, expected.html.gz) ---extract--> images --> F1 of file names

Peers that are not installed are left out of the table and named (`pip install -e .[peers]`).
"""

import gzip
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from extraction_scores import Score, compare_images, compare_texts, score_images, score_texts
from pydantic import Field
from selectolax.lexbor import LexborHTMLParser

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.core.rejected import Rejected
from lcl.measured import write_result
from pipeline.pages.extract import decode_page, extract_page
from pipeline.pages.image_addresses import image_addresses
from pipeline.raw import ImageReference

log = logging.getLogger(__name__)

PAGE_URL = "http://fakehost/test/page.html"  # under which the pages with images were saved (mozilla/readability)
TARGETS = {"text_f1": 0.93, "image_f1": 0.80, "documents_per_second": 300.0}


@config
class ExtractionConfig:
    articles: str
    """Folder of the article extraction benchmark: ground-truth.json and html/*.html.gz."""
    pages: str
    """Folder with one folder per page: source.html.gz, and expected.html.gz with the images to find."""
    output: str
    """JSON file for the numbers."""
    rounds: Annotated[int, Field(ge=1)] = 3
    """Timed rounds over the articles; the fastest counts."""
    peers: tuple[str, ...] = ()
    """Names of the extractors to run; none: all that are installed."""


class Found(NamedTuple):
    """What an extractor gives for a page: its text, and the candidate addresses of each image."""

    text: str
    images: Sequence[Sequence[str]]


Extractor = Callable[[bytes, str], Found]


@dataclass(frozen=True)
class Labelled:
    """A page as it was captured, and what a person marked on it."""

    name: str
    body: bytes
    url: str
    text: str = ""
    images: tuple[str, ...] = ()


def ours(body: bytes, url: str) -> Found:
    try:
        pieces = extract_page(decode_page(body, ""), url).pieces
    except Rejected:
        return Found("", ())
    texts = (piece for piece in pieces if isinstance(piece, str))
    return Found("\n\n".join(texts), [piece.candidates for piece in pieces if isinstance(piece, ImageReference)])


def resiliparse_main(body: bytes, url: str) -> Found:
    from resiliparse.extract.html2text import extract_plain_text

    return Found(extract_plain_text(decode_page(body, ""), main_content=True, alt_texts=False), ())


def trafilatura_text(body: bytes, url: str) -> Found:
    from trafilatura import extract

    return Found(extract(body, url=url) or "", ())


def trafilatura_images(body: bytes, url: str) -> Found:
    from trafilatura import extract

    return _from_html(extract(body, url=url, include_images=True, output_format="html") or "", url)


def readability(body: bytes, url: str) -> Found:
    from readability import Document

    return _from_html(Document(decode_page(body, ""), url=url).summary(html_partial=True), url)


def whole_page(body: bytes, url: str) -> Found:
    """All text and every image that has an address: what recall can reach, and what precision costs nothing."""
    return _from_html(decode_page(body, ""), url)


def _from_html(html: str, url: str) -> Found:
    """All text of the HTML, and of each image the addresses that we would try."""
    tree = LexborHTMLParser(html)
    nodes = tree.css("img, graphic")  # trafilatura's own name for an image
    return Found(tree.body.text(separator=" ") if tree.body else "", [candidates for node in nodes if (candidates := image_addresses(node, url))])


EXTRACTORS: Mapping[str, tuple[Extractor, str]] = {
    "ours": (ours, "selectolax"),
    "resiliparse": (resiliparse_main, "resiliparse"),
    "trafilatura": (trafilatura_text, "trafilatura"),
    "trafilatura with images": (trafilatura_images, "trafilatura"),
    "readability-lxml": (readability, "readability-lxml"),
    "whole page": (whole_page, "selectolax"),
}
MODULES = {"readability-lxml": "readability"}


def read_articles(folder: Path) -> list[Labelled]:
    """Articles with their true text. Raises ValueError if the folder holds none."""
    truth = folder / "ground-truth.json"
    if not truth.is_file():
        raise ValueError(f"--articles {folder}: no ground-truth.json there; give a folder of the article extraction benchmark")
    labels = json.loads(truth.read_text())
    return [Labelled(name, _unpack(folder / "html" / f"{name}.html.gz"), label.get("url", PAGE_URL), text=label["articleBody"]) for name, label in sorted(labels.items())]


def read_pages(folder: Path) -> list[Labelled]:
    """Pages with the addresses of their true images. Raises ValueError if the folder holds none."""
    found = []
    for path in sorted(folder.glob("*/expected.html.gz")):
        nodes = LexborHTMLParser(_unpack(path)).css("img")
        addresses = ([node.attributes.get(name) for name in ("src", "data-src")] + (node.attributes.get("srcset") or "").split()[:1] for node in nodes)
        images = tuple(next((value for value in values if value and not value.startswith("data:")), "") for values in addresses)
        found.append(Labelled(path.parent.name, _unpack(path.parent / "source.html.gz"), PAGE_URL, images=tuple(filter(None, images))))
    if not found:
        raise ValueError(f"--pages {folder}: no */expected.html.gz there")
    return found


def _unpack(path: Path) -> bytes:
    with gzip.open(path) as file:
        return file.read()


def measure(extract: Extractor, articles: Sequence[Labelled], pages: Sequence[Labelled], *, rounds: int) -> dict[str, Any]:
    """Scores, and documents per second of processor time: bytes in, pieces out, the fastest round over the articles."""
    texts = score_texts([compare_texts(page.text, extract(page.body, page.url).text) for page in articles])
    images = score_images(compare_images(page.images, extract(page.body, page.url).images) for page in pages)
    seconds = math.inf
    for _ in range(rounds):
        started = time.process_time()
        for page in articles:
            extract(page.body, page.url)
        seconds = min(seconds, time.process_time() - started)
    return {"text": _plain(texts), "image": _plain(images), "documents_per_second": round(len(articles) / seconds, 1)}


def _plain(score: Score) -> dict[str, float]:
    return {"f1": round(score.f1, 4), "precision": round(score.precision, 4), "recall": round(score.recall, 4)}


def chosen_extractors(names: Sequence[str]) -> dict[str, Extractor]:
    """The extractors to run. Raises ValueError for a name that there is not, or whose package is missing."""
    if unknown := [name for name in names if name not in EXTRACTORS]:
        raise ValueError(f"--peers {unknown[0]}: no such extractor; there are: {', '.join(EXTRACTORS)}")
    found = {}
    for name, (extract, package) in EXTRACTORS.items():
        if names and name not in names:
            continue
        if find_spec(MODULES.get(package, package)) is not None:
            found[name] = extract
        elif names:
            raise ValueError(f"--peers {name}: {package} is not installed; pip install -e .[peers]")
        else:
            log.info("%s is not installed and left out; pip install -e .[peers]", package)
    return found


def table(results: Mapping[str, Any]) -> str:
    """The results as a Markdown table."""
    lines = ["| | text F1 | P | R | image F1 | P | R | documents/s |", "|---|---|---|---|---|---|---|---|"]
    for name, result in results.items():
        scores = [f"{result[kind][key]:.3f}" if result[kind]["f1"] else "" for kind in ("text", "image") for key in ("f1", "precision", "recall")]
        lines.append(f"| {name} | {' | '.join(scores)} | {result['documents_per_second']:.0f} |")
    return "\n".join(lines)


def main(settings: ExtractionConfig) -> None:
    set_up_logging()
    for name in ("trafilatura", "readability"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they tell of each page that they find odd
    articles, pages = read_articles(Path(settings.articles)), read_pages(Path(settings.pages))
    extractors = chosen_extractors(settings.peers)
    results = {}
    for name, extract in extractors.items():
        results[name] = measure(extract, articles, pages, rounds=settings.rounds)
        log.info("%s: %s", name, results[name])
    packages = {package: version(package) for package in sorted({EXTRACTORS[name][1] for name in extractors})}
    measured = {"extractors": results, "targets": TARGETS, "articles": len(articles), "pages": len(pages), "packages": packages}
    write_result(Path(settings.output), settings, measured)
    print(table(results))


if __name__ == "__main__":
    run_command(ExtractionConfig, main, description=__doc__.splitlines()[0])
