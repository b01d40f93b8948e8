"""Entry point: trains a restorer on a folder of photographs, or of pairs.

    deepspeed --num_gpus 2 downstream/train_restorer.py --preset small --photographs photos --output outputs/restorer     (two processes)
    python downstream/train_restorer.py --preset small --photographs photos --degradations.tasks rain noise               (one)
    python downstream/train_restorer.py --preset small --pairs Rain100H --encoder outputs/lcl --model.guide.parts both

    pairs --> objective --> step-N, metrics.jsonl; in the end OUTPUT/restorer.safetensors, the file that `lcl restore` takes
    with --encoder: degraded picture --frozen encoder--> guide of the network; estimate, clean picture --frozen encoder--> perceptual term
"""

import logging
from pathlib import Path

import torch
from torch import Tensor

from downstream.encoder_record import EncoderRecord
from downstream.fit import fit
from downstream.photographs import list_photographs
from downstream.restore.detector import MADE_BY, load_detector
from downstream.restore.guide import View
from downstream.restore.model_file import load_restorer, save_restorer
from downstream.restore.objective import RestorerObjective
from downstream.restore.pairs import FoundPairs, MadePairs, PairSource
from downstream.restore.perceptual import EncoderDistance, VGGDistance
from downstream.restore.train_config import PRESETS, TrainRestorerConfig
from downstream.tensor_file import model_file
from lcl.core.config import commit, run_command, to_dict
from lcl.core.files import sha256_of
from lcl.core.logs import set_up_logging
from lcl.features import Encoder, load_encoder
from lcl.run_folder import Input

log = logging.getLogger(__name__)


class RestorerTask:
    def __init__(self, config: TrainRestorerConfig, pairs: PairSource, encoder: Encoder | None) -> None:
        torch.manual_seed(config.fit.seed)
        view = None if encoder is None or config.model.guide.parts == "off" else View(encoder, config.model.guide)
        self.record = None if view is None else view.record
        network = config.model.build(self.record)
        if config.start_from:
            network.load_state_dict(network.state_dict() | starting_weights(config, self.record))
        if network.guide is not None:
            network.guide.view = view
            if config.detector:
                network.guide.keep_head(head_of(config.detector, encoder))
        perceptual = None
        if config.uses_perceptual:
            perceptual = VGGDistance() if config.objective.perceptual == "vgg16" else EncoderDistance(encoder, config.objective.perceptual_layers)
        self.module = RestorerObjective(network, config.model, config.objective, perceptual=perceptual)
        self.config, self.pairs = config, pairs

    def batch(self, step: int, items: range, noise: torch.Generator) -> tuple[Tensor, Tensor, Tensor, bool, torch.Generator, Tensor | None]:
        found = self.pairs.batch(step, items)
        return found.clean, found.degraded, found.deviation, self.config.objective.linear(step, num_steps=self.config.fit.steps), noise, found.tones

    def before_step(self, step: int) -> None:
        if self.module.teacher is not None and step:
            self.module.teacher.update(self.module.network, step=step)


def main(config: TrainRestorerConfig) -> None:
    from lcl.distributed import process_group, together

    with process_group(threads=config.fit.threads) as ranks:
        set_up_logging(rank=ranks.rank)
        with together():
            config.check()
            pairs = read_pairs(config)
            encoder = load_encoder(config.encoder) if config.encoder else None
            task = RestorerTask(config, pairs, encoder)
        inputs = {"pairs": Input(pairs.fingerprint, f"the pictures in {config.photographs or config.pairs}")}
        if encoder is not None:
            inputs["encoder"] = Input(encoder.fingerprint, f"the encoder {config.encoder}")
        if config.detector:
            inputs["detector"] = Input(sha256_of(model_file(Path(config.detector), made_by=MADE_BY)), f"the detector {config.detector}")
        if config.start_from:
            inputs["start"] = Input(load_restorer(Path(config.start_from)).sha256, f"the restorer {config.start_from}")
        weights = fit(
            task, config.fit, config.optimizer, ranks, output=Path(config.output), run_config=config, identity={"model": to_dict(config.model), "kind": config.objective.kind},
            inputs=inputs, show=("loss",) if config.objective.kind == "ir_sde" else ("loss", "origin_error"),
        )  # fmt: skip
        if weights is not None:
            write_restorer(task, config, weights, encoder)


def read_pairs(config: TrainRestorerConfig) -> PairSource:
    tones_px = config.tones_px if config.model.tones else 0
    if config.pairs:
        return FoundPairs(Path(config.pairs), side_px=config.crop_px, seed=config.fit.seed, tones_px=tones_px)
    return MadePairs(list_photographs(Path(config.photographs)), config.degradations, side_px=config.crop_px, seed=config.fit.seed, tones_px=tones_px)


def head_of(path: str, encoder: Encoder) -> dict[str, Tensor]:
    """Raises ValueError for a detector that looks through no encoder."""
    detector = load_detector(Path(path), encoder)
    if detector.encoder is None:
        raise ValueError(f"--detector {path} has convolutions of its own, and no head for an encoder's tokens: give one that was trained with --encoder")
    return detector.head.state_dict()


def starting_weights(config: TrainRestorerConfig, record: EncoderRecord | None) -> dict[str, Tensor]:
    """Of the whole network, or, where the earlier one had no guide or tones, of all but those."""
    earlier = load_restorer(Path(config.start_from))
    if (earlier.settings.network, earlier.settings.form) != (config.model.network, config.model.form):
        raise ValueError(f"--start-from {config.start_from} has another network or form than --model: give its own (its settings: {to_dict(earlier.settings)})")
    if earlier.settings.tones and not config.model.tones:
        raise ValueError(f"--start-from {config.start_from} has tones, --model has none: give --model.tones True")
    if earlier.encoder is not None and (earlier.settings.guide, earlier.encoder) != (config.model.guide, record):
        raise ValueError(f"--start-from {config.start_from} was guided by another encoder, or otherwise: give its own, or one without a guide ({to_dict(earlier.settings.guide)})")
    return earlier.network.state_dict()


def write_restorer(task: RestorerTask, config: TrainRestorerConfig, weights: dict[str, Tensor], encoder: Encoder | None) -> None:
    prefix = "network."
    about = {
        "pictures": task.pairs.fingerprint, "num_pictures": len(task.pairs), "degradations": None if config.pairs else to_dict(config.degradations),
        "encoder": None if encoder is None else encoder.fingerprint, "objective": to_dict(config.objective), "steps": config.fit.steps, "seed": config.fit.seed, "commit": commit(),
    }  # fmt: skip
    path = Path(config.output) / "restorer.safetensors"
    tasks = ("pairs",) if config.pairs else config.degradations.tasks
    network = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    save_restorer(path, network, config.model, kind=config.objective.kind, tasks=tasks, about=about, encoder=task.record)
    log.info("%s: %.2f MB, trained for %s", path, path.stat().st_size / 1e6, ", ".join(tasks))


if __name__ == "__main__":
    run_command(TrainRestorerConfig, main, presets=PRESETS, description=__doc__.splitlines()[0])
