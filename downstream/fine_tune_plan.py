"""What fine-tuning a model of each kind means: the settings of its training and of its evaluation, from what its file says of it.

    model file --settings, tasks, lmbdas--> its preset, from these weights, at a tenth of the preset's rate --> config of the training
                                        --> what it is measured by on photographs --> config of the evaluation
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import Any, Literal

from downstream.codec import model_file as codec_file
from downstream.codec.train_config import PRESETS as CODEC_PRESETS
from downstream.density import model_file as density_file
from downstream.density.train_config import PRESETS as DENSITY_PRESETS
from downstream.encoder_record import EncoderRecord
from downstream.fit import FitConfig, FitOptimizerConfig
from downstream.restore import model_file as restorer_file
from downstream.restore.degradations import DegradationConfig
from downstream.restore.objective import ObjectiveConfig as RestorerObjectiveConfig
from downstream.restore.train_config import PRESETS as RESTORER_PRESETS
from downstream.tensor_file import model_file, read_any_model
from lcl.core.config import from_dict
from lcl.core.shipped import or_shipped, shipped_restorers

log = logging.getLogger(__name__)

Kind = Literal["codec", "density", "restorer"]
SCHEMAS: dict[str, Kind] = {codec_file.SCHEMA: "codec", density_file.SCHEMA: "density", restorer_file.SCHEMA: "restorer"}

RATE_RATIO = 0.1       # of the preset's learning rate, which is for random weights; a third moves weights more and gains no more (docs/fine-tuning.md)
WARMUP_RATIO = 0.1     # of the steps
SAVES = 6              # checkpoints of a training
MOST_SQUARES = 8       # of a photograph, that a density model is measured on
PRESET_OF_CODEC = {"mean_scale": "small", "cca": "cca"}


@dataclass(frozen=True)
class Wanted:
    """What is asked of a fine-tuning, whatever its kind. Paths are absolute."""

    train: str
    held_out: str
    smallest_px: tuple[int, int]
    """Width and height such that every held-out photograph is as wide and as high."""
    num_held_out: int
    model: str
    """Whose settings are read."""
    start_from: str
    """Its copy, which the training starts from."""
    output: str
    """Of the training."""
    encoder: str
    steps: int
    learning_rate: float
    """0: RATE_RATIO of the preset's."""
    num_ranks: int
    """Those wanted, or 0 for as many as can share a step among `most_ranks`."""
    most_ranks: int
    measured_px: int


@dataclass(frozen=True)
class Plan:
    training: Any
    """The config of downstream/train_KIND.py."""
    num_ranks: int
    evaluation: Mapping[str, Any]
    """Of downstream/eval_KIND.py, without the model and the output."""
    models_key: str
    """Under which it takes the model."""
    result: str
    """The file that it writes."""


def find_model(kind: Kind, given: str, *, task: str = "") -> Path:
    """The model's file: that given, that of the run given, or that which comes with the package, of restorers the one for the task. Raises ValueError for one of another kind."""
    if task and (given or kind != "restorer"):
        raise ValueError(f"--task {task} chooses among the restorers that come with lcl: leave it out with a {'--model' if given else kind}")
    chosen = _shipped_restorer(task) if kind == "restorer" and not given else or_shipped(given, f"{kind}.safetensors")
    path = model_file(chosen, made_by=f"lcl train {kind}")
    found = SCHEMAS.get(read_any_model(path).metadata["schema"])
    if found not in (kind, None):  # of another version its own reader says so
        raise ValueError(f"--model {path} is a {found} model, not a {kind} model: give `lcl fine-tune {found}`, or another --model")
    return path


def _shipped_restorer(task: str) -> Path:
    """Of those that were trained for the task the first, as `lcl restore --task` takes it."""
    tasks = {path: restorer_file.load_restorer(path).tasks for path in shipped_restorers().values()}
    found = next((path for path in tasks if task in tasks[path]), None)
    if found is None:
        known = dict.fromkeys(one for of in tasks.values() for one in of)
        raise ValueError(f"--task {task or 'is empty'}: restorers of {', '.join(known)} come with lcl; name one, or give --model")
    return found


def plan_of(kind: Kind, wanted: Wanted) -> Plan:
    """Raises ValueError for a model that cannot be fine-tuned so, and for an encoder that is missing or has no use."""
    plan = {"codec": _codec, "density": _density, "restorer": _restorer}[kind](wanted)
    plan.training.check()
    return plan


def crop_px(kind: Kind, plan: Plan) -> int:
    """Side of the squares that its training cuts from photographs."""
    return plan.training.model.size_px if kind == "density" else plan.training.crop_px


def _codec(wanted: Wanted) -> Plan:
    found = codec_file.load_codec(Path(wanted.model))
    _check_encoder(found.encoder, wanted)
    preset = CODEC_PRESETS[PRESET_OF_CODEC[found.settings.kind]]
    fit, num_ranks = _fit(preset.fit, wanted)
    training = replace(
        preset, photographs=wanted.train, output=wanted.output, encoder=wanted.encoder, start_from=wanted.start_from, model=found.settings, fit=fit, optimizer=_optimizer(preset.optimizer, wanted),
        objective=replace(preset.objective, lmbdas=found.lmbdas, mode="off"),  # the networks of a context adjustment are not in the codec's file; off has the same weight of the rate
    )  # fmt: skip
    evaluation = {"photographs": wanted.held_out, "encoder": wanted.encoder, "crop_px": wanted.measured_px, "profiles": ["fast"], "classic": ["JPEG"]}
    return Plan(training, num_ranks, evaluation, models_key="model", result="rd.json")


def _density(wanted: Wanted) -> Plan:
    found = density_file.load_density(Path(wanted.model))
    _check_encoder(found.encoder, wanted)
    preset = DENSITY_PRESETS["small"]
    fit, num_ranks = _fit(preset.fit, wanted)
    training = replace(
        preset, source=replace(preset.source, folder=wanted.train), output=wanted.output, encoder=wanted.encoder, start_from=wanted.start_from, model=found.settings, fit=fit,
        optimizer=_optimizer(preset.optimizer, wanted),
    )  # fmt: skip
    width_px, height_px = wanted.smallest_px
    each = min(MOST_SQUARES, (width_px // found.settings.size_px) * (height_px // found.settings.size_px))
    evaluation = {
        "source": wanted.held_out, "encoder": wanted.encoder, "num_images": each * wanted.num_held_out, "ode_images": 0, "coding_steps": [], "coded_images": 0, "samples": {"num": 0},
    }  # fmt: skip
    return Plan(training, num_ranks, evaluation, models_key="model", result="density.json")


def _restorer(wanted: Wanted) -> Plan:
    found = restorer_file.load_restorer(Path(wanted.model))
    _check_encoder(found.encoder, wanted)
    if not found.about.get("degradations"):
        raise ValueError(f"{wanted.model} was trained on pairs, and photographs alone do not say what to undo: `lcl train restorer --pairs PAIRS --start-from {wanted.model}` goes on with yours")
    if found.about.get("encoder") and not wanted.encoder:
        log.warning("%s was trained with the encoder %s for its perceptual term, which is left out: give --encoder to have it", wanted.model, found.about["encoder"][:16])
    preset = RESTORER_PRESETS["small"]
    fit, num_ranks = _fit(preset.fit, wanted)
    degradations = from_dict(DegradationConfig, found.about["degradations"], origin=wanted.model)
    objective = replace(from_dict(RestorerObjectiveConfig, found.about["objective"], origin=wanted.model), stages="one")  # the linear stage is a beginning
    guide = found.settings.guide
    training = replace(
        preset, photographs=wanted.train, output=wanted.output, encoder=wanted.encoder, start_from=wanted.start_from, model=found.settings, fit=fit, optimizer=_optimizer(preset.optimizer, wanted),
        degradations=degradations, objective=objective, crop_px=max(preset.crop_px, guide.crop_px if guide.describes else 0),
    )  # fmt: skip
    evaluation = {
        "photographs": wanted.held_out, "encoder": wanted.encoder if found.encoder is not None else "", "degradations": found.about["degradations"], "crop_px": wanted.measured_px, "steps": [1],
        "baselines": [], "sheet_pictures": 0,
    }  # fmt: skip
    return Plan(training, num_ranks, evaluation, models_key="models", result="restoration.json")


def _check_encoder(record: EncoderRecord | None, wanted: Wanted) -> None:
    if record is not None and not wanted.encoder:
        raise record.missing(of=wanted.model)


def _optimizer(preset: FitOptimizerConfig, wanted: Wanted) -> FitOptimizerConfig:
    schedule = replace(preset.schedule, warmup_steps=round(WARMUP_RATIO * wanted.steps))
    return replace(preset, learning_rate=wanted.learning_rate or RATE_RATIO * preset.learning_rate, schedule=schedule, ema_every=min(preset.ema_every, wanted.steps))


def _fit(preset: FitConfig, wanted: Wanted) -> tuple[FitConfig, int]:
    """With the number of processes, which share a step's items evenly."""
    items = preset.batch_items
    if wanted.num_ranks and items % wanted.num_ranks:
        raise ValueError(f"--num-ranks {wanted.num_ranks}: a step has {items} items, which so many cannot share evenly: give a number that divides {items}")
    ranks = wanted.num_ranks or max(number for number in range(1, wanted.most_ranks + 1) if items % number == 0)
    every = max(1, wanted.steps // SAVES)
    return replace(preset, steps=wanted.steps, micro_items=gcd(preset.micro_items, items // ranks), save_every=every, log_every=every), ranks
