"""The authors' checkpoints and model configs (OpenGVLab/LCL: LCL_ViT-B-16_laion, LCL_ViT-B-32_mmc4, ...) as ours."""

import math
import re
from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lcl.core.config import from_dict
from lcl.core.files import read_json
from lcl.model import LCL, ModelConfig
from lcl.text import TextConfig
from lcl.vision import VisionConfig

# What a config of theirs may say. Other settings of open_clip, where they are not off, make models that are not built here.
KNOWN = {
    "": {"embed_dim", "vision_cfg", "text_cfg", "pool_project_cfg", "special_token_ids", "custom_text"},
    "vision_cfg": {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"},
    "text_cfg": {"context_length", "width", "layers", "heads", "vocab_size", "tokenizer_kwargs"},
    "pool_project_cfg": {"pool_proj_type", "input_dim", "output_dim", "attn_num_heads"},
}
HEAD_WIDTH = 64  # of towers and poolings of all released models


def published_config(record: Mapping[str, Any], *, origin: str) -> tuple[ModelConfig, int]:
    """The model config that a published JSON describes, and its vocabulary size.

    Raises ValueError naming `origin` and the key if it describes something else than an LCL model that we build.
    """
    try:
        vision, text, pool = record["vision_cfg"], record["text_cfg"], record["pool_project_cfg"]
        values = {
            "embed_width": record["embed_dim"], "pool_heads": pool["attn_num_heads"],
            "vision": {
                "image_px": vision["image_size"], "patch_px": vision["patch_size"], "width": vision["width"], "layers": vision["layers"],
                "head_width": vision.get("head_width", 64), "mlp_ratio": vision.get("mlp_ratio", 4.0),  # open_clip's defaults
            },
            "text": {"context_length": text["context_length"], "width": text["width"], "layers": text["layers"], "heads": text["heads"]},
        }  # fmt: skip
        vocab_size = index(text["vocab_size"])
        wanted = {"pool_proj_type": "attn", "input_dim": vision["width"], "output_dim": record["embed_dim"]}
        wrong = [f"pool_project_cfg.{key} {pool[key]!r} (known is {value!r})" for key, value in wanted.items() if pool.get(key, value) != value]
        for name, keys in KNOWN.items():
            part = record[name] if name else record
            wrong += [f"{name + '.' * bool(name)}{key} {value!r}" for key, value in part.items() if key not in keys and value]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{origin} is no config of a published LCL model ({type(error).__name__}: {error}); give one like LCL_ViT-B-16_laion.json") from error
    if wrong:
        raise ValueError(f"{origin} has {', '.join(wrong)}: no released LCL model has that, and it is not built here")
    settings = from_dict(ModelConfig, values, origin=origin)
    settings.check()
    return settings, vocab_size


def published_vision(state: Mapping[str, Tensor], *, origin: str) -> ModelConfig:
    """The sizes of a published model's tower and pooling, from the shapes of their tensors; heads are 64 wide, as in all that were released.

    Raises ValueError naming `origin` if a tensor is missing or a width is no multiple of 64.
    """
    try:
        width, _, patch_px, _ = state["visual.conv1.weight"].shape
        grid = math.isqrt(len(state["visual.positional_embedding"]) - 1)
        embed_width = len(state["pool_project.pooler.cross_attn.proj.weight"])
        mlp_ratio = len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"]) / width
    except (KeyError, ValueError) as error:
        raise ValueError(f"{origin} holds no vision encoder of a published LCL model ({type(error).__name__}: {error}); give its .pt, or a checkpoint of ours") from error
    if width % HEAD_WIDTH or embed_width % HEAD_WIDTH:
        raise ValueError(f"{origin} has widths of {width} and {embed_width}, not multiples of {HEAD_WIDTH}: its heads are not known; give its config to `lcl import-published`")
    layers = sum(name.endswith(".ln_1.weight") for name in state)
    heads = embed_width // HEAD_WIDTH
    vision = VisionConfig(image_px=grid * patch_px, patch_px=patch_px, width=width, layers=layers, head_width=HEAD_WIDTH, mlp_ratio=mlp_ratio)
    return ModelConfig(embed_width=embed_width, pool_heads=heads, vision=vision, text=TextConfig(width=embed_width, heads=heads))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a .safetensors file or of PyTorch's (.pt, .pth, .bin), in which no code is run (`weights_only`).

    Wrappers (`state_dict`, `model`, `module.` before each name) are taken off. Raises ValueError if it is no file of tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file of weights")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # reading damaged or foreign bytes may raise anything
        if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):  # how torch names what a pickle would import
            raise ValueError(
                f"{path} holds {asked[1]} beside tensors, which could run code, so it is not read; where you trust it, torch.save its state dict alone"
            ) from error
        reason = next(iter(str(error).splitlines()), "").partition(". ")[0]
        raise ValueError(
            f"{path} cannot be read as weights ({type(error).__name__}: {reason}); fetch it again, or give a .safetensors or .pt file of tensors"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict (names with tensors); give the file of a model's weights")
    return {name.removeprefix("module."): value for name, value in state.items()}


def load_published(config_path: Path, weights_path: Path) -> LCL:
    """The authors' model from its JSON config and its weights, with any vocabulary. Raises ValueError naming what does not fit."""
    settings, vocab_size = published_config(read_json(config_path), origin=str(config_path))
    model = LCL(settings, vocab_size=vocab_size)
    load_state(model, read_weights(weights_path), origin=str(weights_path))
    return model.eval()


def load_state(model: torch.nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Puts `state` into the model. Raises ValueError naming the first names and shapes that do not fit."""
    own = model.state_dict()
    missing, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shared = sorted(own.keys() & state.keys())
    wrong = [name for name in shared if state[name].shape != own[name].shape and not state[name].numel() == own[name].numel() == 1]
    problems = [f"lacks {', '.join(missing[:3])}"] * bool(missing) + [f"also holds {', '.join(foreign[:3])}"] * bool(foreign)
    problems += [f"has {name} of shape {tuple(state[name].shape)}, not {tuple(own[name].shape)}" for name in wrong[:3]]
    if problems:
        raise ValueError(f"{origin} does not fit the model: it {'; it '.join(problems)}. Give the config that it was trained with.")
    model.load_state_dict(state)
