"""What a model in training knows of documents and labelled images that it does not train on."""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from lcl.core.config import config
from lcl.core.tokenizer import Tokenizer
from lcl.evals.encode import pooled_features
from lcl.evals.few_shot import few_shot_accuracy
from lcl.evals.image_sets import ImageSet, open_image_set
from lcl.evals.knn import knn_predict
from lcl.evals.zero_shot import class_weights, classify
from lcl.loader import RowLoader, RowSource
from lcl.model import LCL
from lcl.objectives import LossConfig
from lcl.rows import Batch, ImageInput, SpecialIds, collate
from lcl.train_step import Metrics, global_losses, look
from lcl.vision import VisionConfig

Count = Annotated[int, Field(ge=1)]


@config
class ValidationConfig:
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between validations; 0: none. Losses need data.validation_fraction, the rest needs `labelled`."""
    rows: Count = 64
    """Rows of held-out documents whose losses are measured, the same every time."""
    labelled: str = ""
    """Labelled images (train/<class>/, test/<class>/, or what else lcl eval reads) for nearest neighbours, few-shot and zero-shot accuracy; empty: none."""
    neighbours: Count = 20
    """Nearest training images that vote; all of them where there are fewer."""
    shots: Count = 5
    """Images of each class in few-shot classification."""


class Validation:
    """Measures one model again and again on the same rows and images. All ranks take part; the numbers are the same on all."""

    def __init__(
        self, settings: ValidationConfig, source: RowSource | None, tokenizer: Tokenizer, vision: VisionConfig,
        *, loss: LossConfig, micro_rows: int, rank: int, world_size: int,
    ) -> None:
        """`source` makes rows of held-out documents, None where none are. Raises ValueError if there is nothing to validate on, or too little."""
        if source is None and not settings.labelled:
            raise ValueError("--validation.every is set, but there is nothing to validate on: give --data.validation-fraction or --validation.labelled")
        if source is not None and settings.rows % (world_size * micro_rows):
            raise ValueError(f"--validation.rows ({settings.rows}) must be a multiple of ranks x micro_rows ({world_size} x {micro_rows})")
        self.settings, self.tokenizer, self.loss = settings, tokenizer, loss
        self._batches = [] if source is None else self._read_rows(source, micro_rows, rank, world_size)
        self._labelled: ImageSet | None = None
        self._inputs: dict[str, list[ImageInput]] = {}
        if settings.labelled:
            self._labelled = images = open_image_set(Path(settings.labelled))
            _, counts = np.unique(images.labels[images.split("train")], return_counts=True)
            few = counts.min()
            if few < settings.shots:
                raise ValueError(f"{settings.labelled} has a class of {few} training images: lower --validation.shots ({settings.shots})")
            self._inputs = {split: [images.read(place, vision.evaluation_input) for place in images.split(split)] for split in ("train", "test")}

    def _read_rows(self, source: RowSource, micro_rows: int, rank: int, world_size: int) -> list[Batch]:
        rows = RowLoader(source, rank=rank, world_size=world_size, batch_rows=self.settings.rows).take(self.settings.rows // world_size)
        special = SpecialIds.of(self.tokenizer)
        return [collate(rows[at : at + micro_rows], row_length=source.row_length, special=special) for at in range(0, len(rows), micro_rows)]

    @torch.no_grad()
    def measure(self, model: LCL) -> Metrics:
        """Losses on the held-out rows; accuracies (0 to 1) on the labelled images."""
        model.eval()
        metrics: Metrics = {}
        if self._batches:
            batches = [batch.to(model.logit_scale.device) for batch in self._batches]
            losses, _ = global_losses(look(model, batches), batches, self.loss)
            metrics |= {name: losses[name] for name in ("loss", "text_nats", "contrastive_nats", "image_to_context_accuracy", "positives")}
        if self._labelled is not None:
            metrics |= self._accuracies(model, self._labelled)
        model.train()
        return metrics

    def _accuracies(self, model: LCL, labelled: ImageSet) -> Metrics:
        features = {split: pooled_features(model, inputs) for split, inputs in self._inputs.items()}
        labels = {split: torch.from_numpy(labelled.labels[labelled.split(split)]) for split in self._inputs}
        nearest = knn_predict(
            features["train"], labels["train"], features["test"], k=min(self.settings.neighbours, len(labels["train"])), num_classes=len(labelled.classes)
        )
        few, _ = few_shot_accuracy(*(part[split].numpy() for split in ("train", "test") for part in (features, labels)), shots=self.settings.shots)
        named = classify(features["test"], class_weights(model, self.tokenizer, labelled.classes, labelled.templates).float().cpu()).argmax(dim=1)
        return {
            "knn_accuracy": float((nearest == labels["test"]).double().mean()),
            "few_shot_accuracy": few,
            "zero_shot_accuracy": float((named == labels["test"]).double().mean()),
        }
