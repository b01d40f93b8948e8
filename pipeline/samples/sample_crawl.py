"""Entry point: a small crawl of an invented site, and labelled pictures of the same kind, from what the dependencies ship.

    digits, photographs --split--> pages --> sample.warc.gz
                             +---> train, test --> labelled/{colour,digit}/{train,test}/<class>/*.jpg, classes.json beside them

The same config gives the same bytes with the same versions of numpy, Pillow and zlib; the same command again makes what is missing.
"""

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from lcl.core.config import config, run_command, to_dict, write_run_record
from lcl.core.files import read_json, sync_folder, write_json
from lcl.core.logs import progress_bar, set_up_logging
from pipeline.samples.sample_pages import MIN_NUM_PAGES, compose_site, site_furniture
from pipeline.samples.sample_pictures import COLOURS, Split, Supply, draw_picture, encode_image, load_supplies
from pipeline.samples.sample_text import DIGIT_WORDS, zero_shot_templates
from pipeline.samples.write_crawl import Capture, write_crawl

log = logging.getLogger(__name__)

RENDER_PX = 192
LABELLED_PX = 96

OfEachClass = Annotated[int, Field(ge=10, multiple_of=10)]


@config
class SampleCrawlConfig:
    output: str
    """Folder for sample.warc.gz and labelled/."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The same seed gives the same files, byte for byte."""
    num_pages: Annotated[int, Field(ge=MIN_NUM_PAGES)] = 400
    """Different pages; duplicates and second captures come on top."""
    relevance: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Probability that the paragraph just before a picture, or its caption, says what is seen."""
    num_labelled_train: OfEachClass = 1500
    """Labelled pictures for a linear probe, the same number of each digit."""
    num_labelled_test: OfEachClass = 800
    """Labelled pictures to score with, from digits and strips of photographs of their own."""


def main(settings: SampleCrawlConfig) -> None:
    set_up_logging()
    output = Path(settings.output)
    claim_folder(output, settings)
    warc, labelled = output / "sample.warc.gz", output / "labelled"
    supplies = {} if warc.exists() and labelled.exists() else load_supplies()
    if not warc.exists():
        write_crawl(warc, site_captures(settings, supplies["pages"]), seed=settings.seed)
    if not labelled.exists():
        write_labelled(labelled, supplies, seed=settings.seed, counts={"train": settings.num_labelled_train, "test": settings.num_labelled_test})
    log.info("%s: %d pages, %.1f MB", warc, settings.num_pages, warc.stat().st_size / 1e6)
    log.info("%s: %d train, %d test", labelled, settings.num_labelled_train, settings.num_labelled_test)


def claim_folder(folder: Path, settings: SampleCrawlConfig) -> None:
    """Makes the folder and its run.json, which says whose it is. Raises ValueError if it holds anything made with other settings."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "run.json"
    made_with = read_json(record).get("config", {}) if record.exists() else {}
    changed = [key for key, value in to_dict(settings).items() if key != "output" and made_with.get(key) != value]
    if not changed:
        return
    if any(folder.iterdir()):
        what = f"a sample crawl with another {' and '.join(changed)}" if made_with else "files of something else"
        raise ValueError(f"{folder} holds {what}; give another --output, or remove that folder")
    write_run_record(folder, settings)


def site_captures(settings: SampleCrawlConfig, source: Supply) -> Iterator[Capture]:
    """Everything that the crawl got from the site, in order."""
    yield from site_furniture()
    with progress_bar("pages", total=settings.num_pages) as bar:
        for page in compose_site(source, seed=settings.seed, num_pages=settings.num_pages, relevance=settings.relevance):
            yield from page.captures
            bar.advance()


def write_labelled(folder: Path, supplies: Mapping[Split, Supply], *, seed: int, counts: Mapping[Split, int]) -> None:
    """Writes `counts` pictures of each split twice: sorted by the digit's colour, and by the digit. The folder is whole or absent.

    `<label>/<split>/<class>/*.jpg` and `<label>/classes.json`. Digits are balanced, and a class takes each of its glyphs as often as
    any other, give or take once; colours are drawn. Single files are not fsynced: that took 15 s of 23 for 2300 of them, and what
    a power cut breaks can be made again.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as aside, progress_bar("labelled", total=sum(counts.values())) as bar:
        whole = Path(aside) / folder.name
        words = {"colour": tuple(COLOURS), "digit": DIGIT_WORDS}
        for label, classes in words.items():
            for split in counts:
                for name in classes:
                    (whole / label / split / name).mkdir(parents=True)
            others = {slot: names for slot, names in words.items() if slot != label}
            write_json(whole / label / "classes.json", {"classes": list(classes), "templates": zero_shot_templates(label, others)})
        for turn, (split, count) in enumerate(counts.items()):
            source = supplies[split]
            for digit, word in enumerate(DIGIT_WORDS):
                rng = np.random.default_rng([seed, 2, turn, digit])
                glyphs = rng.permutation(source.glyphs[digit])
                for number in range(count // len(DIGIT_WORDS)):
                    picture, colour = draw_picture(rng, source, glyphs[number % len(glyphs)], width_px=RENDER_PX, height_px=RENDER_PX)
                    data = encode_image(picture.resize((LABELLED_PX, LABELLED_PX), Image.Resampling.LANCZOS), "jpg", quality=95)
                    for path in (whole / "colour" / split / colour, whole / "digit" / split / word):
                        (path / f"{word}-{number:04d}.jpg").write_bytes(data)
                    bar.advance()
        os.rename(whole, folder)
        sync_folder(folder.parent)


if __name__ == "__main__":
    run_command(SampleCrawlConfig, main, description=__doc__.splitlines()[0])
