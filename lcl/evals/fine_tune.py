"""Full fine-tuning: the whole vision encoder and a linear head on its pooled latent learn the classes.

    images --random crops and flips, as in pretraining--> tower --> pooled latent --norm without parameters--> linear --> class scores
        learning rate and layer-wise decay from a short sweep on validation images, then all steps on train and validation

Beside it the same from random weights, with a sweep of its own and equal steps: the difference is what pretraining gave.
"""

import copy
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lcl.core.config import config, to_dict
from lcl.core.images import decode_image
from lcl.core.logs import Bar, progress_bar
from lcl.evals.classification import SHUFFLED, constant_answers, describe_choice, describe_set, divide, score_predictions, score_rows
from lcl.evals.encode import BATCH
from lcl.evals.evaluated import CONTROLS, Control, Device, EvaluatedModel, ModelSubject
from lcl.evals.examples import Outcome, Refit, accuracy, best_of
from lcl.evals.image_sets import ImageSet
from lcl.evals.results import TRAINED, Predictions, Result, Row, by_metric
from lcl.parameter_groups import parameter_groups
from lcl.rows import ImageInput, stack_inputs
from lcl.schedule import ScheduleConfig, learning_rate
from lcl.use.image_features import VisionModel
from lcl.vision import normalise, valid_patches

Steps = Annotated[int, Field(ge=1)]
Part = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=1)]
Labels = Int[np.ndarray, " images"]  # of all images of a set

log = logging.getLogger(__name__)


@config
class FineTuneConfig:
    learning_rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    """Of AdamW, to choose from; each falls to 0 along a cosine, after a rise over a tenth of the steps."""
    layer_decays: Annotated[tuple[Factor, ...], Field(min_length=1)] = (1.0,)
    """Factors on the rate from each layer of the tower to the one below, to choose from (0.75 for large towers, Clark et al. 2020); 1: none."""
    sweep_steps: Steps = 60
    """Of each trial of the sweep, with a whole cosine of its own."""
    steps: Steps = 300
    batch: Steps = 64
    """Images a step, drawn without repetition until all were seen."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    crop_area: tuple[Part, Part] = (0.35, 1.0)
    """Part of an image's area that a random crop shows."""
    flip: Part = 0.5
    """How often a crop is mirrored; 0 where left and right mean something (digits)."""
    refit: Refit = "train+validation"
    """What the chosen rate and decay train on in the end."""


class Classifier(nn.Module):
    """A copy of the encoder, to be trained, and a head that begins at zero: every class alike."""

    def __init__(self, model: VisionModel, num_classes: int) -> None:
        super().__init__()
        self.vision = model.settings.vision
        self.visual, self.pool_project = (copy.deepcopy(part).requires_grad_(True) for part in (model.visual, model.pool_project))
        self.head = nn.Linear(model.settings.embed_width, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Sequence[ImageInput]) -> Float[Tensor, "images classes"]:
        """Class scores of images that are cut."""
        grids = tuple(image.grid for image in inputs)
        patches = self.visual(normalise(torch.from_numpy(stack_inputs(inputs)).to(self.head.weight.device), dtype=self.head.weight.dtype), grids)
        pooled = self.pool_project(patches, valid_patches(grids, patches.shape[1], patches.device)).pooled
        return self.head(functional.layer_norm(pooled, pooled.shape[-1:]))


def evaluate_fine_tuned(
    model: EvaluatedModel, images: ImageSet, *, seed: int = 0, controls: Sequence[Control] = CONTROLS, settings: FineTuneConfig = FineTuneConfig()
) -> Result:
    """Accuracy of the fine-tuned encoder, of the same from random weights, and with shuffled labels. Raises ValueError as `divide` and `fine_tune`."""
    began, divided = time.perf_counter(), divide(images, seed=seed)
    final = np.concatenate([divided.train, divided.validation]) if settings.refit == "train+validation" else divided.train
    shuffled = images.labels.copy()
    shuffled[final] = np.random.default_rng(seed).permutation(images.labels[final])
    trials = [{"learning_rate": rate, "layer_decay": decay} for rate, decay in itertools.product(settings.learning_rates, settings.layer_decays)]
    rows: list[Row] = []
    predictions: list[Predictions] = []
    sweeps: dict[str, Any] = {}

    def take(name: str, outcome: Outcome, detail: str) -> None:
        rows.extend(score_rows(name, outcome.scores, images.labels[divided.test], ("accuracy", "balanced accuracy"), detail=detail))
        predictions.append(score_predictions(name, "accuracy", images, divided.test, outcome.scores))

    subjects = model.encoders(controls, seed=seed)
    num_final = len(subjects) + ("shuffled" in controls)
    with progress_bar("fine-tuning", total=len(subjects) * len(trials) * settings.sweep_steps + num_final * settings.steps) as bar:
        for subject in subjects:
            scores = partial(_scores, subject, images, settings=settings, seed=seed, device=model.device, bar=bar)
            sweep = []
            for trial in trials:
                found = scores(divided.train, divided.validation, images.labels, choice=trial, steps=settings.sweep_steps)
                sweep.append(trial | {"validation_accuracy": accuracy(found, images.labels[divided.validation])})
                log.info("%s: %s", subject.name, ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in sweep[-1].items()))
            best = {name: best_of(sweep)[name] for name in trials[0]}
            outcome = Outcome(scores(final, divided.test, images.labels, choice=best, steps=settings.steps), best, sweep)
            sweeps[subject.name] = {"chosen_on": f"validation ({divided.validation_is}), after {settings.sweep_steps} steps", "chosen": best, "tried": sweep}
            take(subject.name, outcome, describe_choice(outcome))
            if subject.name == TRAINED and "shuffled" in controls:
                take(SHUFFLED, Outcome(scores(final, divided.test, shuffled, choice=best, steps=settings.steps), best, sweep), f"{TRAINED}, {describe_choice(outcome)}")
    protocol = {
        "trained": "tower, pooling and a linear head on the pooled latent behind a norm without parameters", "optimizer": "AdamW, cosine after a rise over a tenth of the steps",
        "crops": "random, as in pretraining; of test images the centre", "preprocessing": model.preprocessing(), "settings": to_dict(settings),
    }  # fmt: skip
    return Result(
        task="fine-tuning", dataset=describe_set(images, divided.validation_is), model=model.record(), protocol=protocol,
        rows=by_metric(rows + constant_answers(images, divided.test)), predictions=predictions, seeds=[seed], seconds=time.perf_counter() - began, sweeps=sweeps,
    )  # fmt: skip


def fine_tune(
    classifier: Classifier, images: ImageSet, places: Int[np.ndarray, " n"], labels: Labels, *, choice: Mapping[str, float], steps: int, settings: FineTuneConfig, seed: int, bar: Bar
) -> Classifier:
    """The classifier, trained on the images at `places` (`labels` are of all images), and ready to be asked.

    The same arguments give the same weights on the same number of threads. Raises ValueError if a loss is not finite, and for an image that cannot be decoded.
    """
    vision, random = classifier.vision, np.random.default_rng(seed)
    groups = parameter_groups(classifier, weight_decay=settings.weight_decay, layer_decay=choice["layer_decay"])
    optimizer, schedule = torch.optim.AdamW(groups, lr=choice["learning_rate"]), ScheduleConfig(warmup_steps=max(1, steps // 10))
    classifier.train()
    order = np.zeros(0, dtype=np.int64)
    for step in range(steps):
        if not len(order):
            order = random.permutation(places)
        batch, order = order[: settings.batch], order[settings.batch :]
        cuts = []
        for place in batch.tolist():
            image = images.read(place, decode_image)
            cuts.append(vision.input_of(image, vision.training_crop(*image.size, scale=settings.crop_area, flip=settings.flip, random=random)))
        scores = classifier(cuts)
        loss = functional.cross_entropy(scores, torch.from_numpy(labels[batch]).to(scores.device))
        if not torch.isfinite(loss):
            raise ValueError(f"fine-tuning at a learning rate of {choice['learning_rate']:g} diverged at step {step}: leave it out of --fine-tune.learning-rates")
        for group in optimizer.param_groups:
            group["lr"] = group["rate_scale"] * learning_rate(step, schedule, peak=choice["learning_rate"], total_steps=steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(classifier.parameters(), settings.clip_norm)
        optimizer.step()
        bar.advance(note=f"{loss.item():.3f} nats")
    return classifier.eval()


@torch.no_grad()
def predict(classifier: Classifier, images: ImageSet, places: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n classes"]:
    """Logarithms of class probabilities of the images at `places`, cut as in evaluation."""
    parts = [places[at : at + BATCH].tolist() for at in range(0, len(places), BATCH)]
    return torch.cat([classifier([images.read(place, classifier.vision.evaluation_input) for place in part]).log_softmax(dim=1).cpu() for part in parts]).numpy()


def _scores(
    subject: ModelSubject, images: ImageSet, train: Int[np.ndarray, " m"], test: Int[np.ndarray, " n"], labels: Labels, *, choice: Mapping[str, float], steps: int, settings: FineTuneConfig, seed: int,
    device: Device, bar: Bar,
) -> Float[np.ndarray, "n classes"]:  # fmt: skip
    classifier = Classifier(subject.loaded[0], len(images.classes)).to(device)
    return predict(fine_tune(classifier, images, train, labels, choice=choice, steps=steps, settings=settings, seed=seed, bar=bar), images, test)
