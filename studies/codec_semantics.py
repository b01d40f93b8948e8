"""Entry point: what a pretrained encoder is worth to a codec, judged by classifiers that were trained from pixels.

    python studies/codec_semantics.py --photos clothes.tar --photographs photos --encoder run --output outputs/semantics --results docs/results/codec_semantics

    photographs --train_codec, plain or with an encoder's adapter or distortion--> codec
    labelled test pictures --codec, refined or not, with what an encoder sees or without--> files --> bytes, PSNR, and what three judges make of them --> RESULTS/HASH.json

Judges are small convolutional networks, trained on the pixels of the train split, uncompressed. Rows are computed in the order of TABLES, finished ones are passed over, and an
interrupted one continues. `studies/codec_semantics_page.py` makes a table and a picture of them.
"""

import shutil
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from commands import command
from jaxtyping import Int, UInt8
from pixel_judge import Judge, load_judge, log_probabilities, save_judge, train_judge
from pydantic import Field
from random_twin import random_twin_of
from table import TablesConfig, name_of, run_tables

from downstream.codec.coding import Latents
from downstream.codec.image_codec import decode, encode
from downstream.codec.measuring import psnr_db
from downstream.codec.model import Codec
from downstream.codec.model_file import TrainedCodec, load_codec
from downstream.codec.refine import RefineConfig, Semantic, refine
from downstream.codec.train_config import PRESETS
from downstream.photographs import list_photographs, to_tensor
from downstream.sight import Sight, SightConfig
from lcl.core.config import config, hash_of, run_command
from lcl.core.images import decode_image, to_pixels
from lcl.crops import Crop, centre_box, cut
from lcl.evals.image_sets import ImageSet, open_image_set
from lcl.features import load_encoder
from lcl.measured import write_result

SIDE_PX = 128
LMBDAS = (0.0005, 0.001, 0.002, 0.004, 0.008)  # rates at which classifiers begin to fail
ALL_LEVELS = tuple(range(len(LMBDAS)))
SEMANTIC_LEVELS = (1, 3)  # at which refinements look through an encoder: a low rate and a higher one
NUM_JUDGES, JUDGE_EPOCHS = 3, 40
EMA_DECAY = 0.99  # of codecs: 1500 steps are few for the preset's
DRAW_SEED = 0  # of the order in which test pictures are taken
TOY_IMAGES, TOY_STEPS, TOY_ITERATIONS, TOY_PHOTOS = 6, 4, 3, 64

Positive = Annotated[int, Field(ge=1)]
Weights = Literal["none", "trained", "random"]


@config
class CodecRow:
    """A codec and its training."""

    adapter: Literal["off", "tokens", "latents"] = "off"
    """latents: the adapter looks at y itself. With y as wide as the tokens that the encoder gives, it has as many weights."""
    gamma: Annotated[float, Field(ge=0)] = 0.0
    encoder: Weights = "none"
    """random: the same encoder at its random start."""
    latent_width: Positive = 128
    """As many as two layers of a tower of width 64 have."""
    steps: Positive = 1500
    recipe: str = hash_of(PRESETS["small"])
    """Of the preset that trainings follow in all else: rows of another are other rows."""
    seed: Annotated[int, Field(ge=0)] = 0


@config
class RunConfig:
    """One row: all that decides its numbers, but for pictures and encoder themselves."""

    codec: CodecRow = CodecRow()
    levels: tuple[int, ...] = ALL_LEVELS
    iterations: Annotated[int, Field(ge=0)] = 0
    """Of the refinement; 0: none."""
    gamma: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the semantic distortion in the refinement."""
    encoder: Weights = "none"
    """Of the refinement."""
    max_patches: Annotated[int, Field(ge=0)] = 0
    """That the encoder of the refinement sees; 0: as many as it was trained on."""
    num_images: Annotated[int, Field(ge=0)] = 0
    """Test pictures; 0: all."""


PLAIN = CodecRow()
REFINED = RunConfig(iterations=200, num_images=124)
GAMMAS = (1.0, 4.0)


def looking_rows(level: int) -> list[RunConfig]:
    """With the trained encoder and with its random twin at each weight; and with the trained one looking closer."""
    base = replace(REFINED, levels=(level,))
    rows = [replace(base, gamma=gamma, encoder=encoder) for gamma in GAMMAS for encoder in ("trained", "random")]
    return rows + [replace(base, gamma=GAMMAS[-1], encoder="trained", max_patches=patches) for patches in (64, 256)]


CODECS = {  # what is trained, three seeds of each
    "plain": PLAIN,
    "adapter": replace(PLAIN, adapter="tokens", encoder="trained"),
    "adapter, random encoder": replace(PLAIN, adapter="tokens", encoder="random"),
    "adapter, no encoder": replace(PLAIN, adapter="latents"),
    "distortion": replace(PLAIN, gamma=GAMMAS[-1], encoder="trained"),
    "distortion, random encoder": replace(PLAIN, gamma=GAMMAS[-1], encoder="random"),
}
SEEDS = 3

TABLES: dict[str, list[RunConfig]] = {
    "refinement": [replace(REFINED, levels=(level,)) for level in ALL_LEVELS] + [row for level in SEMANTIC_LEVELS for row in looking_rows(level)],
    "training": [RunConfig(codec=replace(codec, seed=seed)) for seed in range(SEEDS) for codec in CODECS.values()],
}


@config
class StudyConfig(TablesConfig):
    photos: str
    """Folder or tar file of labelled photographs with the splits train and test, as the evaluations take it."""
    photographs: str
    """Folder of photographs that codecs are trained on."""
    encoder: str
    """A trained encoder (run, checkpoint or export)."""
    output: str = "outputs/codec_semantics"
    """Folder for codecs and the random encoder; may be removed when the study is done."""
    results: str = "docs/results/codec_semantics"
    """Folder for the rows' numbers, and the judges: rows that are computed later, elsewhere, are to have the same."""


def main(settings: StudyConfig) -> None:
    run_tables(TABLES, settings, script=Path(__file__), toy=toy, prepare=prepare, run_row=run_row)


def toy(row: RunConfig) -> RunConfig:
    return replace(row, num_images=TOY_IMAGES, iterations=min(row.iterations, TOY_ITERATIONS), codec=replace(row.codec, steps=TOY_STEPS))


def prepare(rows: list[RunConfig], settings: StudyConfig) -> None:
    """Makes what several rows share, where it is missing: the random encoder, the judges, codecs that are refined with."""
    list_photographs(Path(settings.photographs))
    encoder_path("random", settings)
    judges(settings)
    for codec in dict.fromkeys(row.codec for row in rows if row.iterations):
        codec_path(codec, settings)


# --- Encoders, judges, codecs

def encoder_path(weights: Weights, settings: StudyConfig) -> Path:
    """The encoder that was trained, or a checkpoint of its random twin."""
    if weights == "trained":
        return Path(settings.encoder)
    return random_twin_of(settings.encoder, Path(settings.output) / "random_encoder")


def judges(settings: StudyConfig) -> list[Judge]:
    found = []
    for seed in range(NUM_JUDGES):
        path = Path(settings.results) / "judges" / f"{seed}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            images = labelled(settings.photos)
            places = images.split("train")[: TOY_PHOTOS if settings.toy else None]
            save_judge(train_judge(squares(images, places), images.labels[places], num_classes=len(images.classes), epochs=1 if settings.toy else JUDGE_EPOCHS, seed=seed), path)
        found.append(load_judge(path))
    return found


def codec_path(row: CodecRow, settings: StudyConfig) -> Path:
    """The trained codec's file."""
    folder = Path(settings.output) / "codecs" / hash_of(row)
    if not (folder / "codec.safetensors").exists():
        options = {
            "--preset": "small", "--photographs": settings.photographs, "--output": folder, "--crop-px": SIDE_PX, "--model.mean-scale.width": 32,
            "--model.mean-scale.latent-width": row.latent_width, "--model.num-levels": len(LMBDAS), "--model.adapter.source": row.adapter, "--objective.gamma": row.gamma,
            "--fit.steps": row.steps, "--fit.batch-items": 8, "--fit.micro-items": 8, "--fit.seed": row.seed, "--fit.log-every": 500, "--optimizer.ema-decay": EMA_DECAY,
        }  # fmt: skip
        if row.encoder != "none":
            options["--encoder"] = encoder_path(row.encoder, settings)
        command("downstream/train_codec.py", *(word for pair in options.items() for word in pair), "--objective.lmbdas", *LMBDAS)
        for checkpoint in folder.glob("step-*"):
            shutil.rmtree(checkpoint)
    return folder / "codec.safetensors"


# --- Pictures

@cache
def labelled(path: str) -> ImageSet:
    return open_image_set(Path(path))


def squares(images: ImageSet, places: Int[np.ndarray, " chosen"]) -> UInt8[np.ndarray, "chosen side side 3"]:
    """The centred squares of the pictures, SIDE_PX wide."""
    def square(data: bytes) -> UInt8[np.ndarray, "side side 3"]:
        image = decode_image(data)
        return to_pixels(cut(image, Crop(centre_box(*image.size), (1, 1)), patch_px=SIDE_PX))

    return np.stack([images.read(place, square) for place in places.tolist()])


# --- One row

def run_row(row: RunConfig, settings: StudyConfig) -> None:
    started = time.perf_counter()
    path = codec_path(row.codec, settings)
    encoder = load_encoder(encoder_path(row.codec.encoder, settings)) if row.codec.encoder != "none" else None
    trained = load_codec(path, encoder=encoder if row.codec.adapter == "tokens" else None)
    sight = Sight(load_encoder(encoder_path(row.encoder, settings)), SightConfig(max_patches=row.max_patches)) if row.encoder != "none" else None
    images = labelled(settings.photos)
    places = np.random.default_rng(DRAW_SEED).permutation(images.split("test"))[: row.num_images or None]
    pictures, labels, panel = squares(images, places), images.labels[places], judges(settings)
    looking = Sight(load_encoder(settings.encoder), SightConfig())
    original, levels = judged(panel, pictures, labels), []
    for level in row.levels:
        files = [encode(trained, pixels, level=level, refine=partial(refined, row=row, lmbda=trained.lmbda(level), sight=sight) if row.iterations else None) for pixels in pictures]
        decoded = np.stack([decode(trained, file.data) for file in files])
        levels.append(
            {
                "level": level, "bytes": [len(file.data) for file in files], "psnr_db": [psnr_db(*pair) for pair in zip(pictures, decoded, strict=True)],
                "distance": distances(looking, pictures, decoded), **judged(panel, decoded, labels),
            }
        )  # fmt: skip
    measured = {
        "ids": [images.ids[place] for place in places.tolist()], "original": original, "levels": levels, "parameters": parameters(trained),
        "photos": images.index_sha256, "encoder": looking.encoder.fingerprint, "seconds": time.perf_counter() - started,
    }  # fmt: skip
    write_result(Path(settings.results) / f"{name_of(row)}.json", row, measured)


def refined(codec: Codec, x: torch.Tensor, at: torch.Tensor | None, inside: torch.Tensor, *, row: RunConfig, lmbda: float, sight: Sight | None) -> Latents:
    semantic = None if sight is None else Semantic(sight, row.gamma)
    return refine(codec, x, RefineConfig(iterations=row.iterations), lmbda=lmbda, level=at, weights=inside, semantic=semantic).latents


def judged(panel: list[Judge], pictures: UInt8[np.ndarray, "images side side 3"], labels: Int[np.ndarray, " images"]) -> dict[str, list[list[float]]]:
    """Of each judge and picture: whether its class was found (1 or 0), and -ln p of the true class."""
    found = log_probabilities(panel, pictures)
    nats = -found[:, np.arange(len(labels)), labels]
    return {"right": (found.argmax(axis=2) == labels).astype(int).tolist(), "nats": np.round(nats, 5).tolist()}


@torch.no_grad()
def distances(sight: Sight, pictures: UInt8[np.ndarray, "images side side 3"], decoded: UInt8[np.ndarray, "images side side 3"]) -> list[float]:
    """1 - cos in the trained encoder's own sight, of each picture."""
    return [float(sight.distance(sight.tokens(to_tensor(one)[None]), to_tensor(other)[None])) for one, other in zip(pictures, decoded, strict=True)]


def parameters(trained: TrainedCodec) -> dict[str, int]:
    """Of the codec, and of what only its encoding side has."""
    adapter = trained.codec.adapter
    return {"codec": sum(one.numel() for one in trained.codec.parameters()), "adapter": 0 if adapter is None else sum(one.numel() for one in adapter.parameters())}


if __name__ == "__main__":
    run_command(StudyConfig, main, description=__doc__.splitlines()[0])
