"""Entry point: what a learned noise schedule gains in likelihood and in a lossless codec, at equal steps of training.

    python studies/density.py --photographs photos --test-photographs unseen --photos clothes.tar --encoder run --output outputs/density_study --results docs/results/density

    row: digits, or squares of photographs --train_density, by schedule, context and seed--> model
    unseen images --> bound, ODE, ELBO_T, coded bits, samples; labelled images --> what few labels make of the model's features and of the encoder's --> RESULTS/HASH.json

Rows are computed in the order of TABLES, finished ones are passed over, and an interrupted one continues. `studies/density_page.py` makes tables and pictures of them.
"""

import resource
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from commands import command
from jaxtyping import Float, Int
from PIL import Image
from pydantic import Field
from table import TablesConfig, name_of, run_tables
from torch import Tensor
from torch.nn import functional

from downstream.density.contexts import ContextConfig, token_maps
from downstream.density.diffusion import diffuse, to_data
from downstream.density.likelihood import ode_nats, summary, vlb
from downstream.density.measuring import (
    AT_ONCE,
    SamplesConfig,
    ToCode,
    as_dict,
    by_plain_coders,
    by_terms,
    coding,
    distance,
    in_batches,
    middles_to_code,
    of_images,
    sampled,
    to_code,
)
from downstream.density.model_file import TrainedDensity, load_density
from downstream.density.sampling import as_grid
from downstream.density.schedules import NoiseConfig
from downstream.density.train_config import PRESETS, TrainDensityConfig
from downstream.density.training_images import TRAIN_DIGITS, levels_of, read_digits
from downstream.density.unseen_images import DIGITS, Unseen, unseen_images
from downstream.origin_marks import Mark, save_marked
from downstream.photographs import list_photographs
from downstream.sight import Sight, SightConfig
from lcl.core.config import config, hash_of, run_command
from lcl.core.images import decode_image, to_pixels
from lcl.core.logs import read_metrics
from lcl.crops import Crop, centre_box, cut
from lcl.evals.few_shot import few_shot_accuracy
from lcl.evals.image_sets import ImageSet, open_image_set
from lcl.features import load_encoder
from lcl.measured import write_result

WINDOW = 50  # steps of training that a point of its curve is the mean of
SHOTS = (1, 5, 25)
FEATURE_TIMES = (0.4, 0.6)  # at which features of the denoiser are taken: where little noise hides an image, and where it hides half
QUARTERS = 2  # features of places are means over so many parts of each side

Positive = Annotated[int, Field(ge=1)]
Data = Literal["digits", "photographs"]
LABELLED_STRIDE = 3  # of the training photographs with labels every third: many times what the most shots ask for
TOY_STEPS, TOY_LABELLED = 4, 60
Sets = tuple[Tensor, Int[np.ndarray, " train"], Tensor, Int[np.ndarray, " test"]]


@config
class Sizes:
    """How much of a model's numbers is computed."""

    images: Positive
    times: Positive
    ode_images: Positive
    tolerance: float
    coded_images: Positive
    coding_steps: tuple[Positive, ...]
    samples: SamplesConfig
    coded_px: Annotated[int, Field(ge=0)] = 0
    """Of photographs: the side of the middles that are coded; 0: squares as the bound has them."""
    at_once: Positive = 1
    """Tiles of one call of the network."""


SIZES: dict[Data, Sizes] = {
    "digits": Sizes(
        images=297, times=32, ode_images=64, tolerance=1e-4, coded_images=100, coding_steps=(8, 16, 32), at_once=10, samples=SamplesConfig(num=256, steps=(4, 8, 16, 32), tolerances=(1e-1, 1e-2)),
    ),
    "photographs": Sizes(images=50, times=16, ode_images=16, tolerance=1e-3, coded_images=3, coding_steps=(8, 16), coded_px=128, samples=SamplesConfig(num=64, steps=(8, 32), tolerances=(1e-1, 1e-2))),
}  # fmt: skip
TOY = Sizes(images=8, times=2, ode_images=2, tolerance=1e-1, coded_images=2, coding_steps=(TOY_STEPS,), samples=SamplesConfig(num=6, steps=(2,), tolerances=(1e-1,)))


def shared(preset: TrainDensityConfig) -> TrainDensityConfig:
    """What the rows of a preset have in common: all but the schedule and the context, which they say themselves."""
    return replace(preset, model=replace(preset.model, noise=NoiseConfig(width=preset.model.noise.width), context=ContextConfig()))


RECIPE = hash_of((shared(PRESETS["digits"]), shared(PRESETS["small"]), SIZES["digits"], SIZES["photographs"]))


@config
class RunConfig:
    """One row: all that decides its numbers, but for pictures and encoder themselves."""

    data: Data = "digits"
    noise: Literal["linear", "scalar", "polynomial"] = "linear"
    context: Literal["none", "convolutional", "tokens"] = "none"
    loss_steps: Annotated[int, Field(ge=0)] = 0
    """T of the bound that is trained on; 0: continuous time."""
    steps: Positive = 1500
    recipe: str = RECIPE
    """Of the presets that trainings follow in all else, and of what is measured: rows of others are other rows."""
    seed: Annotated[int, Field(ge=0)] = 0


KINDS = {  # what is compared, three seeds of each
    "linear": RunConfig(),
    "scalar": RunConfig(noise="scalar"),
    "each pixel, no context": RunConfig(noise="polynomial"),
    "MuLAN, convolutional context": RunConfig(noise="polynomial", context="convolutional"),
    "MuLAN, context of tokens": RunConfig(noise="polynomial", context="tokens"),
}
STEPS: dict[Data, int] = {"digits": 1500, "photographs": 600}
SEEDS = 3
FEW_STEPS = 16


def rows_for(data: Data, *, loss_steps: int = 0, without: Sequence[str] = ()) -> list[RunConfig]:
    kinds = [kind for name, kind in KINDS.items() if name not in without]
    return [replace(kind, data=data, loss_steps=loss_steps, steps=STEPS[data], seed=seed) for seed in range(SEEDS) for kind in kinds]


TABLES: dict[str, list[RunConfig]] = {
    "digits": rows_for("digits"),
    "photographs": rows_for("photographs", without=("each pixel, no context",)),
    "few_steps": rows_for("digits", loss_steps=FEW_STEPS, without=("each pixel, no context", "MuLAN, context of tokens")),
}


@config
class StudyConfig(TablesConfig):
    photographs: str
    """Folder of photographs that models are trained on."""
    test_photographs: str
    """Folder of others, which they are measured on."""
    photos: str
    """Folder or tar file of labelled photographs with the splits train and test, as the evaluations take it."""
    encoder: str
    """A trained encoder (run, checkpoint or export)."""
    output: str = "outputs/density_study"
    """Folder for models; may be removed when the study is done."""
    results: str = "docs/results/density"
    """Folder for the rows' numbers, and grids of samples of the first seed."""


def main(settings: StudyConfig) -> None:
    run_tables(TABLES, settings, script=Path(__file__), toy=lambda row: replace(row, steps=TOY_STEPS), prepare=prepare, run_row=run_row)


def prepare(rows: Sequence[RunConfig], settings: StudyConfig) -> None:
    """Raises ValueError for what no row could be computed with."""
    for folder in (settings.photographs, settings.test_photographs):
        list_photographs(Path(folder))
    open_image_set(Path(settings.photos))
    load_encoder(settings.encoder)


# --- Training

def model_of(row: RunConfig, settings: StudyConfig) -> tuple[TrainedDensity, float]:
    """The trained model, and seconds of processor time that its training took. Raises ValueError for a training that a signal ended."""
    folder = Path(settings.output) / name_of(row)
    options: dict[str, Any] = {
        "--preset": "digits" if row.data == "digits" else "small", "--output": folder, "--model.noise.kind": row.noise, "--model.context.kind": row.context, "--objective.steps": row.loss_steps,
        "--fit.steps": row.steps, "--fit.seed": row.seed, "--fit.log-every": 500, "--fit.save-every": max(1, row.steps // 4),
    }  # fmt: skip
    if row.data == "digits" and row.context != "none":
        options |= {"--model.context.size": 4, "--model.context.chosen": 1}  # two bits: more would not pay for themselves in 64 pixels
    if row.data == "photographs":
        options["--source.folder"] = settings.photographs
    if row.context == "tokens":
        options["--encoder"] = settings.encoder
    path, clock = folder / "density.safetensors", folder / "seconds"
    if not path.exists():
        before = _seconds_of_children()
        command("downstream/train_density.py", *(word for pair in options.items() for word in pair))
        spent = _seconds_of_children() - before + (float(clock.read_text()) if clock.exists() else 0.0)
        clock.write_text(str(spent))
    if not path.exists():
        raise ValueError(f"{folder} was stopped by a signal; the same command continues")
    trained = load_density(path, encoder=load_encoder(settings.encoder) if row.context == "tokens" else None)
    # evenly spread times: to choose them is to choose a schedule, which rows differ in
    return replace(trained, calibration=trained.calibration.evenly()), float(clock.read_text())


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def curve_of(metrics: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Bits per dimension over the training: means of windows of steps, without a last one that is not full."""
    values = [one["train/bits_per_dim"] for one in metrics]
    window = min(WINDOW, len(values))
    ends = range(window, len(values) + 1, window)
    return {"steps": [float(end) for end in ends], "bits_per_dim": [float(np.mean(values[end - window : end])) for end in ends]}


# --- One row

def run_row(row: RunConfig, settings: StudyConfig) -> None:
    started = time.perf_counter()
    trained, train_seconds = model_of(row, settings)
    sizes, sight = TOY if settings.toy else SIZES[row.data], Sight(load_encoder(settings.encoder), SightConfig(num_layers=1))
    source = DIGITS if row.data == "digits" else settings.test_photographs
    unseen, folder = unseen_images(source, trained.settings, num=sizes.images), Path(settings.output) / name_of(row)
    chosen = middles_to_code(source, trained, num=sizes.coded_images, side_px=sizes.coded_px) if sizes.coded_px else to_code(unseen.images[: sizes.coded_images])
    measured = measure(trained, unseen, chosen, sight, sizes, grids=Path(settings.results) / name_of(row) if row.seed == 0 else None)
    measured |= {
        "labels": from_few_labels(trained, sight, *labelled(row.data, trained, settings)), "curve": curve_of(read_metrics(folder / "metrics.jsonl")), "train_seconds": train_seconds,
        "parameters": sum(one.numel() for one in trained.model.parameters()), "encoder": sight.encoder.fingerprint, "seconds": time.perf_counter() - started,
    }  # fmt: skip
    write_result(Path(settings.results) / f"{name_of(row)}.json", row, measured)
    for checkpoint in folder.glob("step-*"):
        shutil.rmtree(checkpoint)


def measure(trained: TrainedDensity, unseen: Unseen, chosen: ToCode, sight: Sight, sizes: Sizes, *, grids: Path | None) -> dict[str, Any]:
    """Likelihoods, bits and samples. All rows of the same data have the same noise."""
    u = torch.stack([levels_of(one) for one in unseen.images])
    dims, generator = u[0].numel(), torch.Generator().manual_seed(0)
    bound = in_batches(vlb, trained, u, generator, num_times=sizes.times)
    few = u[: sizes.ode_images]
    flow = ode_nats(trained, few, generator, tolerance=sizes.tolerance)[0]
    bits = [coding(trained, unseen, chosen, generator, steps=steps, at_once=sizes.at_once) for steps in sizes.coding_steps]
    ways = []
    for way, found in sampled(trained, sizes.samples, generator):
        ways.append(way | distance(sight, found, u, levels=trained.settings.levels))
        if grids is not None:
            pixels = as_grid(found[: sizes.samples.columns**2], levels=trained.settings.levels, columns=sizes.samples.columns).numpy()
            mark = Mark("trainedAlgorithmicMedia", trained.sha256, settings=f"{way['way']}, seed 0")
            save_marked(Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]), grids / f"{way['way']}.png", mark)
    mixed = u[torch.randperm(len(u), generator=generator)]
    return {
        "images": len(u), "dims": dims, "vlb": by_terms(bound, dims=dims, sources=unseen.sources) | {"of_images": of_images(bound, dims=dims)}, "coded": bits, "plain": by_plain_coders(chosen),
        "ode": as_dict(summary(flow, dims=dims, sources=unseen.sources[: len(few)])) | {"images": len(few)},
        "samples": ways, "between_halves_of_the_images": distance(sight, *mixed.chunk(2), levels=trained.settings.levels),
    }  # fmt: skip


# --- Few labels

def labelled(data: Data, trained: TrainedDensity, settings: StudyConfig) -> Sets:
    """Images and labels to learn from, and those to be tested on, in the model's form: digits, or labelled photographs whose centred squares are made small."""
    if data == "digits":
        from sklearn.datasets import load_digits

        labels = load_digits().target
        found: Sets = (_stacked(read_digits("train")), labels[:TRAIN_DIGITS], _stacked(read_digits("test")), labels[TRAIN_DIGITS:])
    else:
        photos = open_image_set(Path(settings.photos))
        parts = [photos.split(split) for split in ("train", "test")]
        parts[0] = parts[0][::LABELLED_STRIDE]
        train, test = (_stacked(small_squares(photos, places, trained.settings.size_px)) for places in parts)
        found = (train, photos.labels[parts[0]], test, photos.labels[parts[1]])
    if not settings.toy:
        return found
    train, train_labels, test, test_labels = (one[:: max(1, len(one) // TOY_LABELLED)] for one in found)
    return train, train_labels, test, test_labels


def small_squares(images: ImageSet, places: Int[np.ndarray, " chosen"], side_px: int) -> list[np.ndarray]:
    def square(data: bytes) -> np.ndarray:
        image = decode_image(data)
        return to_pixels(cut(image, Crop(centre_box(*image.size), (1, 1)), patch_px=side_px))

    return [images.read(place, square) for place in places.tolist()]


def _stacked(images: Sequence[np.ndarray]) -> Tensor:
    return torch.stack([levels_of(one) for one in images])


def from_few_labels(trained: TrainedDensity, sight: Sight, train: Tensor, train_labels: Int[np.ndarray, " train"], test: Tensor, test_labels: Int[np.ndarray, " test"]) -> dict[str, Any]:
    """Accuracy by a ridge regression on each kind of features, from few labelled images of each class: mean and deviation over three draws of them."""
    ours, theirs = (features_of(trained, sight, u) for u in (train, test))
    most = int(np.bincount(train_labels)[np.unique(train_labels)].min())
    return {
        name: {str(shots): few_shot_accuracy(ours[name], train_labels, theirs[name], test_labels, shots=shots) for shots in SHOTS if shots <= most} for name in ours
    }  # fmt: skip


@torch.no_grad()
def features_of(trained: TrainedDensity, sight: Sight, u: Tensor) -> dict[str, Float[np.ndarray, "images width"]]:
    """Of images: their pixels, the encoder's tokens, the denoiser's middle at two times, and the logits of their context, where there is one."""
    model, found = trained.model, {}
    generator = torch.Generator().manual_seed(0)
    for batch in u.split(AT_ONCE):
        x = to_data(batch, levels=trained.settings.levels)
        context = model.draw_context(x, generator).context
        parts = {"pixels": x, "tokens": token_maps(sight, x)}
        for time_of in FEATURE_TIMES:
            gamma = model.path(context, *x.shape[-2:])(torch.full((len(x),), time_of))
            parts[f"denoiser at {time_of}"] = model.denoise(diffuse(x, torch.randn(x.shape, generator=generator), gamma), gamma, context).middle
        rows = {name: (value if name == "pixels" else functional.adaptive_avg_pool2d(value, QUARTERS)).flatten(1) for name, value in parts.items()}
        if model.context_logits is not None:
            rows["context"] = model.logits(x)
        for name, value in rows.items():
            found.setdefault(name, []).append(value.double().numpy())
    return {name: np.concatenate(values) for name, values in found.items()}


if __name__ == "__main__":
    run_command(StudyConfig, main, description=__doc__.splitlines()[0])
