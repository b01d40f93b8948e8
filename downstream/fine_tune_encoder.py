"""Entry point: an encoder trained further on pages of yours, and whether that gained anything on labelled pictures that no page needs to show.

    python downstream/fine_tune_encoder.py --crawl mine --labelled pictures --output outputs/mine                   (from the encoder that comes with lcl)
    python downstream/fine_tune_encoder.py --shards shards --labelled pictures --model outputs/run --output outputs/mine

    crawl --build_shards--> shards                        model --eval_PROBE on the labelled pictures--> before
    tower and pooling of the model, shards --pretrain--> OUTPUT/training --eval_PROBE--> after --paired by picture--> OUTPUT/report.json, report.md

Each step is a command of this project (downstream/stages.py); the same command again does what is left. What is trained on photographs alone: downstream/fine_tune.py.
"""

import hashlib
from collections.abc import Iterator
from math import gcd
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from downstream.before_after import of_probes
from downstream.fine_tune_report import write_report
from downstream.stages import Stage, deepspeed, in_words, python, ray_job, run_stages
from lcl.commands import check_checkout
from lcl.core.config import claim_folder, config, run_command
from lcl.core.files import files_below, sha256_of
from lcl.core.logs import set_up_logging
from lcl.core.shards import find_shards, fingerprint_of
from lcl.core.shipped import ENCODER, or_shipped
from lcl.core.tokenizer import Tokenizer
from lcl.evals.classification import divide
from lcl.evals.image_sets import open_image_set
from lcl.evals.knn import KnnConfig
from lcl.features import load_encoder
from lcl.model import LCL
from lcl.start import StartConfig, load_start
from lcl.train_config import PRESETS

Probe = Literal["linear_probe", "attentive_probe", "knn", "few_shot"]

MOST_RANKS_ON_CPU = 2
NEAR_TOKENS = 48      # of text that are read before each image: whole pages of much text leave few images in a step (docs/flagship.md)
WARMUP_RATIO = 0.025  # of the steps
SAVES = 6             # checkpoints of a training


@config
class FineTuneEncoderConfig:
    labelled: str
    """Labelled pictures with the splits train and test, as the evaluations take them: what the encoder is worth before and after. Probes are fitted to the first, and the second is judged."""
    test_part: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the labelled pictures that is drawn as the split test where there is none, the same for every run."""
    crawl: tuple[str, ...] = ()
    """Crawl files of pages with images, or folders of them."""
    shards: tuple[str, ...] = ()
    """In their place: folders of shards that are built already."""
    output: str = "outputs/fine_tuned_encoder"
    """Folder for shards, run, results and report; the same command again does what is left."""
    model: str = ""
    """The encoder to start from (checkpoint, run or export); empty: the one that comes with lcl."""
    recipe: str = "photo_pages"
    """A preset of `lcl pretrain`: one with the tower that the encoder has. The language model beside it begins anew."""
    probes: tuple[Probe, ...] = ("linear_probe", "knn")
    """Protocols that the encoder is judged by."""
    steps: Annotated[int, Field(ge=1)] = 2000
    """Of the training."""
    learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """At its peak; 0: that of the preset."""
    num_ranks: Annotated[int, Field(ge=0)] = 0
    """Training processes; 0 takes one per GPU, or two on a CPU."""


def main(settings: FineTuneEncoderConfig) -> None:
    set_up_logging()
    check_checkout()
    model, output = or_shipped(settings.model, ENCODER).resolve(), Path(settings.output).resolve()
    check(settings, model)
    labelled = open_image_set(Path(settings.labelled), test_part=settings.test_part).index_sha256
    output.mkdir(parents=True, exist_ok=True)
    free = ("output", "model", "labelled", "crawl", "shards", "probes", "num_ranks")  # files count by what is in them, and the stages know their commands
    claim_folder(output, settings, free=free, what="fine-tuning", weights=load_encoder(model).fingerprint, labelled_pictures=labelled, pages=fingerprint_of_pages(settings))
    run_stages(list(stages_of(settings, model, output)), output)
    report(settings, model, output)


def describe(settings: FineTuneEncoderConfig) -> str:
    """What it would do. Raises ValueError as `check`."""
    check_checkout()
    model, output = or_shipped(settings.model, ENCODER).resolve(), Path(settings.output).resolve()
    check(settings, model)
    return f"from {model}\n{in_words(list(stages_of(settings, model, output)), output)}"


def fingerprint_of_pages(settings: FineTuneEncoderConfig) -> str:
    """Changes when a shard or a crawl file does. Reads every crawl file once."""
    if settings.shards:
        return fingerprint_of(find_shards([Path(folder) for folder in settings.shards]))
    return hashlib.sha256(" ".join(sha256_of(path) for path in crawl_files(settings)).encode()).hexdigest()


def crawl_files(settings: FineTuneEncoderConfig) -> list[Path]:
    """Raises ValueError for a folder that holds none."""
    found = [(path, list(files_below(path)) if path.is_dir() else [path]) for path in map(Path, settings.crawl)]
    for path, files in found:
        if not files:
            raise ValueError(f"{path} holds no file: --crawl takes crawl files of pages with images (.warc.gz, .arc.gz), or folders of them")
    return [file for _, files in found for file in files]


def check(settings: FineTuneEncoderConfig, model: Path) -> None:
    """Raises ValueError for what would fail after minutes of other stages."""
    if bool(settings.crawl) == bool(settings.shards):
        raise ValueError("give --crawl, files or folders of pages, or --shards that are built already: one of the two")
    for name in (*settings.crawl, *settings.shards):
        if not Path(name).exists():
            raise ValueError(f"{name}: no such file or folder")
    find_shards([Path(folder) for folder in settings.shards])
    crawl_files(settings)
    if not settings.probes:
        raise ValueError("--probes is empty: name at least one")
    num_train, fewest = len(divide(open_image_set(Path(settings.labelled), test_part=settings.test_part), seed=0).train), min(KnnConfig().neighbours)
    if "knn" in settings.probes and num_train < fewest:
        raise ValueError(f"--probes knn lets at least {fewest} pictures vote, and --labelled {settings.labelled} leaves {num_train} of its split train: leave it out (--probes linear_probe), or give more pictures")
    if settings.recipe not in PRESETS:
        raise ValueError(f"--recipe {settings.recipe}: there are {', '.join(PRESETS)}")
    preset = PRESETS[settings.recipe]
    if settings.num_ranks and preset.batch_rows % settings.num_ranks:
        raise ValueError(f"--num-ranks {settings.num_ranks}: a step has {preset.batch_rows} rows, which so many cannot share evenly")
    tokenizer = Tokenizer(preset.model.tokenizer)
    load_start(LCL.for_tokenizer(preset.model, tokenizer, regression=False), StartConfig(vision=str(model)), tokenizer)


def stages_of(settings: FineTuneEncoderConfig, model: Path, output: Path) -> Iterator[Stage]:
    """The evaluation of what is there comes first: what is wrong with the labelled pictures is known before the training."""
    labelled, training = str(Path(settings.labelled).resolve()), str(output / "training")
    drawn = ("--test-part", str(settings.test_part)) if settings.test_part else ()

    def probed(name: str, checkpoint: str, says: str) -> Stage:
        return Stage(name, says, tuple(
            python(f"lcl/eval_{probe}.py", "--checkpoint", checkpoint, "--data", labelled, *drawn, "--output", str(result_of(output, name, probe)), "--controls") for probe in settings.probes
        ))  # fmt: skip

    yield probed("before", str(model), "the encoder as it is, on the labelled pictures")
    shards = [str(Path(path).resolve()) for path in settings.shards]
    if not shards:
        shards = [str(output / "shards")]
        crawl = [str(Path(path).resolve()) for path in settings.crawl]
        yield Stage("shards", "documents of images and text, by the rules of `lcl build-shards` as they are; for others build them and give --shards", (ray_job("pipeline/build_shards.py", "--crawl", *crawl, "--output", *shards),), needs_ray=True)
    preset = PRESETS[settings.recipe]
    ranks = settings.num_ranks or next(num for num in range(torch.cuda.device_count() or MOST_RANKS_ON_CPU, 0, -1) if preset.batch_rows % num == 0)
    options = [
        "--preset", settings.recipe, "--start.vision", str(model), "--data.shards", *shards, "--data.layout.near-tokens", str(NEAR_TOKENS), "--steps", str(settings.steps),
        "--save-every", str(-(-settings.steps // SAVES)), "--optimizer.schedule.warmup-steps", str(round(WARMUP_RATIO * settings.steps)), "--micro-rows", str(gcd(preset.micro_rows, preset.batch_rows // ranks)),
    ]  # fmt: skip
    options += ["--optimizer.learning-rate", str(settings.learning_rate)] if settings.learning_rate else []
    yield Stage("training", "from its tower and pooling, on these", (deepspeed("lcl/pretrain.py", *options, "--output", training, ranks=ranks),), trains=(training,))
    yield probed("after", training, "the new encoder, on the labelled pictures")


def result_of(output: Path, name: str, probe: Probe) -> Path:
    return output / "results" / name / f"{probe}.json"


def report(settings: FineTuneEncoderConfig, model: Path, output: Path) -> None:
    measures = [measure for probe in settings.probes for measure in of_probes(*(result_of(output, name, probe) for name in ("before", "after")))]
    num, training = len(measures[0].photographs), output / "training"
    weights = {"before": load_encoder(model).fingerprint, "after": load_encoder(training).fingerprint, "file": str(training)}
    shards = find_shards([Path(folder) for folder in settings.shards] or [output / "shards"])
    pages, images = sum(map(len, shards)), int(sum(shard.catalogue(["num_images"])["num_images"].to_numpy().sum() for shard in shards))
    record = {"kind": "encoder", "weights": weights, "num_pictures": num, "num_documents": pages, "num_images": images}
    write_report(
        settings, output, measures, record=record, heading="An encoder fine-tuned on pages",
        means=f"Means over {num} labelled pictures of {settings.labelled}, split test; {settings.steps} steps on {pages} pages with {images} images.",
        ending=[f"From `{model}` ({weights['before'][:16]}) to the new encoder: `{training}` ({weights['after'][:16]})."],
    )  # fmt: skip


if __name__ == "__main__":
    run_command(FineTuneEncoderConfig, main, description=__doc__.splitlines()[0], describe=describe)
