"""A trained model in one safetensors file that names itself: what it is, how it was made, and by its hash what it made.

    tensors by name + metadata (schema, settings, ...) --write_model--> NAME.safetensors --read_model--> the same in float32, and the file's SHA-256
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lcl.core.files import open_aside, sha256_of

METADATA = "lcl"  # one entry: safetensors writes several in an order of its own, and the file's bytes are its name


class ModelFile(NamedTuple):
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    sha256: str

    @property
    def hash(self) -> int:
        """The first 64 bits of its SHA-256, which stand in what a codec writes."""
        return int(self.sha256[:16], 16)


def write_model(path: Path, tensors: Mapping[str, Tensor], *, schema: str, **metadata: Any) -> None:
    """Equal contents give equal bytes. `metadata` are JSON values."""
    text = json.dumps({"schema": schema, **metadata}, sort_keys=True)
    with open_aside(path) as file:
        file.write(save({name: value.contiguous() for name, value in tensors.items()}, {METADATA: text}))


def model_file(path: Path, *, made_by: str) -> Path:
    """The file itself, or the one that a run of `lcl train NAME` writes into its folder in the end, NAME.safetensors."""
    return path / f"{made_by.split()[-1]}.safetensors" if path.is_dir() else path


def read_model(path: Path, *, schema: str, what: str, made_by: str) -> ModelFile:
    """Of the file, or of the one in the folder of the run that made it; what is stored in half precision is read in float32.

    Raises ValueError for a file that is not there, is damaged, or is no `what` of this schema; `made_by` is the command that makes them.
    """
    path = model_file(path, made_by=made_by)
    found = _read(path, what=what, made_by=made_by)
    if found.metadata.get("schema") != schema:
        raise ValueError(f"{path} is no {what} of this version ({schema}); `{made_by}` makes them")
    return found._replace(tensors={name: value.float() if value.dtype == torch.float16 else value for name, value in found.tensors.items()})


def read_any_model(path: Path) -> ModelFile:
    """As stored, of whatever kind. Raises ValueError for a file that is not there, is damaged, or has no metadata of ours."""
    found = _read(path, what="model of ours", made_by="lcl train")
    if "schema" not in found.metadata:
        raise ValueError(f"{path} is no codec, density model, restorer or detector of `lcl train`")
    return found


def _read(path: Path, *, what: str, made_by: str) -> ModelFile:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `{made_by}` makes one")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open has no iteration)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no {what}, or damaged ({error})") from error
    return ModelFile(tensors, metadata, sha256_of(path))
