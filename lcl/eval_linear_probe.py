"""Entry point: linear probe of a trained encoder, beside the same encoder with random weights and raw pixels."""

from pathlib import Path

import torch

from lcl.core.config import run_command
from lcl.evaluation import EvalConfig, majority, publish, score
from lcl.features import find_checkpoint, load_model, random_twin
from lcl.labelled import find_labelled, load_inputs, load_pixels, pooled_features
from lcl.probe import MAX_ITERATIONS, STRENGTHS, VALIDATION_PART, linear_probe

RAW_PX = 32  # side of the raw-pixel control at most: a logistic regression on 3072 numbers an image


def main(settings: EvalConfig) -> None:
    torch.set_num_threads(1)
    checkpoint = find_checkpoint(Path(settings.checkpoint))
    labelled = find_labelled(Path(settings.data))
    models = {"trained encoder": load_model(checkpoint, weights=settings.weights)[0], "random weights": random_twin(checkpoint, seed=settings.seed)[0]}
    vision = models["trained encoder"].settings.vision
    inputs = {split: load_inputs(files, vision) for split, files in labelled.files.items()}
    features = {name: {split: pooled_features(model, images).numpy() for split, images in inputs.items()} for name, model in models.items()}
    side = min(RAW_PX, vision.tower().image_px)
    pixels = {split: load_pixels(files, side_px=side) for split, files in labelled.files.items()}
    features[f"raw pixels ({side} x {side})"] = {split: array.reshape(len(array), -1) / 255 for split, array in pixels.items()}
    rows = []
    for name, split in features.items():
        result = linear_probe(split["train"], labelled.labels["train"], split["test"], seed=settings.seed)
        rows.append(score(name, result.predicted, labelled.labels["test"], f"C = {result.strength:g}"))
    rows.append(majority(labelled.labels["test"]))
    protocol = {
        "features": "pooled latent", "classifier": "standardised, logistic regression (L-BFGS)", "strengths": STRENGTHS,
        "chosen_on": f"{VALIDATION_PART:.0%} of the train split", "max_iterations": MAX_ITERATIONS, "train_images": len(labelled.files["train"]),
    }
    publish("linear probe", rows, settings=settings, protocol=protocol, checkpoint=checkpoint, num_images=len(labelled.files["test"]))


if __name__ == "__main__":
    run_command(EvalConfig, main, description=__doc__.splitlines()[0])
