"""How near an extracted text and its images are to what a person marked on the page.

    texts  --words--> shingles of four, counted --> shares of a page that are right, wrong, missing --> means over pages
    images --names--> sets of a page -------------> right, wrong, missing -----------------------------> sums over pages

Text is scored as the article extraction benchmark does (evaluate.py of github.com/scrapinghub/article-extraction-benchmark,
2020), so that figures stand beside the published ones. Sums, not means, for images: most pages have few or none.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import NamedTuple
from urllib.parse import urlsplit

SHINGLE_WORDS = 4
WORD = re.compile(r"\w+")


class Counts(NamedTuple):
    """What is right, what is wrong and what is missing on a page."""

    right: float
    wrong: float
    missing: float


@dataclass(frozen=True)
class Score:
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """2 p r / (p + r), and 0 where both are 0."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """Runs of four words with their numbers; a text of fewer words is one run."""
    words = WORD.findall(text)
    return Counter(tuple(words[at : at + SHINGLE_WORDS]) for at in range(max(1, len(words) - SHINGLE_WORDS + 1)) if words)


def compare_texts(true: str, found: str) -> Counts:
    """Shingles in both, only in `found`, only in `true`, as shares of their sum, so that a long page weighs as much as a short one."""
    wanted, given = shingles(true), shingles(found)
    counts = ((wanted & given).total(), (given - wanted).total(), (wanted - given).total())
    total = sum(counts) or 1
    return Counts(*(count / total for count in counts))


def score_texts(pages: Sequence[Counts]) -> Score:
    """Precision averaged over the pages on which something was found, recall over those on which there was something to find."""
    return Score(
        precision=mean(page.right / (page.right + page.wrong) for page in pages if page.right + page.wrong),
        recall=mean(page.right / (page.right + page.missing) for page in pages if page.right + page.missing),
    )


def image_name(url: str) -> str:
    """The last part of the address's path: what stays when a page changes hosts and sizes. Empty for an inline image, which has no name."""
    if url.startswith("data:"):
        return ""
    try:
        return urlsplit(url.strip()).path.rstrip("/").rpartition("/")[2]
    except ValueError:  # no address
        return ""


def compare_images(true: Iterable[str], found: Iterable[Sequence[str]]) -> Counts:
    """Images in both, only found, only in the page's truth, by name; each name counts once.

    `found` gives the candidate addresses of each image, the best first: it is right if any of them has a true name.
    Inline images are left out on both sides.
    """
    wanted = {name for url in true if (name := image_name(url))}
    matched: set[str] = set()
    wrong: set[str] = set()
    for candidates in found:
        names = [name for url in candidates if (name := image_name(url))]
        right = wanted.intersection(names)
        matched |= right
        if names and not right:
            wrong.add(names[0])
    return Counts(len(matched), len(wrong), len(wanted) - len(matched))


def score_images(pages: Iterable[Counts]) -> Score:
    """Precision and recall of the images of all pages together; 0 where there are none."""
    right, wrong, missing = (sum(counts) for counts in zip(*pages, strict=True))
    return Score(precision=right / ((right + wrong) or 1), recall=right / ((right + missing) or 1))
