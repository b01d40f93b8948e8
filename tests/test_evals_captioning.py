"""Caption metrics by hand and by their laws, the decoder against a plain loop, and captions that can and cannot be known."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl import eval_captioning
from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.evals.caption_decoder import Captioner, DecoderConfig, token_nats
from lcl.evals.caption_metrics import bleu, cider_d, words
from lcl.evals.captioning import CaptioningConfig, caption_nats, captions_of, evaluate_captioning, tokens_of
from lcl.evals.evaluated import EvaluatedModel
from lcl.evals.examples import Examples
from lcl.evals.feature_cache import FeatureCache
from lcl.evals.image_sets import ImageSet, open_image_set
from lcl.evals.results import read_result
from tests.made_checkpoint import made_checkpoint, made_pictures, write_files

DECODER = DecoderConfig(tokenizer=TokenizerConfig(num_merges=50), width=32, layers=1, heads=2, max_tokens=12)
QUICK = CaptioningConfig(decoder=DECODER, learning_rate=1e-2, steps=60, batch=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_files(tmp_path_factory.mktemp("images") / "colours", made_pictures({"train": 12, "validation": 3, "test": 8}))
    (path / "classes.json").write_text('{"templates": ["it is {}", "so {}"]}')
    return path


@pytest.fixture(scope="module")
def images(folder: Path) -> ImageSet:
    return open_image_set(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedModel:
    return EvaluatedModel.open(made_checkpoint(tmp_path_factory.mktemp("model") / "step-000007"))


# metrics


def test_words() -> None:
    assert words("A dog's ball, on THE mat.") == ["a", "dog's", "ball", "on", "the", "mat"] and words("...") == []


def test_bleu_by_hand() -> None:
    """the cat sat on the mat / the cat sat on a mat: 5/6 words, 3/5 pairs, 2/4 triples, 1/3 fours, no penalty."""
    found = bleu(["the cat sat on the mat"], [["the cat sat on a mat"]])
    assert found.value == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    short = bleu(["the cat sat on"], [["the cat sat on a mat"]])
    assert short.value == pytest.approx(math.exp(1 - 6 / 4)), "all n-grams are right, two words are missing"
    assert bleu(["the the the the the"], [["the cat sat on the mat"]]).value == 0, "clipped to the two that a reference has; no pair is right"


def test_bleu_sums_over_the_corpus_and_takes_the_best_of_references() -> None:
    """Two images: right n-grams 4 + 0 of 4 + 4, 3 of 6, 2 of 4, 1 of 2."""
    found = bleu(["a b c d", "x x x x"], [["a b c d"], ["e f g h"]])
    assert found.value == pytest.approx(0.5) and found.n == 2 and found.low <= 0.5 <= found.high
    several = bleu(["a b c d e"], [["a b c", "c d e x y", "a b c d z z z z"]])
    assert several.value == pytest.approx((1 / 2) ** 0.25), "all but one of the fours are in some reference, and the nearest has 5 words"


def test_cider_by_hand() -> None:
    """Three images; "red" and "ball" are in one each, "a" in all (idf 0), so words and pairs of an image that is described right are its own."""
    references = [["a red ball"], ["a blue cube"], ["a green cone"]]
    scores = cider_d(["a red ball", "a red cube", "a"], references)
    assert scores[0] == pytest.approx(10 * 3 / 4), "n-grams of 1, 2 and 3 words are the same, there is none of four"
    # image 2: g("a red cube") = (red: ln 3, cube: ln 3), g(reference) = (blue: ln 3, cube: ln 3): cosine 1/2; no pair is shared
    assert scores[1] == pytest.approx(10 * 0.5 / 4)
    assert scores[2] == 0, "a word that every image has tells nothing"


def test_cider_clips_repetition_and_falls_with_length() -> None:
    references = [["red"], ["blue"]]
    once, more = cider_d(["red", "blue"], references)[0], cider_d(["red red red", "blue"], references)[0]
    assert once == pytest.approx(10 / 4) and more == pytest.approx(10 / 4 * (1 / 3) * math.exp(-(2**2) / 72)), "min(3, 1) 1 / (3 1), two words too long"
    assert cider_d(["red", "blue"], [["red", "green"], ["blue"]])[0] == pytest.approx(10 / 4 / 2), "the mean over references"


SENTENCE = st.lists(st.sampled_from("abcdef"), min_size=4, max_size=9).map(" ".join)


@given(st.lists(SENTENCE, min_size=2, max_size=5, unique=True), st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_metrics_are_within_bounds_best_on_the_truth_and_do_not_depend_on_order(texts: Sequence[str], random) -> None:
    references = [[text] for text in texts]
    assert bleu(texts, references).value == pytest.approx(1)
    scores, true = cider_d([texts[0]] * len(texts), references), cider_d(texts, references)
    assert (scores >= 0).all() and (true <= 10 + 1e-9).all() and (scores <= true + 1e-9).all()
    order = random.sample(range(len(texts)), len(texts))
    np.testing.assert_allclose(cider_d([texts[place] for place in order], [references[place] for place in order]), true[order])
    assert 0 <= bleu([texts[0]] * len(texts), references).value <= 1


# decoder


def made_captioner() -> tuple[Captioner, Examples]:
    torch.manual_seed(0)
    captioner = Captioner(DECODER, Tokenizer(DECODER.tokenizer), torch.zeros(6), torch.ones(6)).eval()
    with torch.no_grad():
        for parameter in captioner.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    rng = np.random.default_rng(0)
    return captioner, Examples(rng.normal(size=(4, 5, 6)).astype(np.float32), np.zeros(4, dtype=np.int64), np.array([5, 3, 1, 4]))


def test_greedy_captions_equal_a_plain_loop_that_leaves_absent_patches_out() -> None:
    captioner, examples = made_captioner()
    found = captioner.describe(*tokens_of(examples, np.arange(4), device="cpu"))
    ends = 0
    for number in range(4):
        tokens = torch.from_numpy(examples.features[number : number + 1, : examples.counts[number]])
        ids = [captioner.tokenizer.sot]
        with torch.no_grad():
            while len(ids) <= DECODER.max_tokens and ids[-1] != captioner.tokenizer.eot:
                padded = torch.tensor([[*ids, 0]])
                ids.append(int(captioner(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), padded)[0, -1].argmax()))
        ends += len(ids)
        assert found[number] == captioner.tokenizer.decode([one for one in ids[1:] if one != captioner.tokenizer.eot])
    assert ends > 8


def test_nats_are_of_true_tokens_alone_and_do_not_depend_on_the_batch() -> None:
    captioner, examples = made_captioner()
    captions = ["red", "a blue one", "green and so on", "x"]
    nats, right = caption_nats(captioner, examples, captions, device="cpu")
    assert [len(one) for one in nats] == [len(captioner.tokenizer.encode(text)) + 1 for text in captions] == [len(one) for one in right]
    for number, text in enumerate(captions):
        alone, _ = caption_nats(captioner, examples.chosen(np.array([number])), [text], device="cpu")
        np.testing.assert_allclose(alone[0], nats[number], atol=1e-4)
    ids = captioner.ids_of([captions[0]])
    with torch.no_grad():
        scores = captioner(*tokens_of(examples, np.array([0]), device="cpu"), ids)
    assert token_nats(scores, ids).sum().item() == pytest.approx(-scores.log_softmax(dim=-1)[0].gather(1, ids[0, 1:, None]).sum().item(), rel=1e-4)


def test_a_width_that_heads_do_not_divide_is_one_error() -> None:
    with pytest.raises(ValueError, match="--captioning.decoder.width 30 is no multiple of twice --captioning.decoder.heads"):
        Captioner(replace(DECODER, width=30, heads=4), Tokenizer(DECODER.tokenizer), torch.zeros(6), torch.ones(6))


# transfer


def test_captions_are_made_where_there_are_none(images: ImageSet) -> None:
    captions, made = captions_of(images)
    assert made and set(captions) == {(f"it is {name}", f"so {name}") for name in images.classes}
    given, made = captions_of(replace(images, captions=(("one",), *[()] * (len(images) - 1))))
    assert not made and given[0] == ("one",) and not any(given[1:])


def test_what_the_image_shows_is_said_and_without_it_is_not_known(model: EvaluatedModel, images: ImageSet, tmp_path: Path) -> None:
    result = evaluate_captioning(model, images, FeatureCache(tmp_path), settings=QUICK)
    models = [row.model for row in result.rows if row.metric == "BLEU-4"]
    assert models == ["trained encoder", "shuffled captions", "random weights", "raw pixels (16 x 16)", "no image"]
    assert result.value("trained encoder", "exact match") > 0.8 > 0.6 > max(result.value(name, "exact match") for name in ("no image", "shuffled captions"))
    for metric, sign in (("CIDEr-D", 1), ("token accuracy", 1), ("nats per token", -1)):
        assert sign * result.value("trained encoder", metric) > sign * result.value("no image", metric), metric
    assert result.value("no image", "exact match") == pytest.approx(1 / 3), "it can name one class"
    assert {row.metric: row.unit for row in result.rows}["CIDEr-D"] == "number" and result.protocol["captions"] == "class names in templates"
    again = evaluate_captioning(model, images, FeatureCache(tmp_path), settings=QUICK, controls=())
    assert [row.record() for row in again.rows if row.model == "trained encoder"] == [row.record() for row in result.rows if row.model == "trained encoder"]
    assert {row.model for row in again.rows} == {"trained encoder", "no image"}


def test_a_set_with_captions_uses_its_own_and_says_what_it_left_out(model: EvaluatedModel, images: ImageSet, tmp_path: Path) -> None:
    captions = tuple((f"the {images.classes[label]} thing", "thing") if number % 5 else () for number, label in enumerate(images.labels))
    short = replace(QUICK, steps=2)
    result = evaluate_captioning(model, replace(images, captions=captions), FeatureCache(tmp_path), settings=short, controls=())
    assert result.left_out == ["14 images without a caption"] and result.protocol["captions"] == "of the set"
    other = evaluate_captioning(model, images, FeatureCache(tmp_path), settings=short, controls=())
    assert result.dataset["index_sha256"] != other.dataset["index_sha256"] and result.dataset["images_sha256"] == other.dataset["images_sha256"]
    unlabelled = replace(images, labels=np.full(len(images), -1))
    with pytest.raises(ValueError, match="colours: fewer than two of its train images have a caption or a label"):
        evaluate_captioning(model, unlabelled, FeatureCache(tmp_path), settings=short)
    with pytest.raises(ValueError, match=r"the decoder diverged at step \d+: lower --captioning.learning-rate"):
        evaluate_captioning(model, images, FeatureCache(tmp_path), settings=replace(QUICK, learning_rate=1e30), controls=())


@pytest.mark.parametrize("kind", ["naflex"])
def test_command(kind: str, folder: Path, tmp_path: Path) -> None:
    checkpoint = made_checkpoint(tmp_path / "model", kind=kind)
    settings = eval_captioning.EvalCaptioningConfig(
        checkpoint=str(checkpoint), data=str(folder), output=str(tmp_path / "captions.json"), captioning=replace(QUICK, steps=2), controls=("random",)
    )  # fmt: skip
    eval_captioning.main(settings)
    record = read_result(tmp_path / "captions.json")
    assert {row["model"] for row in record["rows"]} == {"trained encoder", "random weights", "no image"} and record["protocol"]["settings"]["steps"] == 2
