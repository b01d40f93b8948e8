"""Entry point: a trained codec, density model, restorer or detector with its large weights in half precision: half of the file.

    python downstream/halve_model.py codec.safetensors --output codec-half.safetensors

    tensors of 4096 values or more --float16--> OUTPUT; whatever reads it computes in float32, as before

It is another model: its hash is another, and what one of the two has compressed the other does not decode.
"""

import logging
from pathlib import Path

import torch
import tyro
from torch import Tensor

from downstream.tensor_file import read_any_model, write_model
from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging

log = logging.getLogger(__name__)

LEAST_VALUES = 4096  # smaller tensors are nothing to the size, and scales, medians and steps of a quantiser are among them


@config
class HalveConfig:
    model: tyro.conf.Positional[str]
    """A codec, a density model, a restorer or a detector."""
    output: str
    """The file to write (.safetensors)."""


def main(settings: HalveConfig) -> None:
    set_up_logging()
    source, target = Path(settings.model), Path(settings.output)
    if target.exists():
        raise ValueError(f"{target} is there already: remove it, or give another name")
    found = read_any_model(source)
    metadata = dict(found.metadata)
    metadata["about"] = metadata.get("about", {}) | {"half_of": found.sha256}
    write_model(target, {name: halved(name, value) for name, value in found.tensors.items()}, **metadata)
    log.info("%s: %.1f MB in the place of %.1f", target, target.stat().st_size / 1e6, source.stat().st_size / 1e6)


def halved(name: str, value: Tensor) -> Tensor:
    """In float16, if it is a large tensor of floats. Raises ValueError for values beyond its range."""
    if not value.is_floating_point() or value.numel() < LEAST_VALUES:
        return value
    half = value.half()
    if not torch.isfinite(half).all():
        raise ValueError(f"{name} has values beyond the range of half precision: keep the model as it is")
    return half


if __name__ == "__main__":
    run_command(HalveConfig, main, description=__doc__.splitlines()[0])
