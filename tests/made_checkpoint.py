"""Checkpoints and image sets of a toy size for the tests of evaluations; nothing is trained."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from lcl.core.config import to_dict
from lcl.core.files import sha256_of, write_json
from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.model import LCL, ModelConfig
from lcl.text import TextConfig
from lcl.vision import VisionConfig

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 200)}


def toy_settings(kind: str = "vit") -> ModelConfig:
    return ModelConfig(
        embed_width=16, pool_heads=2, vision=VisionConfig(kind=kind, image_px=16, patch_px=4, width=24, layers=1, head_width=12, max_patches=16),
        text=TextConfig(context_length=64, width=16, layers=1, heads=2), tokenizer=TokenizerConfig(num_merges=50),
    )  # fmt: skip


def made_checkpoint(folder: Path, *, kind: str = "vit", seed: int = 0) -> Path:
    """A checkpoint folder with weights as large as a trained model's."""
    folder.mkdir(parents=True)
    settings = toy_settings(kind)
    tokenizer = Tokenizer(settings.tokenizer)
    torch.manual_seed(seed)
    model = LCL.for_tokenizer(settings, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3.0)
    save_file(model.state_dict(), folder / "model.safetensors")
    write_json(folder / "config.json", {"model": to_dict(settings), "tokenizer": tokenizer.fingerprint})
    write_json(folder / "state.json", {"step": 7})
    write_json(folder / "manifest.json", {"sha256": {path.name: sha256_of(path) for path in sorted(folder.iterdir())}})
    return folder


def made_picture(colour: str, number: int, *, size: tuple[int, int] = (20, 16)) -> bytes:
    """A PNG of a colour with noise that no other number gives."""
    rng = np.random.default_rng(number)
    pixels = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 60, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def made_pictures(counts: Mapping[str, int]) -> dict[str, bytes]:
    """`split/colour/n.png` to bytes; `counts` says how many of each colour a split has."""
    named, number = {}, 0
    for split, count in counts.items():
        for colour in COLOURS:
            for index in range(count):
                named[f"{split}/{colour}/{index}.png"] = made_picture(colour, number := number + 1)
    return named


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
