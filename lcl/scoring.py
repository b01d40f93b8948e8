"""Shards to files of scores: similarities of every image with every text of its document, or one score of each image.

    shard --> documents, some hundred images at a time --> vectors --> cosines --> scores-000000.parquet, whole when it is there
    all parts --> scores.json, written last
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from lcl.core.config import claim_folder, config, versions
from lcl.core.document import Document, content_hash
from lcl.core.files import locked_folder
from lcl.core.logs import progress_bar
from lcl.core.rejected import Rejected
from lcl.core.scores import NO, commit_scores, score_rows, write_score_file
from lcl.core.shards import ShardSet
from lcl.core.text_units import Unit, text_units
from lcl.features import Weights
from lcl.onnx_scorer import OnnxConfig, OnnxScorer
from lcl.scorers import Device, RunScorer, Scorer, cosines

FREE_SETTINGS = ("shards", "output")  # that decide no byte beside the fingerprints
ITEMS = 512  # images and texts that are in memory together, and what one document more has


@config
class ScoreConfig:
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of shards, or selections of them."""
    output: str
    """Folder for the scores; a run that was interrupted continues there."""
    checkpoint: str = ""
    """A run folder (its newest checkpoint) or one checkpoint (step-N, or one of `lcl import-published`): similarities by its zero-shot features."""
    weights: Weights = "model"
    """Weights of the last step, or their moving average."""
    onnx: OnnxConfig = OnnxConfig()
    """In the place of --checkpoint: an image and a text model for similarities, or an image model that gives a score, such as of NSFW."""
    unit: Unit = "paragraph"
    """What is a text: a paragraph, or a sentence (MMC4)."""
    device: Device = "cpu"


def score_set(settings: ScoreConfig) -> dict[str, Any]:
    """Writes the scores of all documents and returns the record.

    Raises ValueError if the output holds something else, and as the scorers do.
    """
    scorer = _open_scorer(settings)
    source = ShardSet([Path(folder) for folder in settings.shards])
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    with locked_folder(output), progress_bar("documents", total=len(source)) as bar:
        claim_folder(output, settings, free=FREE_SETTINGS, what="scores", source=source.fingerprint, model=scorer.fingerprint)
        files = [output / f"scores-{number:06d}.parquet" for number in range(len(source.shards))]
        for number, file in enumerate(files):
            places = range(source.starts[number], source.starts[number + 1])
            if not file.exists():
                write_score_file(file, _score_documents((source.read(place) for place in places), scorer, settings.unit))
            bar.advance(len(places))
        record = {
            "kind": scorer.kind, **({"unit": settings.unit} if scorer.kind == "pairs" else {}), "source": source.fingerprint, "model": scorer.fingerprint,
            "documents": len(source), "versions": versions(("lcl", "torch", "onnxruntime", "numpy", "pillow", "tokenizers")),
        }  # fmt: skip
        commit_scores(output, files, record)
    return record


def _open_scorer(settings: ScoreConfig) -> Scorer:
    if bool(settings.checkpoint) == bool(settings.onnx.image):
        raise ValueError("give either --checkpoint, a run of `lcl pretrain` or `lcl import-published`, or --onnx.image, a file that onnxruntime runs")
    if settings.checkpoint:
        return RunScorer(Path(settings.checkpoint), weights=settings.weights, device=settings.device)
    return OnnxScorer(settings.onnx, device=settings.device)


def _score_documents(documents: Iterator[Document], scorer: Scorer, unit: Unit) -> Iterator[pa.Table]:
    """The rows of each document in turn. What is encoded together depends on the documents alone, so numbers do not depend on interruptions."""
    together: list[tuple[Document, list[str]]] = []
    num_items = 0
    for document in documents:
        texts = [item.text for item in text_units(document, unit)] if scorer.kind == "pairs" and document.images else []
        together.append((document, texts))
        num_items += len(document.images) + len(texts)
        if num_items >= ITEMS:
            yield from _score_together(together, scorer)
            together, num_items = [], 0
    yield from _score_together(together, scorer)


def _score_together(together: list[tuple[Document, list[str]]], scorer: Scorer) -> Iterator[pa.Table]:
    scored = [(document, texts) for document, texts in together if document.images and (texts or scorer.kind == "images")]
    if not scored:
        return
    try:
        images = scorer.of_images([image.data for document, _ in scored for image in document.images])
    except Rejected as rejected:
        keys = f"{scored[0][0].key} ... {scored[-1][0].key}"
        raise ValueError(f"an image of the documents {keys} cannot be decoded ({rejected}); `lcl verify --decode True` says which") from rejected
    image_ends = np.cumsum([len(document.images) for document, _ in scored])
    texts = scorer.of_texts([text for _, texts in scored for text in texts]) if scorer.kind == "pairs" else np.zeros((0, images.shape[1]))
    if texts.shape[1] != images.shape[1]:
        raise ValueError(f"images have vectors of {images.shape[1]} numbers, texts of {texts.shape[1]}: give the two halves of one model")
    text_ends = np.cumsum([len(own) for _, own in scored])
    for (document, own), images_of, texts_of in zip(scored, np.split(images, image_ends[:-1]), np.split(texts, text_ends[:-1]), strict=True):
        values = cosines(images_of, texts_of) if scorer.kind == "pairs" else images_of
        yield score_rows(document.key, values, texts=range(len(own)) if scorer.kind == "pairs" else [NO], content=content_hash(document))
