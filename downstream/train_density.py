"""Entry point: trains a density model (a diffusion model with a learned noise schedule) on photographs or digits.

    python downstream/train_density.py --preset digits --output outputs/digits                                       (one process)
    deepspeed --num_gpus 2 downstream/train_density.py --preset small --source.folder photos --output outputs/density  (two)

    images --> objective --> step-N, metrics.jsonl; in the end OUTPUT/density.safetensors, the file that `lcl density` takes
    with --encoder: images --frozen encoder--> tokens --> the context, or what the denoiser's middle is to be like
"""

import logging
from pathlib import Path

import torch
from torch import Tensor

from downstream.density.calibration import calibrate
from downstream.density.contexts import TokenContext
from downstream.density.model import DensityModel
from downstream.density.model_file import TrainedDensity, load_density, save_density
from downstream.density.objective import DensityObjective
from downstream.density.train_config import PRESETS, TrainDensityConfig
from downstream.density.training_images import Digits, Patches, open_images
from downstream.encoder_record import EncoderRecord
from downstream.fit import fit
from downstream.sight import Sight
from lcl.core.config import commit, run_command, to_dict
from lcl.core.logs import set_up_logging
from lcl.distributed import sum_over_ranks
from lcl.features import Encoder, load_encoder
from lcl.run_folder import Input

log = logging.getLogger(__name__)


class DensityTask:
    def __init__(self, config: TrainDensityConfig, images: Patches | Digits, encoder: Encoder | None) -> None:
        torch.manual_seed(config.fit.seed)
        sight = Sight(encoder, config.model.context.sight) if encoder is not None and config.model.context.kind == "tokens" else None
        model = DensityModel(config.model, num_features=0 if sight is None else sight.num_features)
        if isinstance(model.context_logits, TokenContext):
            model.context_logits.sight = sight
        self.record = None if sight is None else sight.record
        if config.start_from:
            model.load_state_dict(starting_weights(config, self.record))
        self.module = DensityObjective(model, config.objective, sight=Sight(encoder, config.objective.sight) if encoder is not None and config.objective.alignment else None)
        self.config, self.images, self.encoder = config, images, encoder

    def batch(self, step: int, items: range, noise: torch.Generator) -> tuple[Tensor, torch.Generator]:
        return self.images.batch(step, items), noise

    def before_step(self, step: int) -> None:
        if self.module.times is not None:
            self.module.times.update(sum_over_ranks)


def main(config: TrainDensityConfig) -> None:
    from lcl.distributed import process_group, together

    with process_group(threads=config.fit.threads) as ranks:
        set_up_logging(rank=ranks.rank)
        with together():
            config.check()
            images = open_images(config.source, channels=config.model.channels, side_px=config.model.size_px, seed=config.fit.seed)
            encoder = load_encoder(Path(config.encoder)).to(ranks.device) if config.needs_encoder else None
        task = DensityTask(config, images, encoder)
        inputs = {"images": Input(images.fingerprint, f"the {config.source.kind} in {config.source.folder or 'scikit-learn'}")}
        if encoder is not None:
            inputs["encoder"] = Input(encoder.fingerprint, f"the encoder in {config.encoder}")
        if config.start_from:
            inputs["start"] = Input(load_density(Path(config.start_from)).sha256, f"the density model {config.start_from}")
        weights = fit(
            task, config.fit, config.optimizer, ranks, output=Path(config.output), run_config=config, identity={"model": to_dict(config.model)}, inputs=inputs,
            show=("bits_per_dim", "diffusion_bits", "context_bits"),
        )  # fmt: skip
        if weights is not None:
            write_model(task, config, weights)


def starting_weights(config: TrainDensityConfig, record: EncoderRecord | None) -> dict[str, Tensor]:
    """Of the model to start from. Raises ValueError for one with other settings, or with a context of another encoder."""
    earlier = load_density(Path(config.start_from))
    if earlier.settings != config.model:
        raise ValueError(f"--start-from {config.start_from} is a model of other settings than --model: give its own ({to_dict(earlier.settings)})")
    if earlier.encoder != record:
        raise ValueError(f"--start-from {config.start_from} has its context from another encoder: give that one")
    return earlier.model.state_dict()


def write_model(task: DensityTask, config: TrainDensityConfig, weights: dict[str, Tensor]) -> None:
    prefix = "model."
    model = task.module.model.cpu().eval()
    if task.encoder is not None:
        task.encoder.cpu()
    model.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)})
    u = task.images.batch(0, range(config.calibration_images))
    calibration = calibrate(model, u, aligned=config.source.kind == "digits")
    about = {
        "source": to_dict(config.source), "images": task.images.fingerprint, "num_images": len(task.images), "steps": config.fit.steps, "seed": config.fit.seed,
        "alignment": task.encoder.fingerprint if task.encoder is not None and config.objective.alignment else "", "commit": commit(),
    }  # fmt: skip
    path = Path(config.output) / "density.safetensors"
    save_density(TrainedDensity(model, calibration, about, task.record), path)
    log.info("%s: %.2f MB", path, path.stat().st_size / 1e6)


if __name__ == "__main__":
    run_command(TrainDensityConfig, main, presets=PRESETS, description=__doc__.splitlines()[0])
