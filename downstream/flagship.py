"""Entry point: the whole chain on one machine, from crawl files and photographs to an encoder and the models that reuse it, each evaluated.

    crawl, labelled pictures --(Ray)--> shards --(DeepSpeed)--> encoder --> probes
                                     photographs --(DeepSpeed)--> codec, lossless coder, restorers, detector --> what each is worth on unseen ones
    all of them --> report.html, and a gallery of the unseen photographs

    python downstream/flagship.py --crawl corpus/*.warc.gz --labelled clothes.tar --photographs photos --unseen others --output outputs/flagship

Stages are commands of this project (downstream/stages.py); the same command again does what is left.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from downstream.photographs import list_photographs
from downstream.restore.degradations import PARTS
from downstream.stages import Stage, Words, deepspeed, python, ray_job, run_stages
from lcl.commands import check_checkout
from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.evals.image_sets import open_image_set

TONES = ("--model.tones", "True")  # of the whole picture, for what its neighbourhoods do not tell: how light the scene was
RESTORERS: dict[str, tuple[Words, Words]] = {  # by name: what it is trained for, and how; one for all was worse than the blurred pictures themselves (docs/flagship.md)
    "rain": (("rain",), ()), "noise": (("noise", "shot_noise", "grain"), ()), "motion_blur": (("motion_blur",), ()), "low_light": (("low_light",), TONES), "mixed": (("mixed",), TONES),
}  # fmt: skip
NEAR_TOKENS = "48"  # of text before each image: whole chapters of the crawl left 7 images a step, and so there are 36 (docs/flagship.md)
MANY = ("--dedup.exact-text", "False", "--dedup.near.on", "False", "--dedup.image-set", "False", "--dedup.max-image-url-documents", "0", "--dedup.max-image-hash-documents", "0")


@config
class FlagshipConfig:
    crawl: tuple[str, ...]
    """Crawl files of real pages, or folders of them."""
    labelled: str
    """Labelled pictures with the splits train and test, as the evaluations take them: pages are composed around the first, and the encoder is judged by the second."""
    photographs: str
    """Folder of photographs that codec, lossless coder and restorer are trained on."""
    unseen: str
    """Folder of others, which they are measured on."""
    output: str = "outputs/flagship"
    """Folder for all that is made, files of shards, models and results; the same command again does what is left."""
    stages: tuple[str, ...] = ()
    """Only these; by default all, in order."""
    num_ranks: Annotated[int, Field(ge=0)] = 0
    """Training processes; 0 takes one per GPU, or two on a CPU."""
    scale: Literal["full", "short", "toy"] = "full"
    """short: the same encoder, and the other models with about a third of the steps; toy: a few steps of the smallest, to try the chain itself."""


@dataclass(frozen=True)
class Recipe:
    """All that differs between the real chain and the one that tests run: options of each stage's commands."""

    pages: Words
    encoder: Words
    encoder_rows: int
    """Of a step, which ranks share; likewise the restorer's crops."""
    probes: tuple[str, ...]
    codec: Words
    codec_eval: Words
    refined: Words
    density: Words
    density_eval: Words
    restorer: Words
    restorer_items: int
    restorer_eval: Words
    detector: Words
    detector_eval: Words
    gallery: Words


FULL = Recipe(
    pages=("--relevance", "1.0", "--appearances", "40"),
    encoder=("--preset", "photo_pages"),
    encoder_rows=4,
    probes=("linear_probe", "attentive_probe", "knn", "zero_shot"),
    codec=("--preset", "small"),
    codec_eval=("--profiles", "fast", "portable"),
    refined=("--crop-px", "256", "--max-photographs", "6", "--refine", "500"),
    density=("--preset", "small", "--fit.steps", "10000"),
    density_eval=("--num-images", "100", "--coding-steps", "16", "32", "64", "--coded-px", "128", "--coded-images", "6"),
    restorer=("--preset", "small"),
    restorer_items=8,
    restorer_eval=("--crop-px", "256", "--steps", "1", "2"),
    detector=("--preset", "small"),
    detector_eval=("--crop-px", "256", "--degradations.tasks", *PARTS, "mixed"),
    gallery=(),
)
SHORT = replace(
    FULL,
    codec=("--preset", "small", "--fit.steps", "4000"),
    refined=("--crop-px", "256", "--max-photographs", "4", "--refine", "200"),
    density=("--preset", "small", "--fit.steps", "2500"),
    density_eval=("--num-images", "50", "--coding-steps", "16", "--coded-px", "128", "--coded-images", "3"),
    restorer=("--preset", "small", "--fit.steps", "1200"),
    detector=("--preset", "small", "--fit.steps", "2500"),
)
TOY = Recipe(
    pages=("--relevance", "1.0", "--appearances", "2"),
    encoder=("--preset", "photo_pages", "--steps", "4", "--save-every", "4"),
    encoder_rows=4,
    probes=("knn",),
    codec=("--preset", "toy"),
    codec_eval=("--classic", "JPEG"),
    refined=("--crop-px", "64", "--max-photographs", "1", "--refine", "3", "--classic", "JPEG"),
    density=("--preset", "small", "--fit.steps", "2"),
    density_eval=("--num-images", "4", "--times", "2", "--ode-images", "0", "--coding-steps", "2", "--coded-images", "2", "--samples.num", "0"),
    restorer=("--preset", "toy"),
    restorer_items=4,
    restorer_eval=("--crop-px", "64", "--steps", "1"),
    detector=("--preset", "toy"),
    detector_eval=("--crop-px", "64", "--degradations.tasks", "noise", "low_light"),
    gallery=("--num", "2", "--crop-px", "64"),
)


def main(settings: FlagshipConfig) -> None:
    set_up_logging()
    check_checkout()
    check_inputs(settings)
    output = Path(settings.output).resolve()
    run_stages(list(stages_of(settings, output)), output, only=settings.stages)


def check_inputs(settings: FlagshipConfig) -> None:
    """Raises ValueError or FileNotFoundError for an input that is not there, before hours are spent on the others."""
    for name in settings.crawl:
        if not Path(name).exists():
            raise ValueError(f"--crawl {name}: no such crawl file or folder")
    open_image_set(Path(settings.labelled))
    trained_on, others = (list_photographs(Path(folder)) for folder in (settings.photographs, settings.unseen))
    both = {path.resolve() for path in trained_on} & {path.resolve() for path in others}
    if both:
        raise ValueError(f"--unseen holds {min(both)}, which models are trained on: measure on others")


def stages_of(settings: FlagshipConfig, output: Path) -> Iterator[Stage]:
    recipe = {"full": FULL, "short": SHORT, "toy": TOY}[settings.scale]
    ranks = settings.num_ranks or torch.cuda.device_count() or 2
    labelled, photographs, unseen = (str(Path(path).resolve()) for path in (settings.labelled, settings.photographs, settings.unseen))
    crawl = [str(Path(path).resolve()) for path in settings.crawl]

    def at(name: str) -> str:
        return str(output / name)

    yield Stage(
        "shards", "documents of images and text, from real pages and from pages around the labelled pictures",
        (
            python("pipeline/samples/compose_pages.py", "--photos", labelled, "--split", "train", "--output", at("pages"), *recipe.pages),
            ray_job("pipeline/build_shards.py", "--crawl", at("pages/pages.warc.gz"), "--output", at("shards/pages"), "--images.min-side-px", "64", *MANY),
            ray_job("pipeline/build_shards.py", "--crawl", *crawl, "--output", at("shards/crawl")),
        ),
        needs_ray=True,
    )  # fmt: skip
    shards = ("--data.shards", at("shards/pages"), at("shards/crawl"), "--data.weights", "0.8", "0.2", "--data.layout.near-tokens", NEAR_TOKENS)
    rows = ("--micro-rows", str(max(1, recipe.encoder_rows // ranks)))
    yield Stage("encoder", "Latent Compression Learning on both", (deepspeed("lcl/pretrain.py", *recipe.encoder, *rows, *shards, "--output", at("encoder"), ranks=ranks),), trains=(at("encoder"),))
    yield Stage("probes", "what the encoder knows of pictures that no page shows", tuple(
        python(f"lcl/eval_{name}.py", "--checkpoint", at("encoder"), "--data", labelled, "--output", at(f"results/{name}.json"), *(("--spec", at("pages/classes.json")) if name == "zero_shot" else ()))
        for name in recipe.probes
    ))  # fmt: skip
    codec = ("--model", at("codec/codec.safetensors"), "--photographs", unseen)
    yield Stage("codec", "a codec of several rates", (deepspeed("downstream/train_codec.py", *recipe.codec, "--photographs", photographs, "--output", at("codec"), ranks=ranks),), trains=(at("codec"),))
    yield Stage("codec_eval", "beside JPEG, WebP, AVIF and JPEG 2000, plain and refined", (
        python("downstream/eval_codec.py", *codec, "--output", at("codec_eval"), *recipe.codec_eval), python("downstream/eval_codec.py", *codec, "--output", at("codec_refined"), *recipe.refined),
    ))  # fmt: skip
    density = ("--model", at("density/density.safetensors"), "--source", unseen, "--output", at("density_eval"))
    yield Stage("density", "a lossless coder", (deepspeed("downstream/train_density.py", *recipe.density, "--source.folder", photographs, "--output", at("density"), ranks=ranks),), trains=(at("density"),))
    yield Stage("density_eval", "beside PNG, WebP and JPEG XL", (python("downstream/eval_density.py", *density, *recipe.density_eval),))
    items = ("--fit.micro-items", str(max(1, recipe.restorer_items // ranks)))
    yield Stage("restorers", "one for each of " + ", ".join(RESTORERS), tuple(
        deepspeed("downstream/train_restorer.py", *recipe.restorer, *options, *items, "--photographs", photographs, "--degradations.tasks", *tasks, "--output", at(f"restorers/{name}"), ranks=ranks)
        for name, (tasks, options) in RESTORERS.items()
    ), trains=tuple(at(f"restorers/{name}") for name in RESTORERS))  # fmt: skip
    yield Stage("restorers_eval", "beside classical filters", tuple(
        python("downstream/eval_restorer.py", "--models", at(f"restorers/{name}/restorer.safetensors"), "--photographs", unseen, "--degradations.tasks", *tasks, "--output", at(f"restorers_eval/{name}"), *recipe.restorer_eval)
        for name, (tasks, _) in RESTORERS.items()
    ))  # fmt: skip
    yield Stage("detector", "what spoils a picture, by which a restorer is chosen", (
        python("downstream/train_detector.py", "--photographs", photographs, "--output", at("detector"), *recipe.detector),
        python("downstream/eval_detector.py", "--model", at("detector"), "--photographs", unseen, "--output", at("detector_eval"), *recipe.detector_eval),
    ), trains=(at("detector"),))  # fmt: skip
    models = ("--encoder", at("encoder"), "--codec", at("codec/codec.safetensors"), "--density", at("density/density.safetensors"), "--restorers", *(at(f"restorers/{name}/restorer.safetensors") for name in RESTORERS))
    yield Stage("pages", "to look at: report.html and gallery/index.html", (
        python("lcl/report.py", "--shards", at("shards/crawl"), "--run", at("encoder"), "--results", *(at(f"results/{name}.json") for name in recipe.probes), "--output", at("report.html")),
        python("downstream/gallery.py", "--photographs", unseen, *models, *recipe.gallery, "--output", at("gallery")),
    ))  # fmt: skip


if __name__ == "__main__":
    run_command(FlagshipConfig, main, description=__doc__.splitlines()[0])
