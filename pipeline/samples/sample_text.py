"""The words of the sample crawl's invented site: titles, filler, and the sentences that name what a picture shows.

There are few sentences, and they recur on many pages. With thousands of different ones a small language model learned the
pages by heart, what each picture shows included, before it learned to look at the pictures (docs/demo.md).

No filler holds a digit word, so that one in the text either names a picture or is counted noise. All letters are in Latin-1, so
that every page can be written in any of the charsets used.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOISE_RATE = 0.03  # the share of filler sentences that name a digit which is not the next picture's


@dataclass(frozen=True)
class Topic:
    """One part of the site: its folder, the title of its pages, and the filler of its paragraphs."""

    slug: str
    title: str
    filler: tuple[str, ...]


TOPICS = (
    Topic(
        "harbour",
        "A slow walk round the harbour",
        (
            "The harbour was quiet early in the morning.",
            "Gulls sat on the sea wall and waited for the boats.",
            "We followed the quay as far as the lighthouse.",
            "An old sailor told us how things used to be.",
            "There was a cold wind, so we stayed close to the boatyard.",
            "The nets were stacked against a wall of brick.",
        ),
    ),
    Topic(
        "garden",
        "Notes from the walled garden",
        (
            "The greenhouse smelled of wet earth and tomatoes.",
            "A neighbour pruned the roses while we looked at the beans.",
            "The path along the orchard wall is easy to miss.",
            "After the rain the whole garden was full of snails.",
            "We counted the tulips for a while and then gave up.",
            "The gate is made of oak and never quite closes.",
        ),
    ),
    Topic(
        "cafe",
        "A rainy day at the corner café",
        (
            "It rained all day, and nobody seemed to mind.",
            "The windows were fogged and the chairs were full.",
            "We had strong coffee and a slice of plum cake.",
            "Somebody was whistling behind the counter.",
            "The postman came in, shook out his umbrella and sat down.",
            "In autumn the light in here is softer than people expect.",
        ),
    ),
    Topic(
        "trains",
        "Small stations on the branch line",
        (
            "The branch line follows the river for half an hour.",
            "A guard in a blue coat checked the tickets.",
            "We missed the connection and read the timetable instead.",
            "The station clock was slow, as it has been for years.",
            "Bicycles and mail sacks stood on the far platform.",
            "From the footbridge you can see the engine shed.",
        ),
    ),
)

HEADINGS = ("A little further on", "What else there was", "In the afternoon")
PLAIN_CAPTIONS = ("Photograph: Zoë.", "Taken in the afternoon.", "From our album.")
ALTERNATIVE_TEXTS = ("", "", "photo", "a picture from our visit")
NOISE = ("We took tram number {digit} on the way back.", "Ask for table {digit} by the window.", "Page {digit} of the guide is missing.")
MENTIONS = (
    "On the wall someone had painted a {colour} {digit}.",
    "The next photograph shows the number {digit} in {colour}.",
    "Here you can see a large {colour} {digit}.",
    "Somebody had drawn the figure {digit} in {colour} paint.",
)
CAPTIONS = ("The digit {digit} in {colour}.", "A {colour} {digit}, as we found it.")


def zero_shot_templates(label: str, others: Mapping[str, Sequence[str]]) -> list[str]:
    """MENTIONS with braces in the place of `label` and each of the words of the other slot in its place, for zero-shot evaluation."""
    ((slot, words),) = others.items()
    return [template.replace(f"{{{label}}}", "{}").replace(f"{{{slot}}}", word) for template in MENTIONS for word in words]


def write_filler(rng: np.random.Generator, topic: Topic, *, num_sentences: int, not_digit: int | None = None) -> str:
    """A paragraph of `num_sentences` distinct filler sentences, at most as many as the topic has.

    With probability NOISE_RATE each, a sentence names a digit, never `not_digit`: what it says of the next picture is wrong.
    """
    digits = [word for digit, word in enumerate(DIGIT_WORDS) if digit != not_digit]
    sentences = rng.permutation(topic.filler)[:num_sentences].tolist()
    return " ".join(_fill(draw(rng, NOISE), {"digit": draw(rng, digits)}) if rng.random() < NOISE_RATE else sentence for sentence in sentences)


def write_mention(rng: np.random.Generator, *, digit: int, colour: str, as_caption: bool = False) -> str:
    """A sentence that names the digit by its word, and its colour."""
    return _fill(draw(rng, CAPTIONS if as_caption else MENTIONS), {"digit": DIGIT_WORDS[digit], "colour": colour})


def draw(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """One of `choices`, each as likely as any other."""
    return choices[int(rng.integers(len(choices)))]


def _fill(template: str, words: Mapping[str, str]) -> str:
    """The template with a word for each of its slots, and `an` for `a` where the next one asks for it."""
    text = re.sub(r"\{(\w+)\}", lambda match: words[match[1]], template)
    return re.sub(r"\b([Aa])(?= (?!one\b)[aeiou])", r"\1n", text)
