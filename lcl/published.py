"""The authors' checkpoints and model configs (OpenGVLab/LCL: LCL_ViT-B-16_laion, LCL_ViT-B-32_mmc4, ...) as ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lcl.core.files import read_json
from lcl.model import LCL, ModelConfig
from lcl.text import TextConfig
from lcl.vision import VisionConfig


def published_config(record: Mapping[str, Any], *, origin: str) -> tuple[ModelConfig, int]:
    """The model config that a published JSON describes, and its vocabulary size.

    Raises ValueError naming `origin` and the key if it describes something else than an LCL model that we build.
    """
    try:
        vision, text, pool = record["vision_cfg"], record["text_cfg"], record["pool_project_cfg"]
        settings = ModelConfig(
            embed_width=record["embed_dim"], pool_heads=pool["attn_num_heads"],
            vision=VisionConfig(
                image_px=vision["image_size"], patch_px=vision["patch_size"], width=vision["width"], layers=vision["layers"],
                head_width=vision.get("head_width", 64), mlp_ratio=vision.get("mlp_ratio", 4.0),
            ),
            text=TextConfig(context_length=text["context_length"], width=text["width"], layers=text["layers"], heads=text["heads"]),
        )  # fmt: skip
        if pool.get("pool_proj_type", "attn") != "attn":
            raise ValueError(f"{origin}: pool_proj_type is {pool['pool_proj_type']!r}, only 'attn' (that of the released models) is known")
        vocab_size = text["vocab_size"]
    except KeyError as error:
        raise ValueError(f"{origin} is no config of a published LCL model: it has no {error}") from error
    settings.check()
    return settings, vocab_size


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a .safetensors file or of PyTorch's (.pt, .pth, .bin), in which no code is run (`weights_only`).

    Wrappers (`state_dict`, `model`, `module.` before each name) are taken off. Raises ValueError if it is no file of tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file of weights")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling damaged or foreign bytes may raise anything
        raise ValueError(f"{path} cannot be read as weights ({str(error).splitlines()[0]}); give a .safetensors file, or a .pt file of tensors only") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict (names with tensors)")
    return {name.removeprefix("module."): value for name, value in state.items()}


def load_published(config_path: Path, weights_path: Path) -> LCL:
    """The authors' model from its JSON config and its weights. Raises ValueError naming what does not fit."""
    settings, vocab_size = published_config(read_json(config_path), origin=str(config_path))
    model = LCL(settings, vocab_size=vocab_size)
    load_state(model, read_weights(weights_path), origin=str(weights_path))
    return model.eval()


def load_state(model: torch.nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Puts `state` into the model. Raises ValueError naming the first names and shapes that do not fit."""
    own = model.state_dict()
    missing, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [name for name in own.keys() & state.keys() if state[name].numel() != own[name].numel()]
    problems = [f"lacks {', '.join(missing[:3])}"] * bool(missing) + [f"also holds {', '.join(foreign[:3])}"] * bool(foreign)
    problems += [f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}" for name in sorted(wrong)[:3]]
    if problems:
        raise ValueError(f"{origin} does not fit the model: it {'; '.join(problems)}. Give the config that it was trained with.")
    model.load_state_dict(state)
