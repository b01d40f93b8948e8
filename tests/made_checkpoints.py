"""Checkpoints that no training made, for tests of what reads them."""

from pathlib import Path

import torch

from lcl.core.tokenizer import Tokenizer
from lcl.import_published import ImportPublishedConfig, write_folder
from lcl.model import LCL
from lcl.train_config import PRESETS


def toy_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """The toy model at its random start, as `lcl import-published` writes one."""
    settings = PRESETS["toy"].model
    tokenizer = Tokenizer(settings.tokenizer)
    torch.manual_seed(seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    weights = folder.with_suffix(".pt")
    weights.write_bytes(b"")
    write_folder(folder, LCL.for_tokenizer(settings, tokenizer).eval(), tokenizer, settings=ImportPublishedConfig(model_config="toy", weights=str(weights), output=str(folder)))
    return folder
