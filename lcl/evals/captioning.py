"""Captioning transfer: what can a small decoder say of an image from the tokens of a frozen encoder?

    patch tokens of: trained encoder | random weights | pixels | nothing --(one decoder each, trained alike)--> greedy captions of test images
        --> BLEU-4, CIDEr-D, exact match; and how well the decoder predicts a true caption, token by token

The frozen transfer of LCL's paper (arXiv:2406.07543, section 4) with a decoder trained from scratch in the place of a large language model.
"""

import logging
import time
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from lcl.core.config import config, to_dict
from lcl.core.logs import Bar, progress_bar
from lcl.core.tokenizer import Tokenizer
from lcl.evals.attentive_probe import token_statistics
from lcl.evals.caption_decoder import Captioner, DecoderConfig, token_nats
from lcl.evals.caption_metrics import bleu, cider_d, words
from lcl.evals.classification import describe_set
from lcl.evals.encode import BATCH
from lcl.evals.evaluated import CONTROLS, Control, Device, EvaluatedModel
from lcl.evals.examples import Examples
from lcl.evals.feature_cache import FeatureCache
from lcl.evals.image_sets import UNKNOWN, ImageSet, captioned_index
from lcl.evals.intervals import clustered_bootstrap, clustered_share, share
from lcl.evals.results import TRAINED, Predictions, Result, Row, by_metric
from lcl.rows import IGNORED
from lcl.schedule import ScheduleConfig, learning_rate

NO_IMAGE = "no image"
SHUFFLED = "shuffled captions"
EXACT_MATCH = "exact match"

log = logging.getLogger(__name__)

Captions = Sequence[tuple[str, ...]]


@config
class CaptioningConfig:
    decoder: DecoderConfig = DecoderConfig()
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Of AdamW; falls to 0 along a cosine, after a rise over a tenth of the steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    steps: Annotated[int, Field(ge=1)] = 300
    batch: Annotated[int, Field(ge=1)] = 32
    """Images a step, each with one of its captions, drawn without repetition until all were seen."""


def evaluate_captioning(
    model: EvaluatedModel, images: ImageSet, cache: FeatureCache, *, seed: int = 0, controls: Sequence[Control] = CONTROLS, settings: CaptioningConfig = CaptioningConfig()
) -> Result:
    """Captions of test images by decoders trained on the train and validation images. Nothing is chosen, so no image is kept back to choose on.

    Raises ValueError if train or test holds no image with a caption or a label to make one of, and as the decoder and the cache.
    """
    began = time.perf_counter()
    captions, made = captions_of(images)
    fitted, test = (np.array([place for place in places if captions[place]], dtype=np.int64) for places in _splits(images))
    for name, places in (("train", fitted), ("test", test)):
        if len(places) < 2:
            raise ValueError(f"{images.name}: fewer than two of its {name} images have a caption or a label; captioning learns from some and is tested on others")
    tokenizer = Tokenizer(settings.decoder.tokenizer)
    references = [captions[place] for place in test]
    rows: list[Row] = []
    predictions: list[Predictions] = []
    ids = [images.ids[place] for place in test]

    def take(name: str, examples: Examples, given: Captions, bar: Bar, detail: str = "") -> None:
        captioner = train_captioner(examples.chosen(fitted), given, tokenizer, settings, seed=seed, device=model.device, bar=bar)
        tested = examples.chosen(test)
        found = describe(captioner, tested, device=model.device)
        scored = [one[number % len(one)] for number, one in enumerate(references)]
        nats, right = caption_nats(captioner, tested, scored, device=model.device)
        image_of = [ids[number] for number, one in enumerate(nats) for _ in one]
        exact = np.array([words(text) in map(words, one) for text, one in zip(found, references, strict=True)])
        cider = cider_d(found, references)
        rows.extend(
            (
                Row(name, "BLEU-4", bleu(found, references, seed=seed), detail),
                Row(name, "CIDEr-D", clustered_bootstrap(cider, ids, of="images", seed=seed), detail, unit="number"),
                Row(name, EXACT_MATCH, share(int(exact.sum()), len(exact)), detail),
                Row(name, "token accuracy", clustered_share(np.concatenate(right), image_of, of="images", seed=seed), detail),
                Row(name, "nats per token", clustered_bootstrap(np.concatenate(nats), image_of, of="images", seed=seed), detail, unit="number"),
            )
        )
        predictions.append(Predictions(name, EXACT_MATCH, ids, [one[0] for one in references], found, exact, cider))
        log.info("%s: CIDEr-D %.2f; first caption: %s", name, cider.mean(), found[0])

    subjects = model.subjects(controls, seed=seed)
    for subject in subjects:
        cache.ensure(subject, images, "tokens")
    given = [captions[place] for place in fitted]
    no_labels = np.zeros(len(images), dtype=np.int64)
    with progress_bar("captioning", total=(len(subjects) + 1 + ("shuffled" in controls)) * settings.steps) as bar:
        for subject in subjects:
            features = cache.get(subject, images, "tokens")
            examples = Examples(features.values, no_labels, features.counts)
            take(subject.name, examples, given, bar)
            if subject.name == TRAINED and "shuffled" in controls:
                mixed = np.random.default_rng(seed).permutation(len(given))
                take(SHUFFLED, examples, [given[place] for place in mixed], bar, TRAINED)
        take(NO_IMAGE, Examples(np.zeros((len(images), 1, 1), np.float32), no_labels), given, bar, "one constant token")
    protocol = {
        "features": "patch tokens behind the tower's last norm, float16, standardised", "decoder": "Llama (transformers) from scratch, linear prefix", "decoding": "greedy",
        "captions": "class names in templates" if made else "of the set", "templates": images.templates if made else (), "references": "all captions of an image",
        "words": "lower case, without punctuation", "scored_caption": "for tokens: one of each image, in turn", "trained_on": "train and validation",
        "score": "CIDEr-D", "preprocessing": model.preprocessing(), "settings": to_dict(settings),
    }  # fmt: skip
    left = sum(map(len, _splits(images))) - len(fitted) - len(test)
    return Result(
        task="captioning", dataset=describe_set(images, "trained on") | {"index_sha256": captioned_index(images, captions), "images_sha256": images.index_sha256}, model=model.record(), protocol=protocol,
        rows=by_metric(rows), predictions=predictions, seeds=[seed], seconds=time.perf_counter() - began, left_out=[f"{left} images without a caption"] if left else [],
    )  # fmt: skip


def captions_of(images: ImageSet) -> tuple[Captions, bool]:
    """The captions of each image, and whether they were made: a set without any has its class names in its templates."""
    if any(images.captions):
        return images.captions, False
    named = [tuple(template.replace("{}", name) for template in images.templates) for name in images.classes]
    return [() if label == UNKNOWN else named[label] for label in images.labels.tolist()], True


def train_captioner(
    examples: Examples, captions: Captions, tokenizer: Tokenizer, settings: CaptioningConfig, *, seed: int, device: Device, bar: Bar
) -> Captioner:
    """A decoder trained on these tokens and captions. The same arguments give the same weights on the same number of threads.

    Raises ValueError if a loss is not finite.
    """
    mean, deviation = (torch.from_numpy(values).float() for values in token_statistics(examples))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        captioner = Captioner(settings.decoder, tokenizer, mean, deviation).to(device).train()
    random, schedule = np.random.default_rng(seed), ScheduleConfig(warmup_steps=max(1, settings.steps // 10))
    optimizer = torch.optim.AdamW(captioner.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    order = np.zeros(0, dtype=np.int64)
    for step in range(settings.steps):
        if not len(order):
            order = random.permutation(len(examples))
        batch, order = order[: settings.batch], order[settings.batch :]
        ids = captioner.ids_of([captions[place][random.integers(len(captions[place]))] for place in batch.tolist()]).to(device)
        nats = token_nats(captioner(*tokens_of(examples, batch, device=device), ids), ids).sum() / (ids[:, 1:] != IGNORED).sum()
        if not torch.isfinite(nats):
            raise ValueError(f"the decoder diverged at step {step}: lower --captioning.learning-rate ({settings.learning_rate:g})")
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule, peak=settings.learning_rate, total_steps=settings.steps)
        optimizer.zero_grad()
        nats.backward()
        torch.nn.utils.clip_grad_norm_(captioner.parameters(), 1.0)
        optimizer.step()
        bar.advance(note=f"{nats.item():.3f} nats")
    return captioner.eval()


def describe(captioner: Captioner, examples: Examples, *, device: Device) -> list[str]:
    """A greedy caption of each image."""
    return [text for part in _parts(len(examples)) for text in captioner.describe(*tokens_of(examples, part, device=device))]


@torch.no_grad()
def caption_nats(
    captioner: Captioner, examples: Examples, captions: Sequence[str], *, device: Device
) -> tuple[list[Float[np.ndarray, " tokens"]], list[Bool[np.ndarray, " tokens"]]]:
    """Of one caption of each image: -log p of each of its tokens after the true ones before it, and whether it is the likeliest. `<eot>` counts."""
    nats, right = [], []
    for part in _parts(len(examples)):
        ids = captioner.ids_of([captions[place] for place in part.tolist()]).to(device)
        scores = captioner(*tokens_of(examples, part, device=device), ids)
        there, values, likeliest = ids[:, 1:] != IGNORED, token_nats(scores, ids), scores.argmax(dim=2) == ids[:, 1:]
        nats += [one[mask].double().cpu().numpy() for one, mask in zip(values, there, strict=True)]
        right += [one[mask].cpu().numpy() for one, mask in zip(likeliest, there, strict=True)]
    return nats, right


def tokens_of(examples: Examples, places: Int[np.ndarray, " n"], *, device: Device) -> tuple[Float[Tensor, "n patches width"], Bool[Tensor, "n patches"]]:
    """Tokens of some images, and which of them are there."""
    tokens = torch.from_numpy(examples.features[places]).float().to(device)
    counts = np.full(len(places), tokens.shape[1]) if examples.counts is None else examples.counts[places]
    return tokens, torch.from_numpy(np.arange(tokens.shape[1]) < counts[:, None]).to(device)


def _splits(images: ImageSet) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    fitted = np.concatenate([images.split("train"), images.splits.get("validation", np.zeros(0, dtype=np.int64))])
    return fitted, images.split("test")


def _parts(num: int) -> list[Int[np.ndarray, " n"]]:
    return [np.arange(at, min(at + BATCH, num)) for at in range(0, num, BATCH)]
