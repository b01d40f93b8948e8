"""Entry point: zero-shot classification by a trained model, beside the same model with random weights."""

from pathlib import Path

import torch

from lcl.core.config import run_command
from lcl.evaluation import EvalConfig, majority, publish, score
from lcl.features import find_checkpoint, load_model, random_twin
from lcl.labelled import find_labelled, load_inputs, pooled_features
from lcl.zero_shot import class_weights, classify


def main(settings: EvalConfig) -> None:
    torch.set_num_threads(1)
    checkpoint = find_checkpoint(Path(settings.checkpoint))
    labelled = find_labelled(Path(settings.data))
    models = {"trained model": load_model(checkpoint, weights=settings.weights), "random weights": random_twin(checkpoint, seed=settings.seed)}
    inputs = load_inputs(labelled.files["test"], models["trained model"][0].settings.vision)
    rows = []
    for name, (model, tokenizer) in models.items():
        weights = class_weights(model, tokenizer, labelled.classes, labelled.templates)
        predicted = classify(pooled_features(model, inputs), weights).argmax(dim=1).numpy()
        rows.append(score(name, predicted, labelled.labels["test"]))
    rows.append(majority(labelled.labels["test"]))
    protocol = {"text_feature": "at <soi> in the place of <eot>", "templates": labelled.templates, "classes": labelled.classes}
    publish("zero-shot classification", rows, settings=settings, protocol=protocol, checkpoint=checkpoint, num_images=len(labelled.files["test"]))


if __name__ == "__main__":
    run_command(EvalConfig, main, description=__doc__.splitlines()[0])
