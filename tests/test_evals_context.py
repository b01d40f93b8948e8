"""Context retrieval on shards against a plain loop, with the contexts of training."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lcl.core.shards import ShardSet
from lcl.evals.context_retrieval import ContextRetrievalConfig, evaluate_context_retrieval
from lcl.evals.evaluated import EvaluatedModel
from lcl.layout import LayoutConfig, Setting, lay_out
from lcl.rows import NO_CONTEXT, Row, SpecialIds, collate
from lcl.vision import normalise
from tests.made_checkpoint import made_checkpoint
from tests.made_documents import document
from tests.made_shards import made_image, made_set


@pytest.fixture(scope="module", params=["vit", "naflex"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EvaluatedModel:
    return EvaluatedModel.open(made_checkpoint(tmp_path_factory.mktemp("model") / request.param, kind=request.param))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images 1 to 6, of which 1 stands in three documents and twice in one; a first image without context, and a document longer than a row."""
    parts = [
        ["Apples.", made_image(1), "Pears.", made_image(2)],
        [made_image(3), "After it.", made_image(1), made_image(1), "Plums."],
        ["No image here."],
        ["Long text. " * 12, made_image(4), "More words. " * 12, made_image(5), made_image(1)],
        ["Only one.", made_image(6)],
    ]
    return made_set(tmp_path_factory.mktemp("shards"), [document(*given, key=f"{number:032x}") for number, given in enumerate(parts)], per_shard=2)


def plainly(model: EvaluatedModel, folder: Path, *, within_document: bool) -> list[int]:
    """The rank of each image with a context, one document, piece and image at a time."""
    lcl, tokenizer = model.trained().loaded
    setting = Setting(tokenizer, "document", LayoutConfig(), 64, lcl.settings, evaluation=True)
    contexts, latents = [], {}
    for number, one in enumerate(ShardSet([folder])):
        for piece in lay_out(one, setting, np.random.default_rng(0)):
            inputs = tuple(lcl.settings.vision.evaluation_input(one.images[place.image].data) for place in piece.images)
            batch = collate([Row((piece,), inputs)], row_length=64, special=SpecialIds.of(tokenizer))
            with torch.no_grad():
                read, encoded = lcl.read_rows(batch, normalise(batch.images, dtype=torch.float32))
            contexts += [(number, place.image_id, vector) for place, vector in zip([p for p in piece.images if p.context != NO_CONTEXT], read.contexts, strict=True)]
            latents |= {(number if within_document else 0, place.image_id): vector for place, vector in zip(piece.images, encoded.pooled, strict=True)}
    ranks = []
    for number, image, vector in contexts:
        offered = {key[1]: latent for key, latent in latents.items() if not within_document or key[0] == number}
        if len(offered) > 1:
            scores = {key: float(torch.cosine_similarity(vector, latent, dim=0)) for key, latent in offered.items()}
            ranks.append(1 + sum(score >= scores[image] for key, score in scores.items() if key != image))
    return ranks


@pytest.mark.parametrize("candidates", ["set", "document"])
def test_ranks_equal_a_plain_loop(model: EvaluatedModel, shards: Path, candidates: str) -> None:
    result = evaluate_context_retrieval(model, [shards], settings=ContextRetrievalConfig(candidates=candidates))
    ranks = plainly(model, shards, within_document=candidates == "document")
    trained = next(one for one in result.predictions if one.model == "trained encoder")
    assert list(trained.scores) == ranks and len(ranks) == (8 if candidates == "set" else 7)
    assert result.value("trained encoder", "context to image R@1") == pytest.approx(np.mean(np.array(ranks) == 1))
    assert result.value("trained encoder", "median rank") == np.median(ranks)
    assert result.dataset["images"] == 6 and result.dataset["contexts"] == 8, "images of the same bytes are one; the first of a page asks for nothing"
    if candidates == "set":
        assert result.value("chance", "context to image R@1") == pytest.approx(1 / 6) and not result.left_out
    else:
        assert result.left_out == ["1 contexts of documents with one image"]


def test_fewer_documents_and_sets_without_a_choice(model: EvaluatedModel, shards: Path, tmp_path: Path) -> None:
    assert evaluate_context_retrieval(model, [shards], settings=ContextRetrievalConfig(max_documents=1), controls=()).dataset["contexts"] == 2
    with pytest.raises(ValueError, match="hold no image"):
        evaluate_context_retrieval(model, [made_set(tmp_path / "a", [document("Words.")])])
    with pytest.raises(ValueError, match="fewer than two images, or none with a context"):
        evaluate_context_retrieval(model, [made_set(tmp_path / "b", [document("One.", made_image(1))])])
    with pytest.raises(ValueError, match="no document holds two images"):
        evaluate_context_retrieval(model, [made_set(tmp_path / "c", [document("One.", made_image(1))])], settings=ContextRetrievalConfig(candidates="document"))


def test_random_weights_are_at_chance(shards: Path, tmp_path: Path) -> None:
    model = EvaluatedModel.open(made_checkpoint(tmp_path / "model"))
    many = made_set(tmp_path / "many", [document(f"Words of {number}.", made_image(number), key=f"{number:032x}") for number in range(60)])
    result = evaluate_context_retrieval(model, [many])
    assert abs(result.value("random weights", "context to image R@10") - result.value("chance", "context to image R@10")) < 0.15
