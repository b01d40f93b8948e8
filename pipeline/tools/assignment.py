"""Which image belongs to which text: the bipartite matching of MMC4 (Zhu et al. 2023, arXiv:2304.06939, section 2).

    similarities (images x texts) --> images that reach the least one with any text --> matching of the largest sum --> images before their texts
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from lcl.core.document import ImageSegment, Segment, TextSegment
from lcl.core.text_units import TextUnit

UNMATCHED = -1


def nearest_texts(similarities: Float[np.ndarray, "images texts"]) -> Int[np.ndarray, " images"]:
    """The text of the largest similarity for each image, the first of equals; UNMATCHED where there is no text."""
    if not similarities.shape[1]:
        return np.full(len(similarities), UNMATCHED)
    return similarities.argmax(axis=1)


def match(similarities: Float[np.ndarray, "images texts"], *, images_per_text: int, least: float | None) -> Int[np.ndarray, " images"]:
    """The text of each image: the matching with the largest sum of similarities, among those that give as many images a text as can have one.

    A text has at most `images_per_text` images. Those whose similarity is below `least` with every text do not take part. Images without a
    text are UNMATCHED; a pair of the matching may still be below `least`.
    """
    found = np.full(len(similarities), UNMATCHED)
    if not similarities.size:
        return found
    taking_part = np.flatnonzero(similarities.max(axis=1) >= (-np.inf if least is None else least))
    places = np.repeat(np.arange(similarities.shape[1]), images_per_text)
    rows, columns = linear_sum_assignment(similarities[taking_part][:, places], maximize=True)
    found[taking_part[rows]] = places[columns]
    return found


def before_their_texts(images: Sequence[tuple[ImageSegment, int]], units: Sequence[TextUnit]) -> tuple[Segment, ...]:
    """The texts in their order, each image right before its text; images of one text in the given order.

    Units between two images are joined again as they were. The place before a text is what a trainer takes for "matched" (lcl/layout.py).
    """
    segments: list[Segment] = []
    for number, unit in enumerate(units):
        own = [image for image, text in images if text == number]
        segments += own
        if segments and isinstance(segments[-1], TextSegment):
            segments[-1] = TextSegment(segments[-1].text + unit.joint + unit.text)
        else:
            segments.append(TextSegment(unit.text))
    return tuple(segments)
