"""LCL's own task on documents: which image stands here, from the text and images before it.

    shards --the layout of training (lcl/layout.py)--> pieces --> model --> context vector at each <soi>, pooled latent of each image
        context vectors  --cosine-->  latents of all images of the set, or of the same document
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from lcl.core.config import config
from lcl.core.document import Document
from lcl.core.images import decode_image
from lcl.core.logs import progress_bar
from lcl.core.rejected import Rejected
from lcl.core.shards import ShardSet
from lcl.core.tokenizer import Tokenizer
from lcl.evals.evaluated import CONTROLS, Control, EvaluatedModel
from lcl.evals.feature_cache import one_thread
from lcl.evals.intervals import clustered_bootstrap, exact
from lcl.evals.results import Predictions, Result, Row, by_metric
from lcl.evals.retrieval import TIE, TOP, ranks, recall_rows
from lcl.layout import LayoutConfig, Setting, lay_out
from lcl.model import LCL
from lcl.rows import NO_CONTEXT, ImageInput, Piece, SpecialIds, collate
from lcl.rows import Row as TokenRow
from lcl.vision import VisionConfig, normalise

WAY = "context to image"
IMAGES = 64  # that are encoded at a time, and what one piece has more


@config
class ContextRetrievalConfig:
    candidates: Literal["set", "document"] = "set"
    """What a context chooses from: all images of the set, or those of its own document (documents of one image are left out)."""
    max_documents: Annotated[int, Field(ge=0)] = 0
    """Documents that are read, the first ones; 0: all."""
    row_length: Annotated[int, Field(ge=0)] = 0
    """Tokens of a piece, as in training; 0: the model's context length."""
    layout: LayoutConfig = LayoutConfig()
    """As in training; crops and mirroring do not count, for images are cut as in evaluation."""


@dataclass(frozen=True)
class Contexts:
    """Context vectors with what they are of, and one latent for each image of different bytes in each document."""

    vectors: Float[Tensor, "contexts embed"]
    images: Int[np.ndarray, " contexts"]          # identity of the image that stands there
    documents: Int[np.ndarray, " contexts"]
    names: Sequence[str]
    latents: Float[Tensor, "latents embed"]
    latent_images: Int[np.ndarray, " latents"]
    latent_documents: Int[np.ndarray, " latents"]


def evaluate_context_retrieval(
    model: EvaluatedModel, shards: Sequence[Path], *, seed: int = 0, controls: Sequence[Control] = CONTROLS, settings: ContextRetrievalConfig = ContextRetrievalConfig()
) -> Result:
    """R@1, R@5, R@10 and the median rank of the image at each <soi> among the candidates, for the trained model and at its random start.

    An image without context (nothing before it) asks for nothing but is a candidate; images of the same bytes count as one. Raises ValueError if no context
    has a choice, and for an image that cannot be decoded.
    """
    model.require_text("context retrieval")
    began = time.perf_counter()
    source = ShardSet(list(shards))
    number = min(len(source), settings.max_documents or len(source))
    rows: list[Row] = []
    predictions = []
    with one_thread():
        for subject in model.encoders(controls, seed=seed):
            contexts = _embed(*subject.loaded, source, number, settings, title=subject.name)
            found, nearest, num_candidates, asked = _ranks(contexts, within_document=settings.candidates == "document")
            documents = [str(document) for document in contexts.documents[asked]]
            rows += recall_rows(subject.name, WAY, found, documents, of="documents")
            rows.append(Row(subject.name, "median rank", clustered_bootstrap(found.astype(np.float64), documents, of="documents", statistic="median"), unit="rank"))
            labels, names = (_hex(images) for images in (contexts.images[asked], nearest))
            predictions.append(Predictions(subject.name, f"{WAY} R@1", [contexts.names[place] for place in asked], labels, names, found == 1, found, clusters=documents))
    rows += [Row("chance", f"{WAY} R@{k}", exact(float(np.minimum(1, k / num_candidates).mean()), len(asked))) for k in TOP]
    rows.append(Row("chance", "median rank", exact(float(np.median((num_candidates + 1) / 2)), len(asked)), unit="rank"))
    dataset: dict[str, Any] = {
        "name": ", ".join(path.name for path in shards), "index_sha256": source.fingerprint, "documents": number, "contexts": len(contexts.vectors),
        "images": len(np.unique(contexts.latent_images)),
    }  # fmt: skip
    protocol = {
        "context": "output at <soi>, of a piece laid out as in training", "candidates": settings.candidates, "ties": f"against the model, within {TIE:g}",
        "settings": {"max_documents": settings.max_documents, "row_length": _length(settings, model.settings.text.context_length), "max_images": settings.layout.max_images, "near_tokens": settings.layout.near_tokens},
        "preprocessing": model.preprocessing(), "score": "rank of the image", "same_image": "equal stored bytes",
    }  # fmt: skip
    left = len(contexts.vectors) - len(asked)
    return Result(
        task=f"context retrieval ({settings.candidates})", dataset=dataset, model=model.record(), protocol=protocol, rows=by_metric(rows), predictions=predictions, seeds=[seed],
        seconds=time.perf_counter() - began, left_out=[f"{left} contexts of documents with one image"] if left else [],
    )  # fmt: skip


def _length(settings: ContextRetrievalConfig, context_length: int) -> int:
    return min(settings.row_length or context_length, context_length)


def _ranks(
    contexts: Contexts, *, within_document: bool
) -> tuple[Int[np.ndarray, " asked"], Int[np.ndarray, " asked"], Int[np.ndarray, " asked"], Int[np.ndarray, " asked"]]:
    """Rank of the right image, identity of the nearest, number of candidates, and which contexts asked."""
    if not within_document:
        images, first = np.unique(contexts.latent_images, return_index=True)
        if len(images) < 2 or not len(contexts.vectors):
            raise ValueError("these documents hold fewer than two images, or none with a context; give shards of more documents")
        found, nearest = ranks(contexts.vectors, contexts.latents[first], torch.from_numpy(contexts.images), torch.from_numpy(images))
        return found, images[nearest], np.full(len(found), len(images)), np.arange(len(found))
    parts = []
    for document in np.unique(contexts.documents):
        asked, offered = np.flatnonzero(contexts.documents == document), np.flatnonzero(contexts.latent_documents == document)
        if len(offered) < 2:
            continue
        images = contexts.latent_images[offered]
        found, nearest = ranks(contexts.vectors[asked], contexts.latents[offered], torch.from_numpy(contexts.images[asked]), torch.from_numpy(images))
        parts.append((found, images[nearest], np.full(len(found), len(images)), asked))
    if not parts:
        raise ValueError("no document holds two images of which one has a context; give --retrieval.candidates set, or other shards")
    found, nearest, num_candidates, asked = (np.concatenate(column) for column in zip(*parts, strict=True))
    return found, nearest, num_candidates, asked


@torch.no_grad()
def _embed(model: LCL, tokenizer: Tokenizer, source: ShardSet, number: int, settings: ContextRetrievalConfig, *, title: str) -> Contexts:
    text = model.settings.text
    setting = Setting(tokenizer, "document", settings.layout, _length(settings, text.context_length), model.settings, evaluation=True)
    vectors, latents, names = [], [], []
    images: list[int] = []
    documents: list[int] = []
    latent_of: dict[tuple[int, int], int] = {}  # (document, image) to its place among all latents
    chosen: list[int] = []
    seen = 0
    with progress_bar(f"contexts, {title}", total=number) as bar:
        for group in _groups(source, number, setting, bar):
            rows = [TokenRow((piece,), inputs) for _, _, piece, inputs in group]
            batch = collate(rows, row_length=max(len(piece) for _, _, piece, _ in group), special=SpecialIds.of(tokenizer)).to(model.logit_scale.device)
            read, encoded = model.read_rows(batch, normalise(batch.images, dtype=model.logit_scale.dtype))
            vectors.append(read.contexts.float().cpu())
            latents.append(encoded.pooled.float().cpu())
            for document, name, piece, _ in group:
                for place in piece.images:
                    if (document, place.image_id) not in latent_of:
                        latent_of[document, place.image_id] = len(chosen)
                        chosen.append(seen)
                    seen += 1
                    if place.context != NO_CONTEXT:
                        images.append(place.image_id)
                        documents.append(document)
                        names.append(f"{name}/{place.image}")
    if not seen:
        raise ValueError("these shards hold no image; contexts are read before images")
    keys = np.array(list(latent_of), dtype=np.int64)
    return Contexts(torch.cat(vectors), np.array(images, dtype=np.int64), np.array(documents, dtype=np.int64), names, torch.cat(latents)[chosen], keys[:, 1], keys[:, 0])


def _groups(source: ShardSet, number: int, setting: Setting, bar: Any) -> Iterator[list[tuple[int, str, Piece, tuple[ImageInput, ...]]]]:
    """Pieces with images, with their document's number and key, some images at a time. What is together follows from the documents alone."""
    group: list[tuple[int, str, Piece, tuple[ImageInput, ...]]] = []
    for index in range(number):
        document = source.read(index)
        random = np.random.default_rng([0, index])  # for sources without page order, where an image's place is drawn
        for piece in lay_out(document, setting, random):
            if piece.images:
                group.append((index, document.key, piece, _inputs(document, piece, setting.model.vision)))
            if sum(len(inputs) for *_, inputs in group) >= IMAGES:
                yield group
                group = []
        bar.advance()
    if group:
        yield group


def _inputs(document: Document, piece: Piece, vision: VisionConfig) -> tuple[ImageInput, ...]:
    try:
        images = [decode_image(document.images[place.image].data, draft_px=None) for place in piece.images]
    except Rejected as rejected:
        raise ValueError(f"an image of document {document.key} cannot be decoded ({rejected}); `lcl verify --decode True` says which") from rejected
    return tuple(vision.input_of(image, place.crop) for image, place in zip(images, piece.images, strict=True))


def _hex(identities: Int[np.ndarray, " n"]) -> list[str]:
    return [f"{identity & (1 << 64) - 1:016x}" for identity in identities.tolist()]
