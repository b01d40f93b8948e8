"""Weights to start from instead of random ones: a whole model, a vision tower, or a language model."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lcl.core.config import config
from lcl.core.files import read_json
from lcl.core.tokenizer import TOKENIZER_FILE, Tokenizer, TokenizerConfig
from lcl.exports.folder import RECORD, read_export
from lcl.features import find_checkpoint, read_settings
from lcl.model import LCL, ModelConfig
from lcl.published import load_state, read_weights
from lcl.text import TextConfig

# What a config of transformers may say of a decoder that is not built here, beside its values that change nothing.
UNBUILT: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,), "rope_scaling": (None,), "use_sliding_window": (False,), "pretraining_tp": (1,),
}  # fmt: skip


@config
class StartConfig:
    model: str = ""
    """A run or checkpoint of ours, or a file of published weights (.pt, .safetensors), with the same --model."""
    vision: str = ""
    """The same, a folder that `lcl export` wrote (lcl/weights/encoder comes along), or a file of open_clip's weights: only its vision tower is taken, and the pooling where it has one that fits."""
    text: str = ""
    """A folder of transformers with a llama or qwen3 model (config.json, *.safetensors) of the sizes in --model.text; where it has a tokenizer.json, that one."""


def load_start(model: LCL, start: StartConfig, tokenizer: Tokenizer) -> list[str]:
    """Puts the weights that `start` names into the model, which reads the ids of `tokenizer`, and returns what was taken, a line each.

    Raises ValueError naming what does not fit: sizes, parts of another kind, or a vocabulary in which ids mean something else.
    """
    taken = []
    if start.model and (start.vision or start.text):
        raise ValueError("--start.model gives all weights; leave out --start.vision and --start.text")
    if start.model:
        load_state(model, _state_of(start.model, model, tokenizer), origin=start.model)
        taken.append(f"all weights from {start.model}")
    if start.vision:
        taken.append(_take_vision(model, _state_of(start.vision, model, None), origin=start.vision))
    if start.text:
        taken.append(_take_text(model, Path(start.text), tokenizer))
    return taken


def _state_of(origin: str, model: LCL, tokenizer: Tokenizer | None) -> dict[str, Tensor]:
    """The weights of a file, a checkpoint or a run; with `tokenizer` its whole model is wanted, else its vision tower.

    A checkpoint says of what model and tokenizer it is. Weights of others may have the same shapes, as with other heads.
    """
    if not Path(origin).is_dir():
        return read_weights(Path(origin))
    if (Path(origin) / RECORD).exists():
        if tokenizer is not None:
            raise ValueError(f"--start.model {origin} is an export, which holds an encoder and no language model: give it as --start.vision")
        settings, state = read_export(Path(origin))
        _check_form(settings, model.settings, whole=False, origin=origin)
        return state
    folder = find_checkpoint(Path(origin))
    theirs, their_tokenizer = read_settings(folder)
    _check_form(theirs, model.settings, whole=tokenizer is not None, origin=str(folder))
    if tokenizer is not None and their_tokenizer.fingerprint != tokenizer.fingerprint:
        asked = f"--model.tokenizer.file {folder}" if theirs.tokenizer.file else f"--model.tokenizer.num-merges {theirs.tokenizer.num_merges}"
        raise ValueError(f"{folder} was trained with another tokenizer; take {asked}")
    return load_file(folder / "model.safetensors")


def _check_form(theirs: ModelConfig, ours: ModelConfig, *, whole: bool, origin: str) -> None:
    """Raises ValueError for another model, with what differs."""
    form, own = (_form(settings, whole=whole) for settings in (theirs, ours))
    other = [f"{name} is {form.get(name)} there and {own.get(name)} here" for name in sorted(form | own) if form.get(name) != own.get(name)]
    if other:
        raise ValueError(f"{origin} is of another model: {', '.join(other)}")


def _form(settings: ModelConfig, *, whole: bool) -> dict[str, Any]:
    """What the weights were trained to be used as, by flag."""
    parts = {"model.vision.kind": settings.vision.kind} | {f"model.vision.{name}": value for name, value in asdict(settings.vision.tower()).items()}
    if not whole:
        return parts
    text = {f"model.text.{name}": value for name, value in asdict(settings.text).items() if name not in ("context_length", "embedding_std")}
    return parts | text | {"model.pool_heads": settings.pool_heads, "model.image_latents": settings.image_latents}


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
def _take_text(model: LCL, folder: Path, tokenizer: Tokenizer) -> str:
    if not (folder / "config.json").is_file():
        raise ValueError(f"--start.text {folder}: no folder with config.json and *.safetensors")
    _check_decoder(model.settings.text, read_json(folder / "config.json"), folder)
    if (folder / TOKENIZER_FILE).is_file() and Tokenizer(TokenizerConfig(file=str(folder))).fingerprint != tokenizer.fingerprint:
        raise ValueError(f"--start.text {folder} has another tokenizer: take --model.tokenizer.file {folder}")
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


def _check_decoder(own: TextConfig, record: Mapping[str, Any], folder: Path) -> None:
    """Raises ValueError if the decoder of a transformers `config.json` is not ours, with the flags that make ours the same."""
    rope = record.get("rope_parameters") or {}
    values = {name: record.get(name, allowed[0]) for name, allowed in UNBUILT.items()} | {"rope_type": rope.get("rope_type", "default")}
    wrong = [f"{name} {value!r}" for name, value in values.items() if value not in UNBUILT.get(name, ("default",))]
    if record.get("model_type") not in ("llama", "qwen3"):
        wrong.insert(0, f"model_type {record.get('model_type')!r}")
    if wrong:
        raise ValueError(f"--start.text {folder} has {', '.join(wrong)}; only llama and qwen3 decoders with plain rotary positions and no biases are built here")
    try:
        theirs = replace(
            own, kind=record["model_type"], width=record["hidden_size"], layers=record["num_hidden_layers"], heads=record["num_attention_heads"],
            key_heads=record.get("num_key_value_heads") or record["num_attention_heads"], mlp_width=record["intermediate_size"],
            head_width=record.get("head_dim") or record["hidden_size"] // record["num_attention_heads"],
            rope_theta=float(rope.get("rope_theta", record.get("rope_theta", 10_000.0))), norm_epsilon=record.get("rms_norm_eps", 1e-6),
        )  # fmt: skip
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'} does not say {error}; restore it from a copy") from error
    resolved = replace(own, key_heads=own.num_key_heads, mlp_width=own.inner_width, head_width=own.head_width or own.width // own.heads)
    if theirs != resolved:
        names = ("kind", "width", "layers", "heads", "key_heads", "head_width", "mlp_width", "rope_theta", "norm_epsilon")
        flags = " ".join(f"--model.text.{name.replace('_', '-')} {asdict(theirs)[name]}" for name in names)
        raise ValueError(f"--start.text {folder} is another decoder; take {flags}")


def _widened(given: Tensor, own: Tensor, *, origin: str) -> Tensor:
    """The given rows, and our own random ones for the ids behind its vocabulary (the five special ones)."""
    shared = min(len(given), len(own))
    if len(own) - 5 > len(given):
        raise ValueError(f"{origin} knows {len(given)} tokens, the tokenizer gives {len(own) - 5}: set --model.tokenizer.file to its tokenizer.json")
    widened = own.detach().clone()
    widened[:shared] = given[:shared].to(own.dtype)
    widened[-5:] = own[-5:]
    return widened
