"""Queries against files of features, as one HTML page: each image or text with its nearest images.

    features.json --> queries (ids, image files, texts, or a sample) --> find_neighbours --> thumbnails from where the images are --> page
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from lcl.core.config import config
from lcl.core.document import PARAGRAPH_BREAK, sha256_hex
from lcl.core.files import open_aside
from lcl.core.html_page import page_at, page_template, thumbnail
from lcl.core.images import probe_image
from lcl.core.rejected import Rejected
from lcl.evals.zero_shot import text_features
from lcl.exports.folder import RECORD as EXPORT_RECORD
from lcl.features import Encoder, find_encoder, load_encoder, load_model
from lcl.use.embedded import RECORD, FeatureFiles, find_features
from lcl.use.image_features import pooled_latents
from lcl.use.image_sources import Source, open_source
from lcl.use.neighbours import Neighbours, find_neighbours

THUMBNAIL_PX = 150
MAX_TEXT = 160  # characters shown of a text before or behind an image


@config
class SearchConfig:
    features: str
    """Folder that `lcl embed` wrote."""
    output: str
    """The HTML file to write, or a folder for an index.html."""
    queries: tuple[str, ...] = ()
    """Images to look for: ids of the features (of a folder: paths below it), or image files from anywhere."""
    text: tuple[str, ...] = ()
    """Texts to look for, in the words of the pages that the encoder was trained on."""
    num_queries: Annotated[int, Field(ge=1)] = 12
    """Images drawn at random, where neither --queries nor --text are given."""
    num_neighbours: Annotated[int, Field(ge=1)] = 8
    seed: int = 0
    """Another seed draws other images."""
    encoder: str = ""
    """What made the features, to embed files and texts; needed where it has moved since."""
    input: tuple[str, ...] = ()
    """Where the images are; needed where they have moved since."""


@dataclass(frozen=True)
class Query:
    """What to look for. An image of the features has its row, a file its bytes, a text neither."""

    title: str
    vector: Float[np.ndarray, " width"]
    row: dict[str, Any] | None = None
    data: bytes = b""

    @property
    def sha256(self) -> str:
        return self.row["sha256"] if self.row else sha256_hex(self.data) if self.data else ""


def search(settings: SearchConfig) -> Path:
    """Writes the page and returns its path.

    Raises ValueError for an output that is another file, for queries that are nothing, for another encoder than that of the features, and for images that are not where they were.
    """
    path = Path(settings.output)
    path = page_at(path if path.suffix.lower() in (".html", ".htm") else path / "index.html")
    features = find_features(Path(settings.features))
    source = open_source(settings.input or tuple(features.record["input"]))
    if source.fingerprint != features.record["source"]:
        where = ", ".join(settings.input or features.record["input"])
        raise ValueError(f"{where} holds other images than {settings.features} is of: say with --input where those are, or embed again")
    queries = [*_images(features, settings), *_texts(features, settings)] if settings.queries or settings.text else _sample(features, settings)
    found = find_neighbours(np.stack([query.vector for query in queries]), features, num_neighbours=settings.num_neighbours, without=[query.sha256 for query in queries])
    page = page_template(Path(__file__).with_name("search.html")).render(
        cards=[_card(query, neighbours, source) for query, neighbours in zip(queries, found, strict=True)], record=features.record, name=Path(settings.features).resolve().name,
        sampled=not (settings.queries or settings.text), seed=settings.seed,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_aside(path) as file:
        file.write(page.encode("utf-8", "replace"))
    return path


def _sample(features: FeatureFiles, settings: SearchConfig) -> list[Query]:
    number = features.record["embedded"]
    chosen = np.sort(np.random.default_rng(settings.seed).choice(number, min(number, settings.num_queries), replace=False))
    found, start = [], 0
    for rows, pooled in features:
        for place in chosen[(chosen >= start) & (chosen < start + len(rows))] - start:
            row = rows.slice(place, 1).to_pylist()[0]
            found.append(Query(row["id"], pooled[place], row))
        start += len(rows)
    if not found:
        raise ValueError(f"{settings.features} holds no features: all of its images were rejected, {RECORD} says why")
    return found


def _images(features: FeatureFiles, settings: SearchConfig) -> list[Query]:
    """The queries that are ids, then those that are files, in the order in which they were given."""
    known: dict[str, Query] = {}
    for rows, pooled in features if settings.queries else ():
        ids = rows["id"].to_numpy()
        for place in np.flatnonzero(np.isin(ids, settings.queries)):
            known.setdefault(ids[place], Query(ids[place], pooled[place], rows.slice(place, 1).to_pylist()[0]))
    files = [query for query in settings.queries if query not in known]
    for query in files:
        if not Path(query).is_file():
            raise ValueError(f"--queries {query}: no image of {settings.features} has this id, and there is no such file")
    return [known[query] for query in settings.queries if query in known] + (_files(files, features, settings) if files else [])


def _files(files: Sequence[str], features: FeatureFiles, settings: SearchConfig) -> list[Query]:
    encoder = _checked(load_encoder(_place(features, settings), weights=features.record["weights"]), features, settings)
    data, inputs = [Path(file).read_bytes() for file in files], []
    for file, image in zip(files, data, strict=True):
        try:
            inputs.append(encoder.settings.vision.evaluation_input(image))
        except Rejected as rejected:
            raise ValueError(f"--queries {file} cannot be read as an image ({rejected})") from rejected
    return [Query(file, vector, data=image) for file, vector, image in zip(files, pooled_latents(encoder, inputs), data, strict=True)]


def _texts(features: FeatureFiles, settings: SearchConfig) -> list[Query]:
    """Texts as zero-shot classification reads them (lcl/zero_shot.py)."""
    if not settings.text:
        return []
    place = _place(features, settings)
    if place.is_file() or (place / EXPORT_RECORD).exists():
        raise ValueError(f"{place} has no language model, so --text needs --encoder with the checkpoint that it was made from")
    model, tokenizer = load_model(place, weights=features.record["weights"])
    _checked(Encoder(model), features, settings)
    vectors = text_features(model, tokenizer, settings.text).float().numpy()
    return [Query(text, vector) for text, vector in zip(settings.text, vectors, strict=True)]


def _place(features: FeatureFiles, settings: SearchConfig) -> Path:
    return find_encoder(Path(settings.encoder or features.record["checkpoint"]))


def _checked(encoder: Encoder, features: FeatureFiles, settings: SearchConfig) -> Encoder:
    """The encoder, if it made the features. Raises ValueError for another one."""
    torch.set_num_threads(1)
    if encoder.fingerprint != features.record["encoder"]:
        raise ValueError(f"{_place(features, settings)} did not make the features of {settings.features}: give with --encoder what did")
    return encoder


def _card(query: Query, neighbours: Neighbours, source: Source) -> dict[str, Any]:
    """All that the template shows of a query."""
    if query.row:
        image = _picture(query.row, source)
    elif query.data:
        width, height = probe_image(query.data).size
        image = {"thumbnail": thumbnail(query.data, height_px=THUMBNAIL_PX), "width": width, "height": height}
    else:
        image = None
    nearest = [{"similarity": item.similarity, **_picture(item.row, source)} for item in neighbours.nearest]
    return {"title": query.title, "image": image, "nearest": nearest, "mean": neighbours.mean}


def _picture(row: dict[str, Any], source: Source) -> dict[str, Any]:
    """The image of a row with what stands next to it. Raises ValueError if its bytes are not those that were embedded."""
    shown = source.show(row)
    if sha256_hex(shown.data) != row["sha256"]:
        raise ValueError(f"{row['source']}/{row['id']} has changed since it was embedded: embed again")
    end, start = shown.before.split(PARAGRAPH_BREAK)[-1], shown.behind.split(PARAGRAPH_BREAK)[0]
    shown = replace(shown, before=end if len(end) <= MAX_TEXT else f"… {end[-MAX_TEXT:]}", behind=start if len(start) <= MAX_TEXT else f"{start[:MAX_TEXT]} …")
    return {**row, "thumbnail": thumbnail(shown.data, height_px=THUMBNAIL_PX), "shown": shown}
