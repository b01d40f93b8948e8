"""Classification of an image set by frozen features, each protocol beside its controls (any of them may be left out).

    ImageSet + EvaluatedModel --(feature cache)--> features of: trained encoder | random weights | raw pixels
        --(one protocol, the same for all three, and for the first with shuffled labels)--> rows, sweeps, predictions --> Result
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int

from lcl.core.config import to_dict
from lcl.core.logs import progress_bar
from lcl.evals.attentive_probe import EPSILON, AttentiveProbeConfig, attentive_probe
from lcl.evals.evaluated import CONTROLS, Control, EvaluatedModel, What
from lcl.evals.examples import Examples, Outcome
from lcl.evals.feature_cache import FeatureCache, one_thread
from lcl.evals.few_shot import STRENGTHS, FewShotConfig, few_shot_scores
from lcl.evals.image_sets import UNKNOWN, ImageSet, draw_stratified
from lcl.evals.intervals import balanced_accuracy, exact, mean_of_seeds, share
from lcl.evals.knn import KnnConfig, knn_probe
from lcl.evals.linear_probe import LinearProbeConfig, linear_probe
from lcl.evals.results import TRAINED, Predictions, Result, Row, Task, by_metric
from lcl.evals.zero_shot import class_weights, classify

VALIDATION_PART = 0.2  # of the train split, where there is no validation split
SHUFFLED = "shuffled labels"
TOP = 5

Settings = TypeVar("Settings")
Metric = Literal["accuracy", "top-5 accuracy", "balanced accuracy"]


@dataclass(frozen=True)
class Divided:
    """Places of the images that a probe is fitted on, chosen on and tested on; `validation_is` says where the second come from."""

    train: Int[np.ndarray, " n"]
    validation: Int[np.ndarray, " m"]
    test: Int[np.ndarray, " k"]
    validation_is: str


@dataclass(frozen=True)
class Protocol(Generic[Settings]):
    """A trained probe: what it reads, how it is fitted and chosen, and the settings that try nothing but what was chosen (for shuffled labels)."""

    task: Task
    what: What
    probe: Callable[[Examples, Examples, Examples, Settings], Outcome]
    settings: Settings
    narrow: Callable[[Mapping[str, Any]], Settings]
    described: Mapping[str, Any]


def divide(images: ImageSet, *, seed: int) -> Divided:
    """The official splits; where there is no validation split, a part of train is drawn within each class.

    Raises ValueError if train or test is missing, if an image of theirs has no label, if a class is too small to be drawn from, or has test images alone.
    """
    train, test = images.split("train"), labelled_test(images)
    if "validation" in images.splits:
        divided = Divided(train, images.splits["validation"], test, "official")
    else:
        drawn = draw_stratified(images.labels[train], images.classes, part=VALIDATION_PART, seed=seed)
        divided = Divided(np.delete(train, drawn), train[drawn], test, f"{VALIDATION_PART:.0%} of train, drawn within each class, seed {seed}")
    fitted = np.concatenate([divided.train, divided.validation])
    _check_labels(images, fitted)
    if len(np.unique(images.labels[divided.train])) < 2:
        raise ValueError(f"{images.name}: its training images are of one class; a classifier needs two or more")
    untaught = np.setdiff1d(images.labels[test], images.labels[fitted])
    if len(untaught):
        names = ", ".join(images.classes[label] for label in untaught[:5]) + (" ..." if len(untaught) > 5 else "")
        raise ValueError(f"{images.name}: {names}: test images and no training images, so each would count as wrong; add training images, or take the class out of test")
    return divided


def labelled_test(images: ImageSet) -> Int[np.ndarray, " images"]:
    """Places of the test images. Raises ValueError if there are none or one has no label."""
    test = images.split("test")
    _check_labels(images, test)
    return test


def evaluate_linear(
    model: EvaluatedModel, images: ImageSet, cache: FeatureCache, *, seed: int = 0, controls: Sequence[Control] = CONTROLS, settings: LinearProbeConfig = LinearProbeConfig()
) -> Result:
    """The linear probe on the pooled latents (lcl/evals/linear_probe.py). Raises ValueError as `divide` and the cache."""

    def probe(train: Examples, validation: Examples, test: Examples, settings: LinearProbeConfig) -> Outcome:
        return linear_probe(train, validation, test.features, num_classes=len(images.classes), settings=settings)

    described = {"classifier": "standardised features, logistic regression (L-BFGS)"}
    protocol = Protocol("linear probe", "pooled", probe, settings, lambda chosen: replace(settings, strengths=(chosen["C"],)), described)
    return _evaluate_probe(protocol, model, images, cache, seed, controls)


def evaluate_attentive(
    model: EvaluatedModel, images: ImageSet, cache: FeatureCache, *, seed: int = 0, controls: Sequence[Control] = CONTROLS, settings: AttentiveProbeConfig = AttentiveProbeConfig()
) -> Result:
    """The attentive probe on the patch tokens (lcl/evals/attentive_probe.py). Raises ValueError as `divide` and the cache."""

    def probe(train: Examples, validation: Examples, test: Examples, settings: AttentiveProbeConfig) -> Outcome:
        return attentive_probe(train, validation, test, num_classes=len(images.classes), settings=settings, seed=seed)

    def narrow(chosen: Mapping[str, Any]) -> AttentiveProbeConfig:
        return replace(settings, learning_rates=(chosen["learning_rate"],), weight_decays=(chosen["weight_decay"],))

    described = {"classifier": "BatchNorm without parameters (statistics of all training tokens), one learned query, linear layer; AdamW, cosine", "epsilon": EPSILON}
    return _evaluate_probe(Protocol("attentive probe", "tokens", probe, settings, narrow, described), model, images, cache, seed, controls)


def evaluate_knn(
    model: EvaluatedModel, images: ImageSet, cache: FeatureCache, *, seed: int = 0, controls: Sequence[Control] = CONTROLS, settings: KnnConfig = KnnConfig()
) -> Result:
    """Nearest neighbours of the pooled latents (lcl/evals/knn.py). Raises ValueError as `divide`, `knn_probe` and the cache."""

    def probe(train: Examples, validation: Examples, test: Examples, settings: KnnConfig) -> Outcome:
        return knn_probe(train, validation, test.features, num_classes=len(images.classes), settings=settings)

    described = {"classifier": "votes of the nearest images by cosine, weights exp(cosine / temperature)"}
    protocol = Protocol("nearest neighbours", "pooled", probe, settings, lambda chosen: replace(settings, neighbours=(chosen["k"],)), described)
    return _evaluate_probe(protocol, model, images, cache, seed, controls)


def evaluate_few_shot(
    model: EvaluatedModel, images: ImageSet, cache: FeatureCache, *, seed: int = 0, controls: Sequence[Control] = CONTROLS, settings: FewShotConfig = FewShotConfig()
) -> Result:
    """Ridge regression on a few images of each class, drawn from train and validation (lcl/evals/few_shot.py), mean over seeds.

    Raises ValueError if a class lacks even the smallest number of shots, and as `divide` and the cache.
    """
    began, divided = time.perf_counter(), divide(images, seed=seed)
    fitted = np.sort(np.concatenate([divided.train, divided.validation]))
    labels, wanted = images.labels[fitted], images.labels[divided.test]
    names, counts = np.unique(labels, return_counts=True)
    smallest = f"{images.classes[names[counts.argmin()]]} has {counts.min()} training images"
    usable = [shots for shots in sorted(settings.shots) if shots <= counts.min()]
    if not usable:
        raise ValueError(f"{images.name}: {smallest}: lower --few-shot.shots ({min(settings.shots)})")
    seeds = range(seed, seed + settings.num_seeds)
    rows, predictions = [], []

    def measure(name: str, features: Float[np.ndarray, "images width"], *, shuffled: bool = False) -> None:
        for shots in usable:
            accuracies = []
            for draw in seeds:
                given = np.random.default_rng(draw).permutation(labels) if shuffled else labels
                classes, found = few_shot_scores(features[fitted], given, features[divided.test], shots=shots, seed=draw)
                scores = np.full((len(wanted), len(images.classes)), -np.inf)
                scores[:, classes] = found
                predictions.append(score_predictions(name, f"{shots}-shot accuracy", images, divided.test, scores, seed=draw))
                accuracies.append(float((scores.argmax(axis=1) == wanted).mean()))
            rows.append(Row(name, f"{shots}-shot accuracy", mean_of_seeds(accuracies), f"{len(seeds)} draws, {len(wanted)} test images"))

    subjects = model.subjects(controls, seed=seed)
    for subject in subjects:
        cache.ensure(subject, images, "pooled")
    with one_thread():
        for subject in subjects:
            features = cache.get(subject, images, "pooled").values
            measure(subject.name, features)
            if subject.name == TRAINED and "shuffled" in controls:
                measure(SHUFFLED, features, shuffled=True)
    left_out = [f"{shots} shots: {smallest}" for shots in sorted(settings.shots) if shots not in usable]
    protocol = _protocol(model, settings, features="pooled latent") | {
        "classifier": "ridge regression of +-1 labels on standardised features", "l2": STRENGTHS, "l2_chosen_on": "leave-one-out error of the drawn images",
        "drawn_from": "train and validation",
    }  # fmt: skip
    return Result(
        task="few-shot classification", dataset=describe_set(images, divided.validation_is), model=model.record(), protocol=protocol,
        rows=by_metric(rows + constant_answers(images, divided.test)), predictions=predictions, seeds=list(seeds), seconds=time.perf_counter() - began, left_out=left_out,
    )  # fmt: skip


def evaluate_zero_shot(model: EvaluatedModel, images: ImageSet, cache: FeatureCache, *, seed: int = 0, controls: Sequence[Control] = CONTROLS) -> Result:
    """Images against class names in the set's templates (lcl/evals/zero_shot.py). Raises ValueError for an encoder alone, and as `labelled_test` and the cache."""
    model.require_text("zero-shot classification")
    began, test = time.perf_counter(), labelled_test(images)
    rows, predictions = [], []
    subjects = model.encoders(controls, seed=seed)
    for subject in subjects:
        cache.ensure(subject, images, "pooled")
    with one_thread():
        for subject in subjects:
            pooled = torch.from_numpy(cache.get(subject, images, "pooled").values[test])
            lcl, tokenizer = subject.loaded
            weights = class_weights(lcl, tokenizer, images.classes, images.templates).float().cpu()
            scores = classify(pooled, weights).numpy()
            rows += score_rows(subject.name, scores, images.labels[test], ("accuracy", "top-5 accuracy", "balanced accuracy"))
            predictions.append(score_predictions(subject.name, "accuracy", images, test, scores))
    protocol = {
        "features": "pooled latent", "text_feature": "at <soi> in the place of <eot>", "ensembling": "normalised mean over templates of normalised features",
        "templates": images.templates, "classes": images.classes, "preprocessing": model.preprocessing(),
    }  # fmt: skip
    return Result(
        task="zero-shot classification", dataset=describe_set(images, "not used"), model=model.record(), protocol=protocol,
        rows=by_metric(rows + constant_answers(images, test)), predictions=predictions, seeds=[seed], seconds=time.perf_counter() - began,
    )  # fmt: skip


def constant_answers(images: ImageSet, test: Int[np.ndarray, " n"]) -> list[Row]:
    """What a constant answer reaches at most on the test images, and chance."""
    labels = images.labels[test]
    most = int(np.bincount(labels).argmax())
    return [
        Row("most frequent class", "accuracy", share(int((labels == most).sum()), len(labels)), f"always {images.classes[most]}"),
        Row("chance", "accuracy", exact(1 / len(images.classes), len(labels)), f"{len(images.classes)} classes"),
    ]


def describe_set(images: ImageSet, validation_is: str) -> dict[str, Any]:
    """What a result says of its data."""
    return {
        "name": images.name, "splits": {name: len(places) for name, places in images.splits.items()}, "validation": validation_is,
        "test": images.test_drawn or "official", "index_sha256": images.index_sha256, "num_classes": len(images.classes),
    }  # fmt: skip


def _evaluate_probe(protocol: Protocol, model: EvaluatedModel, images: ImageSet, cache: FeatureCache, seed: int, controls: Sequence[Control]) -> Result:
    began, divided = time.perf_counter(), divide(images, seed=seed)
    rows: list[Row] = []
    predictions: list[Predictions] = []
    sweeps: dict[str, Any] = {}
    metrics: tuple[Metric, ...] = ("accuracy", "balanced accuracy")

    def take(name: str, outcome: Outcome, detail: str) -> None:
        rows.extend(score_rows(name, outcome.scores, images.labels[divided.test], metrics, detail=detail))
        predictions.append(score_predictions(name, "accuracy", images, divided.test, outcome.scores))

    subjects = model.subjects(controls, seed=seed)
    for subject in subjects:
        cache.ensure(subject, images, protocol.what)
    with one_thread(), progress_bar(protocol.task, total=len(subjects)) as bar:
        for subject in subjects:
            features = cache.get(subject, images, protocol.what)
            examples = Examples(features.values, images.labels, features.counts)
            train, validation, test = (examples.chosen(places) for places in (divided.train, divided.validation, divided.test))
            outcome = protocol.probe(train, validation, test, protocol.settings)
            sweeps[subject.name] = {"chosen_on": f"validation ({divided.validation_is})", "chosen": dict(outcome.chosen), "tried": list(outcome.sweep)}
            detail = describe_choice(outcome)
            take(subject.name, outcome, detail)
            if subject.name == TRAINED and "shuffled" in controls:
                shuffled = np.random.default_rng(seed).permutation(np.concatenate([train.labels, validation.labels]))
                mixed = train.with_labels(shuffled[: len(train)]), validation.with_labels(shuffled[len(train) :])
                take(SHUFFLED, protocol.probe(*mixed, test, protocol.narrow(outcome.chosen)), f"{TRAINED}, {detail}")
            bar.advance()
    features_are = "pooled latent" if protocol.what == "pooled" else "patch tokens behind the tower's last norm, float16"
    described = _protocol(model, protocol.settings, features=features_are) | dict(protocol.described)
    return Result(
        task=protocol.task, dataset=describe_set(images, divided.validation_is), model=model.record(), protocol=described,
        rows=by_metric(rows + constant_answers(images, divided.test)), predictions=predictions, seeds=[seed], seconds=time.perf_counter() - began, sweeps=sweeps,
    )  # fmt: skip


def _protocol(model: EvaluatedModel, settings: Any, *, features: str) -> dict[str, Any]:
    return {"features": features, "preprocessing": model.preprocessing(), "settings": to_dict(settings)}


def score_rows(name: str, scores: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"], metrics: Sequence[Metric], *, detail: str = "") -> list[Row]:
    """Metrics of class scores. Ties count against the model in the top 5."""
    predicted, num = scores.argmax(axis=1), len(labels)
    own = scores[np.arange(num), labels][:, None]
    above = (scores >= own).sum(axis=1)  # itself and those that score as much or more: ties count against the model
    estimates = {"accuracy": lambda: share(int((predicted == labels).sum()), num), "top-5 accuracy": lambda: share(int((above <= TOP).sum()), num)}
    estimates["balanced accuracy"] = lambda: balanced_accuracy(predicted, labels)
    return [Row(name, metric, estimates[metric](), detail) for metric in metrics if metric != "top-5 accuracy" or scores.shape[1] > TOP]


def describe_choice(outcome: Outcome) -> str:
    """The hyper-parameters as people read them; a value at the end of three or more that were tried may have a better one beyond it, and says so."""
    described = []
    for name, value in outcome.chosen.items():
        tried = sorted({entry[name] for entry in outcome.sweep})
        end = len(tried) > 2 and value in (tried[0], tried[-1])
        described.append(f"{name.replace('_', ' ')} {value:g}" + (" (end of the sweep)" if end else ""))
    return ", ".join(described)


def score_predictions(name: str, metric: str, images: ImageSet, test: Int[np.ndarray, " n"], scores: Float[np.ndarray, "n classes"], *, seed: int = 0) -> Predictions:
    """What the scores say of each test image."""
    predicted, labels = scores.argmax(axis=1), images.labels[test]
    return Predictions(
        name, metric, [images.ids[place] for place in test], [images.classes[label] for label in labels], [images.classes[label] for label in predicted],
        predicted == labels, scores.max(axis=1), seed=seed,
    )  # fmt: skip


def _check_labels(images: ImageSet, places: Int[np.ndarray, " n"]) -> None:
    unknown = places[images.labels[places] == UNKNOWN]
    if len(unknown):
        raise ValueError(f"{images.name}: {images.ids[unknown[0]]} has no label, and {len(unknown) - 1} others; classification needs one for each image")
