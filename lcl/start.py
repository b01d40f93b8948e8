"""Weights to start from instead of random ones: a whole model, a vision tower, or a language model."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lcl.checkpoint import check_folder
from lcl.core.config import config
from lcl.core.files import read_json
from lcl.features import find_checkpoint
from lcl.model import LCL
from lcl.published import load_state, read_weights
from lcl.text import HuggingFaceText

# Fields of transformers' configs beside ours, for the decoders that we build.
SIZES = {"hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads", "num_key_value_heads": "num_key_heads", "intermediate_size": "inner_width"}


@config
class StartConfig:
    model: str = ""
    """A run or checkpoint of ours, or a file of published weights (.pt, .safetensors), with the same --model."""
    vision: str = ""
    """The same, or a file of open_clip's weights: only its vision tower is taken, and the pooling where it has one that fits."""
    text: str = ""
    """A folder of transformers with a llama or qwen3 model (config.json, *.safetensors) of the sizes in --model.text."""


def load_start(model: LCL, start: StartConfig) -> list[str]:
    """Puts the weights that `start` names into the model and returns what was taken, a line each.

    Raises ValueError naming what does not fit.
    """
    taken = []
    if start.model and (start.vision or start.text):
        raise ValueError("--start.model gives all weights; leave out --start.vision and --start.text")
    if start.model:
        load_state(model, _state(Path(start.model)), origin=start.model)
        taken.append(f"all weights from {start.model}")
    if start.vision:
        taken.append(_take_vision(model, _state(Path(start.vision)), origin=start.vision))
    if start.text:
        taken.append(_take_text(model, Path(start.text)))
    return taken


def _state(path: Path) -> dict[str, Tensor]:
    if not path.is_dir():
        return read_weights(path)
    folder = find_checkpoint(path)
    check_folder(folder)
    return load_file(folder / "model.safetensors")


def _take_vision(model: LCL, state: dict[str, Tensor], *, origin: str) -> str:
    tower = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.") and name != "visual.proj"}
    if not tower:
        raise ValueError(f"{origin} holds no vision tower: none of its names starts with 'visual.'")
    load_state(model.visual, tower, origin=f"{origin} (its vision tower)")
    own = model.pool_project.state_dict()
    pooling = {name.removeprefix("pool_project."): value for name, value in state.items() if name.startswith("pool_project.")}
    if pooling.keys() == own.keys() and all(pooling[name].shape == own[name].shape for name in own):
        model.pool_project.load_state_dict(pooling)
        return f"vision tower and pooling from {origin}"
    return f"vision tower from {origin}"


@torch.no_grad()
def _take_text(model: LCL, folder: Path) -> str:
    settings = model.settings.text
    if not (folder / "config.json").is_file():
        raise ValueError(f"--start.text {folder}: no folder with config.json and *.safetensors")
    record = read_json(folder / "config.json")
    wanted = {ours: record.get(theirs, record.get("num_attention_heads")) for theirs, ours in SIZES.items()}
    wanted["head_width"] = record.get("head_dim") or wanted["width"] // wanted["heads"]
    ours = {name: getattr(settings, name) for name in wanted} | {"head_width": settings.head_width or settings.width // settings.heads}
    theta = (record.get("rope_parameters") or {}).get("rope_theta", record.get("rope_theta", 10_000.0))
    same = record.get("model_type") == settings.kind and ours == wanted and theta == settings.rope_theta
    if not same:
        flags = {"kind": record.get("model_type"), "width": wanted["width"], "layers": wanted["layers"], "heads": wanted["heads"], "key-heads": wanted["num_key_heads"], "head-width": wanted["head_width"], "mlp-width": wanted["inner_width"], "rope-theta": theta}
        raise ValueError(f"--start.text {folder} has other sizes; take " + " ".join(f"--model.text.{name} {value}" for name, value in flags.items()) + f" --model.embed-width {wanted['width']}")
    assert isinstance(model.text, HuggingFaceText)
    state: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        state |= load_file(file)
    body = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    if "embed_tokens.weight" not in body:
        raise ValueError(f"--start.text {folder} holds no model.embed_tokens.weight in its *.safetensors")
    embeddings = _widened(body["embed_tokens.weight"], model.text.body.embed_tokens.weight, origin=str(folder))
    load_state(model.text.body, body | {"embed_tokens.weight": embeddings}, origin=str(folder))
    head = state.get("lm_head.weight", body["embed_tokens.weight"])  # absent where the two are tied
    model.lm_head.weight.copy_(_widened(head, model.lm_head.weight, origin=str(folder)))
    return f"language model from {folder}"


def _widened(given: Tensor, own: Tensor, *, origin: str) -> Tensor:
    """The given rows, and our own random ones for the ids behind its vocabulary (the five special ones)."""
    shared = min(len(given), len(own))
    if len(own) - 5 > len(given):
        raise ValueError(f"{origin} knows {len(given)} tokens, the tokenizer gives {len(own) - 5}: set --model.tokenizer.file to its tokenizer.json")
    widened = own.detach().clone()
    widened[:shared] = given[:shared].to(own.dtype)
    widened[-5:] = own[-5:]
    return widened
