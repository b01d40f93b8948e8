"""DeepSpeed's engine: its settings from ours, the update, and as a whole what ZeRO keeps in parts."""

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lcl.core.config import config
from lcl.core.files import read_json


@config
class EngineConfig:
    precision: Literal["fp32", "mixed", "bf16"] = "fp32"
    """mixed: weights and gradients in fp32, matrix products and convolutions in bf16 (torch.autocast); faster on processors that have instructions for it.
    bf16: weights, activations and gradients of 16 bits; the optimiser has weights of its own in fp32, and from ZeRO 1 on adds up gradients in fp32."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO: what ranks share out (1 optimiser state, 2 gradients too, 3 weights too)."""
    offload: Literal["none", "cpu"] = "none"
    """Where the optimiser keeps its state and computes; cpu takes ZeRO 1 or more."""
    deepspeed: str = ""
    """JSON file of further DeepSpeed settings; one that is set by a flag here is refused."""


# DeepSpeed's settings that are ours to make, and the flags that make them.
OUR_SETTINGS = {
    "train_batch_size": "--batch-rows",
    "train_micro_batch_size_per_gpu": "--micro-rows",
    "gradient_accumulation_steps": "--batch-rows and --micro-rows",
    "gradient_clipping": "--optimizer.clip-norm",
    "optimizer": "--optimizer",
    "scheduler": "--optimizer",
    "bf16": "--engine.precision",
    "fp16": "--engine.precision",
    "torch_autocast": "--engine.precision",
    "data_types": "--engine.precision",
    "zero_optimization.stage": "--engine.zero-stage",
    "zero_optimization.offload_optimizer": "--engine.offload",
    "zero_allow_untested_optimizer": "--optimizer",
    "zero_force_ds_cpu_optimizer": "--optimizer",
    "checkpoint": "--save-every",
    "nebula": "--save-every",
    "datastates_ckpt": "--save-every",
    "steps_per_print": "--log-every",
}


def deepspeed_settings(config: EngineConfig, *, micro_rows: int, accumulation: int, clip_norm: float) -> dict[str, Any]:
    """The DeepSpeed config: what our config says, and beside it the fields of the file `config.deepspeed`.

    Raises ValueError for a file that cannot be read or names one of `OUR_SETTINGS`, and for offloading without ZeRO.
    """
    if config.offload == "cpu" and config.zero_stage == 0:
        raise ValueError("--engine.offload cpu takes ZeRO; add --engine.zero-stage 1, 2 or 3")
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_rows,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # a plain AdamW: DeepSpeed's own would be compiled at start
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 60,
    }
    if config.precision == "mixed":  # no modules whose gradients would be summed in bf16
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    if config.precision == "bf16":
        settings["bf16"] = {"enabled": True, "check_grad_overflow": True}  # without the check a gradient that is not finite gets into the weights
        if config.zero_stage > 0:
            settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return _merged(settings, _read_settings(config.deepspeed)) if config.deepspeed else settings


def _read_settings(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ValueError(f"--engine.deepspeed {path}: no such file")
    settings = read_json(Path(path))
    if not isinstance(settings, dict):
        raise ValueError(f"--engine.deepspeed {path} holds no JSON object")
    for name in _dotted(settings):
        for ours, flag in OUR_SETTINGS.items():
            if f"{name}.".startswith(f"{ours}."):
                raise ValueError(f"--engine.deepspeed {path} sets {ours}, which {flag} says: remove it from the file")
    return settings


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _merged(value, other[key]) for key, value in one.items() if isinstance(value, Mapping) and isinstance(other.get(key), Mapping)}
    return {**one, **other, **both}


def start_engine(model: nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any], *, load_universal: bool = False) -> Any:
    """The engine that trains `model`; with `load_universal` one that can only be loaded from a converted checkpoint (lcl/checkpoint.py)."""
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    settings = _merged(settings, {"checkpoint": {"load_universal": True}}) if load_universal else dict(settings)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]


class NotFinite(ValueError):
    """A loss or gradient that is not finite, found before it got into the weights, on all ranks together."""


def update(engine: Any) -> float:
    """The optimiser's step; returns the global norm of the gradient before clipping.

    Raises ValueError, on all ranks and with weights as they were, if it is not finite: the optimisers of ZeRO and of bf16 leave
    out such an update by themselves, the plain one of stage 0 in fp32 does not.
    """
    if engine.optimizer is engine.basic_optimizer:
        norm = float(nn.utils.get_total_norm(parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None))
        if math.isfinite(norm):
            engine.step()
    else:
        engine.step()
        norm = float(engine.get_global_grad_norm()) if engine.was_step_applied() else math.inf
    if not math.isfinite(norm):
        raise NotFinite("the gradient is not finite; no weights were changed. Lower --optimizer.learning-rate or raise --optimizer.schedule.warmup-steps.")
    return norm


@torch.no_grad()
def full_weights(engine: Any) -> dict[str, Tensor]:
    """The model's state by name on rank 0, as copies on the CPU with floats in fp32 (the optimiser's own, where it has them); nothing on other ranks.

    All ranks together. One tensor at a time is put together, so that no device needs room for the whole model.
    """
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    masters = _masters_of_stage_0(engine)
    weights = {}
    for name, value in engine.module.state_dict(keep_vars=True).items():
        with GatheredParameters([value]):
            if id(value) in masters:
                value = masters[id(value)]
            elif engine.bfloat16_enabled() and value.requires_grad:
                value = safe_get_full_fp32_param(value)
            if dist.get_rank() == 0:
                weights[name] = value.to("cpu", torch.float32 if value.is_floating_point() else value.dtype, copy=True).contiguous()
    return weights


def _masters_of_stage_0(engine: Any) -> dict[int, Tensor]:
    """The fp32 weights that DeepSpeed's bf16 optimiser without ZeRO has, by the id of the parameter that they are for."""
    if engine.zero_optimization_stage() > 0 or not engine.bfloat16_enabled():
        return {}
    groups = zip(engine.optimizer.fp16_groups, engine.optimizer.fp32_groups, strict=True)  # its names, whatever the 16 bits are
    return {id(parameter): master for group, masters in groups for parameter, master in zip(group, masters, strict=True)}
