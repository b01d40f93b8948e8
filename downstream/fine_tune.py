"""Entry point: a codec, density model or restorer trained further on photographs of yours, and whether that gained anything on some that were held out (an encoder: lcl fine-tune encoder).

    python downstream/fine_tune.py codec --photographs mine --output outputs/mine                                   (from the weights that come with lcl)
    python downstream/fine_tune.py restorer --photographs mine --model restorer.safetensors --output outputs/mine

    photographs --by their hashes--> train, held out          model --eval_KIND on the held out--> before
    model, train --train_KIND--> OUTPUT/training/KIND.safetensors --eval_KIND on the held out--> after --paired by photograph--> OUTPUT/report.json, report.md

Each step is a command of this project (downstream/stages.py), with its config in OUTPUT/configs; the same command again does what is left.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import tyro
from pydantic import Field

from downstream.before_after import measures_of
from downstream.fine_tune_plan import Kind, Plan, Wanted, crop_px, find_model, plan_of
from downstream.fine_tune_report import write_report
from downstream.held_out import Photograph, Split, link_to, read_folder, split
from downstream.photographs import check_usable, list_photographs
from downstream.stages import Stage, deepspeed, in_words, python, run_stages
from lcl.commands import check_checkout
from lcl.core.config import claim_folder, config, run_command, to_dict
from lcl.core.files import open_aside, read_json, sha256_of, write_json
from lcl.core.logs import set_up_logging

MOST_RANKS_ON_CPU = 2
HEADINGS: dict[Kind, str] = {"codec": "A codec", "density": "A density model", "restorer": "A restorer"}


@config
class FineTuneConfig:
    kind: tyro.conf.Positional[Kind]
    """What the model is."""
    photographs: str
    """Folder of photographs, which stay as they are."""
    output: str = "outputs/fine_tuned"
    """Folder for the files of weights, results and report; the same command again does what is left."""
    model: str = ""
    """The weights to start from: a file of `lcl train`, or its run's folder; empty: those that come with lcl."""
    encoder: str = ""
    """The encoder (checkpoint, run or export) that the model was trained with, where it was."""
    task: str = ""
    """Of restorers that come with lcl, the one to start from: rain, noise ..."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Part of the photographs that is measured on and not trained on, about: of each its hash decides; three in any case."""
    steps: Annotated[int, Field(ge=1)] = 300
    """Of the training."""
    learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """At its peak; 0: a tenth of what the kind's preset has for random weights."""
    num_ranks: Annotated[int, Field(ge=0)] = 0
    """Training processes; 0 takes one per GPU, or two on a CPU, less where a step does not divide."""
    measured_px: Annotated[int, Field(ge=64)] = 512
    """Codecs and restorers are measured on the middle of each held-out photograph, at most so wide and high."""


class Prepared(NamedTuple):
    model: Path
    """Whose weights it starts from."""
    found: Split
    plan: Plan
    output: Path


def main(settings: FineTuneConfig) -> None:
    set_up_logging()
    prepared = prepare(settings)
    claim(settings, prepared)
    lay_out(settings.kind, prepared)
    run_stages(stages_of(settings.kind, prepared.plan, prepared.output), prepared.output)
    report(settings, prepared)


def describe(settings: FineTuneConfig) -> str:
    """What it would do. Raises ValueError as `prepare`."""
    prepared = prepare(settings)
    found, plan = prepared.found, prepared.plan
    return "\n".join([
        f"{len(found.train)} photographs to train on, {len(found.held_out)} held out", f"from {prepared.model}", f"learning rate {plan.training.optimizer.learning_rate:g}, {plan.num_ranks} training processes",
        in_words(stages_of(settings.kind, plan, prepared.output), prepared.output),
    ])  # fmt: skip


def prepare(settings: FineTuneConfig) -> Prepared:
    """Raises ValueError for what would fail later; writes nothing."""
    check_checkout()
    output, folder = Path(settings.output).resolve(), Path(settings.photographs).resolve()
    if output.is_relative_to(folder):
        raise ValueError(f"--output {settings.output} lies in --photographs {settings.photographs}: its pictures would be taken for photographs; give a folder elsewhere")
    model = find_model(settings.kind, settings.model, task=settings.task)
    found = split(read_folder(folder), share=settings.held_out)
    plan = plan_of(settings.kind, wanted_of(settings, found, model, output))
    check_sizes([*found.train, *found.held_out], least_px=crop_px(settings.kind, plan))
    return Prepared(model, found, plan, output)


def wanted_of(settings: FineTuneConfig, found: Split, model: Path, output: Path) -> Wanted:
    """`model` is read where it is now, and trained from its copy."""
    sizes = [one.size for one in found.held_out]
    return Wanted(
        train=str(output / "photographs" / "train"), held_out=str(output / "photographs" / "held_out"), smallest_px=(min(width for width, _ in sizes), min(height for _, height in sizes)),
        num_held_out=len(found.held_out), model=str(model), start_from=str(output / "before" / f"{settings.kind}.safetensors"), output=str(output / "training"),
        encoder=str(Path(settings.encoder).resolve()) if settings.encoder else "", steps=settings.steps, learning_rate=settings.learning_rate, num_ranks=settings.num_ranks,
        most_ranks=torch.cuda.device_count() or MOST_RANKS_ON_CPU, measured_px=settings.measured_px,
    )  # fmt: skip


def check_sizes(photographs: Sequence[Photograph], *, least_px: int) -> None:
    """Raises ValueError for those that are smaller than what the training cuts, before anything is measured."""
    small = (one for one in photographs if min(one.size) < least_px)
    check_usable([f"{one.path} has {one.size[0]} x {one.size[1]} px, and this model trains on squares of {least_px} px: give a folder without it" for one in small])


def claim(settings: FineTuneConfig, prepared: Prepared) -> None:
    """Raises ValueError for an output that was begun with another model, with other photographs or with other settings."""
    photographs = hashlib.sha256(" ".join(one.sha256 for one in [*prepared.found.train, *prepared.found.held_out]).encode()).hexdigest()
    prepared.output.mkdir(parents=True, exist_ok=True)
    claim_folder(prepared.output, settings, free=("photographs", "model", "output"), what="fine-tuning", weights=sha256_of(prepared.model), photographs=photographs)


def lay_out(kind: Kind, prepared: Prepared) -> None:
    """Links to the photographs, a copy of the model that nobody replaces meanwhile, and the configs of the commands."""
    model, found, plan, output = prepared
    link_to(found.train, output / "photographs" / "train")
    link_to(found.held_out, output / "photographs" / "held_out")
    for name in ("before", "configs"):
        (output / name).mkdir(exist_ok=True)
    copy = output / "before" / f"{kind}.safetensors"
    if not copy.exists():
        with open_aside(copy) as file:
            file.write(model.read_bytes())
    write_json(output / "configs" / "training.json", to_dict(plan.training))
    for name, folder in (("before", "before"), ("after", "training")):
        weights = str(output / folder / f"{kind}.safetensors")
        write_json(output / "configs" / f"{name}.json", {**plan.evaluation, plan.models_key: [weights] if plan.models_key == "models" else weights, "output": str(output / "results" / name)})


def stages_of(kind: Kind, plan: Plan, output: Path) -> list[Stage]:
    """The evaluation comes first: what is wrong with it is known before the training."""

    def evaluation(name: str, says: str) -> Stage:
        return Stage(name, says, (python(f"downstream/eval_{kind}.py", *configured(name)),), makes=str(output / "results" / name / plan.result))

    def configured(name: str) -> tuple[str, str]:
        return ("--config", str(output / "configs" / f"{name}.json"))

    train = deepspeed(f"downstream/train_{kind}.py", *configured("training"), ranks=plan.num_ranks)
    return [
        evaluation("before", "the model as it is, on the photographs held out"),
        Stage("training", "from these weights, on the others", (train,), makes=str(output / "training" / f"{kind}.safetensors"), trains=(str(output / "training"),)),
        evaluation("after", "the new model, on the photographs held out"),
    ]


def report(settings: FineTuneConfig, prepared: Prepared) -> None:
    _, found, plan, output = prepared
    before, after = (read_json(output / "results" / name / plan.result)["measured"] for name in ("before", "after"))
    links = [path.name for path in list_photographs(output / "photographs" / "held_out")]
    measures, unsaid = measures_of(settings.kind, before, after, links)
    weights = output / "training" / f"{settings.kind}.safetensors"
    record: dict[str, Any] = {
        "kind": settings.kind, "weights": {"before": sha256_of(output / "before" / weights.name), "after": sha256_of(weights), "file": str(weights)}, "unsaid": unsaid,
        "num_train": len(found.train), "held_out": {one.link: str(one.path) for one in found.held_out},
    }  # fmt: skip
    write_report(
        settings, output, measures, record=record, notes=unsaid, heading=f"{HEADINGS[settings.kind]} fine-tuned on photographs",
        means=f"Means over {len(found.held_out)} photographs that were held out; {len(found.train)} were trained on, {settings.steps} steps at a learning rate of {plan.training.optimizer.learning_rate:g}.",
        ending=[f"From the weights {record['weights']['before'][:16]} to the new ones: `{weights}` ({record['weights']['after'][:16]}).", "", "Held out:", "", *(f"- {one.path} ({one.link})" for one in found.held_out)],
    )  # fmt: skip


if __name__ == "__main__":
    run_command(FineTuneConfig, main, description=__doc__.splitlines()[0], describe=describe)
