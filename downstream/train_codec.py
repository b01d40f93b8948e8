"""Entry point: trains a codec on a folder of photographs.

    deepspeed --num_gpus 2 downstream/train_codec.py --preset small --photographs photos --output outputs/codec     (two processes)
    python downstream/train_codec.py --preset small --photographs photos --output outputs/codec                     (one)

    crops --> objective --> step-N, metrics.jsonl; in the end OUTPUT/codec.safetensors, the file that `lcl codec` takes
    with --encoder: crops --frozen encoder--> tokens --> an adapter in the analysis, or a part of the objective
"""

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from downstream.codec.adapter import AdapterConfig
from downstream.codec.cca import Auxiliary
from downstream.codec.model_file import finish, load_codec, save_codec
from downstream.codec.objective import CodecObjective
from downstream.codec.train_config import PRESETS, TrainCodecConfig
from downstream.fit import fit
from downstream.photographs import Crops, list_photographs
from downstream.sight import Sight
from lcl.core.config import commit, run_command, to_dict
from lcl.core.files import sha256_of
from lcl.core.logs import set_up_logging
from lcl.features import Encoder, load_encoder
from lcl.run_folder import Input

log = logging.getLogger(__name__)

QUANTILES_EVERY = 50  # steps between searches for the quantiles of the prior of z
EXAMPLES = 16         # crops that whole-number networks are fitted to


class CodecTask:
    def __init__(self, config: TrainCodecConfig, crops: Crops, encoder: Encoder | None) -> None:
        torch.manual_seed(config.fit.seed)
        sight = None if encoder is None or config.model.adapter.source != "tokens" else Sight(encoder, config.model.adapter.sight)
        codec = config.model.build(num_features=0 if sight is None else sight.num_features)
        if codec.gains is not None:
            codec.gains.start(config.objective.lmbdas)
        if config.start_from:
            codec.load_state_dict(codec.state_dict() | starting_weights(config))
        if codec.adapter is not None:
            codec.adapter.sight = sight
        auxiliary = Auxiliary(config.model.cca) if config.objective.mode != "off" and config.model.kind == "cca" else None
        self.module = CodecObjective(codec, config.objective, auxiliary, sight=None if encoder is None else Sight(encoder, config.objective.sight))
        self.config, self.crops, self.encoder = config, crops, encoder

    def batch(self, step: int, items: range, noise: torch.Generator) -> tuple[Tensor, Tensor | None, torch.Generator, float]:
        objective = self.config.objective
        num_levels = len(objective.lmbdas)
        level = torch.tensor([float((step + item) % num_levels) for item in items]) if num_levels > 1 else None
        alpha = objective.alpha * min(1.0, (step + 1) / max(1, objective.alpha_warmup_steps))
        return self.crops.batch(step, items), level, noise, alpha

    def before_step(self, step: int) -> None:
        if step % QUANTILES_EVERY == 0:
            self.module.codec.z_entropy_bottleneck.find_quantiles()


def main(config: TrainCodecConfig) -> None:
    from lcl.distributed import process_group, together

    with process_group(threads=config.fit.threads) as ranks:
        set_up_logging(rank=ranks.rank)
        with together():
            config.check()
            crops = Crops(list_photographs(Path(config.photographs)), side_px=config.crop_px, seed=config.fit.seed)
            encoder = load_encoder(Path(config.encoder)).to(ranks.device) if config.encoder else None
        task = CodecTask(config, crops, encoder)
        inputs = {"photographs": Input(crops.fingerprint, f"the photographs in {config.photographs}")}
        inputs |= {"encoder": Input(encoder.fingerprint, f"the encoder in {config.encoder}")} if encoder is not None else {}
        if config.start_from:
            inputs["start"] = Input(sha256_of(Path(config.start_from)), f"the codec {config.start_from}")
        weights = fit(
            task, config.fit, config.optimizer, ranks, output=Path(config.output), run_config=config, identity={"model": to_dict(config.model), "mode": config.objective.mode},
            inputs=inputs, show=("loss", "squared_error", "y_bpp", "z_bpp"),
        )  # fmt: skip
        if weights is not None:
            write_codec(task, config, weights)


def starting_weights(config: TrainCodecConfig) -> dict[str, Tensor]:
    """Of the codec to start from. Raises ValueError for one with other settings."""
    earlier, plain = load_codec(Path(config.start_from)), AdapterConfig()
    adapter = earlier.settings.adapter
    if replace(earlier.settings, adapter=plain) != replace(config.model, adapter=plain) or adapter not in (plain, config.model.adapter):
        raise ValueError(f"--start-from {config.start_from} is a codec of other settings than --model: give its own ({to_dict(earlier.settings)})")
    return earlier.codec.state_dict()


def write_codec(task: CodecTask, config: TrainCodecConfig, weights: dict[str, Tensor]) -> None:
    prefix = "codec."
    codec = task.module.codec.cpu()
    if task.encoder is not None:
        task.encoder.cpu()
    codec.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)})
    about = {"photographs": task.crops.fingerprint, "num_photographs": len(task.crops), "steps": config.fit.steps, "seed": config.fit.seed, "commit": commit()}
    path = Path(config.output) / "codec.safetensors"
    save_codec(finish(codec, config.model, config.objective.lmbdas, about, [task.crops.batch(0, range(EXAMPLES))]), path)
    log.info("%s: %.2f MB, %d rates", path, path.stat().st_size / 1e6, len(config.objective.lmbdas))


if __name__ == "__main__":
    run_command(TrainCodecConfig, main, presets=PRESETS, description=__doc__.splitlines()[0])
