"""Entry point: a crawl of an invented site around labelled photographs, with as much said of them as asked for.

    python pipeline/samples/compose_pages.py --photos clothes.tar --split train --output pages --relevance 0.5

For studies of what an encoder learns from pages: photographs of one split alone are used, so that the others stay unseen.
"""

import hashlib
import logging
import tarfile
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
from pydantic import Field

from lcl.core.config import claim_folder, config, run_command
from lcl.core.files import files_below, write_json
from lcl.core.logs import set_up_logging
from pipeline.samples.photo_pages import Mix, Photo, compose_pages, zero_shot_spec
from pipeline.samples.write_crawl import write_crawl

log = logging.getLogger(__name__)

ENDINGS = {".jpg", ".jpeg", ".png"}
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


@config
class ComposePagesConfig:
    photos: str
    """Folder or tar file with photographs as SPLIT/CLASS/*.jpg (or .png)."""
    split: str = "train"
    """The split whose photographs are used."""
    output: str
    """Folder for pages.warc.gz, and classes.json for zero-shot evaluation in the words of the pages."""
    max_photos: Annotated[int, Field(ge=0)] = 0
    """Photographs to use, drawn by the seed; 0: all."""
    relevance: Probability = 0.5
    """Probability that the sentence before a photograph names what it shows, and likewise its caption."""
    images_per_page: tuple[Positive, Positive] = (3, 6)
    """Least and most photographs on a page."""
    pair_share: Probability = 0.0
    """Photographs that stand alone, on pages of one picture and one sentence."""
    appearances: Positive = 4
    """Pages on which each photograph stands, with other sentences each time."""
    seed: Annotated[int, Field(ge=0)] = 0


def main(settings: ComposePagesConfig) -> None:
    set_up_logging()
    if settings.images_per_page[0] > settings.images_per_page[1]:
        raise ValueError(f"--images-per-page {settings.images_per_page[0]} {settings.images_per_page[1]}: give the smaller number first")
    photos = choose(read_photos(Path(settings.photos), split=settings.split), settings.max_photos, seed=settings.seed)
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    claim_folder(output, settings, free=("output", "photos"), what="pages", photos_used=fingerprint(photos))
    warc = output / "pages.warc.gz"
    if not warc.exists():
        mix = Mix(settings.relevance, settings.images_per_page, settings.pair_share, settings.appearances)
        write_crawl(warc, compose_pages(photos, mix, seed=settings.seed), seed=settings.seed)
    write_json(output / "classes.json", zero_shot_spec(sorted({photo.label for photo in photos})))
    log.info("%s: %d photographs of %d classes, %.1f MB", warc, len(photos), len({photo.label for photo in photos}), warc.stat().st_size / 1e6)


def fingerprint(photos: list[Photo]) -> str:
    """SHA-256 of the photographs' bytes and labels, in order."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(f"{photo.label}\n{hashlib.sha256(photo.data).hexdigest()}\n".encode())
    return digest.hexdigest()


def choose(photos: list[Photo], num: int, *, seed: int) -> list[Photo]:
    """`num` of the photographs, or all if it is 0. More photographs of the same seed hold all of fewer. Raises ValueError if there are not as many."""
    if num > len(photos):
        raise ValueError(f"--max-photos {num}: there are {len(photos)}")
    places = np.random.default_rng([seed, 2]).permutation(len(photos))[: num or len(photos)]
    return [photos[place] for place in sorted(places.tolist())]


def read_photos(path: Path, *, split: str) -> list[Photo]:
    """The photographs of one split, in the order of their names. Raises ValueError if there are none."""
    if path.is_dir():
        found = [(PurePosixPath(file.relative_to(path)), file.read_bytes()) for file in files_below(path) if file.suffix.lower() in ENDINGS and split in file.parts]
    elif path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile() and PurePosixPath(member.name).suffix.lower() in ENDINGS and split in PurePosixPath(member.name).parts]
            found = [(PurePosixPath(member.name), archive.extractfile(member).read()) for member in members]
    else:
        raise ValueError(f"--photos {path}: neither a folder nor a tar file")
    photos = [Photo(name.name, name.parent.name, data) for name, data in sorted(found, key=lambda one: str(one[0])) if name.parts[-3:-2] == (split,)]
    if not photos:
        raise ValueError(f"--photos {path} holds no {split}/CLASS/*.jpg; give another --split, or a set with its images sorted so")
    return photos


if __name__ == "__main__":
    run_command(ComposePagesConfig, main, description=__doc__.splitlines()[0])
