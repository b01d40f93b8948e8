"""What a training run shows: lines and a bar for people, metrics.jsonl for machines, TensorBoard and Weights & Biases for both."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from torch.utils.tensorboard import SummaryWriter

from lcl.core.files import sha256_of
from lcl.core.logs import MetricsFile
from lcl.core.tokenizer import Tokenizer
from lcl.rows import ImageInput, Row
from lcl.run_folder import METRICS

log = logging.getLogger(__name__)


class Monitor:
    """Writes of rank 0; other ranks make none of these."""

    def __init__(self, run: Path, config: Mapping[str, Any], *, after: int, wandb_project: str) -> None:
        """Forgets what was written behind step `after`, from which the run goes on; Weights & Biases cannot, and keeps the first of two."""
        self._file = MetricsFile(run / METRICS)
        self._file.truncate_after(after)
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=after + 1)
        self._wandb = _start_wandb(wandb_project, run, config) if wandb_project else None

    def write(self, step: int, metrics: Mapping[str, float], *, group: str) -> None:
        named = {f"{group}/{name}": value for name, value in metrics.items()}
        self._file.write(step, named)
        for name, value in named.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(named, step=step)

    def show_row(self, step: int, row: Row, tokenizer: Tokenizer, *, patch_px: int) -> None:
        """The documents of a row, as the model reads them, with their images in the places of [image]."""
        texts = ["".join(_spelled(piece.ids, tokenizer)) for piece in row.pieces]
        self._board.add_text("sample/row", "\n\n---\n\n".join(texts), step)
        for number, image in enumerate(row.images[:8]):
            self._board.add_image(f"sample/image {number}", picture(image, patch_px=patch_px), step, dataformats="HWC")

    def warn(self, step: int, messages: Sequence[str]) -> None:
        for message in messages:
            log.warning("step %d: %s", step, message)
            self._board.add_text("alarms", message, step)

    def close(self) -> None:
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _spelled(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    parts: list[str] = []
    words: list[int] = []
    for token in (*ids, tokenizer.eot):
        if token < tokenizer.sot:
            words.append(token)
            continue
        parts.append(tokenizer.decode(words))
        words = []
        if token == tokenizer.soi:
            parts.append(" **[image]** ")
    return parts


def picture(image: ImageInput, *, patch_px: int) -> np.ndarray:
    """The pixels [height, width, 3] of an encoder's input, patches put back into their grid."""
    if image.values.ndim == 3:
        return image.values
    rows, columns = image.grid
    return rearrange(image.values, "(rows columns) (ph pw channels) -> (rows ph) (columns pw) channels", rows=rows, columns=columns, ph=patch_px, pw=patch_px)


def _start_wandb(project: str, run: Path, config: Mapping[str, Any]) -> Any:
    import wandb  # an option: `check_numbers` found that it is installed

    return wandb.init(project=project, name=run.name, dir=str(run), config=dict(config), resume="allow", id=sha256_of(run / "run.json")[:16])  # the same when it is resumed or moved


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03 or 02:03."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60:02d}:{rest % 60:02d}"
