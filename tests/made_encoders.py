"""Small encoders of both kinds, in which every weight counts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.import_published import ImportPublishedConfig, write_folder
from lcl.model import LCL, ModelConfig
from lcl.text import TextConfig
from lcl.train_config import PRESETS
from lcl.vision import VisionConfig

SQUARE = ModelConfig(
    embed_width=32, pool_heads=4, vision=VisionConfig(image_px=16, patch_px=4, width=24, layers=3, head_width=8),
    text=TextConfig(context_length=16, width=32, layers=1, heads=2), tokenizer=TokenizerConfig(num_merges=100),
)  # fmt: skip
FLEXIBLE = replace(SQUARE, vision=replace(SQUARE.vision, kind="naflex", max_patches=16))
KINDS = pytest.mark.parametrize("settings", [SQUARE, FLEXIBLE], ids=["vit", "naflex"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_model(settings: ModelConfig, seed: int = 0) -> LCL:
    """With weights that make tokens, norms and positions all count."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LCL.for_tokenizer(settings, Tokenizer(settings.tokenizer))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def checkpoint_of(model: LCL, folder: Path) -> Path:
    """The model as a checkpoint folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    (folder.parent / "source.pt").write_bytes(b"")
    settings = ImportPublishedConfig(model_config="", weights=str(folder.parent / "source.pt"), output=str(folder))
    write_folder(folder, model, Tokenizer(model.settings.tokenizer), settings=settings)
    return folder


def toy_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """The toy preset's model at its random start, as a checkpoint folder."""
    settings = PRESETS["toy"].model
    torch.manual_seed(seed)
    return checkpoint_of(LCL.for_tokenizer(settings, Tokenizer(settings.tokenizer)).eval(), folder)
