"""Entry point: says what spoils pictures, and how much, by a trained detector.

    python downstream/detect_degradation.py photo.jpg
    python downstream/detect_degradation.py photos --model detector.safetensors --encoder outputs/lcl --output detected.json
"""

import logging
from pathlib import Path
from typing import Annotated

import torch
import tyro
from pydantic import Field

from downstream.folders import check_writable
from downstream.photographs import list_photographs
from downstream.restore.detector import Detected, detect, load_detector
from downstream.restore.pictures import read_picture, upright
from lcl.core.config import config, run_command
from lcl.core.files import write_json
from lcl.core.logs import progress_bar, set_up_logging
from lcl.core.shipped import DETECTOR, or_shipped
from lcl.features import load_encoder

log = logging.getLogger(__name__)

LEAST_SHOWN = 0.05  # of a probability, in a line


@config
class DetectConfig:
    input: tyro.conf.Positional[str]
    """A picture, or a folder of them."""
    model: str = ""
    """The detector, as train_detector.py wrote it, or its run folder; empty: the one that comes with lcl."""
    encoder: str = ""
    """The encoder that it was trained on, if it was."""
    output: Annotated[str, tyro.conf.arg(aliases=("-o",))] = ""
    """JSON file for all probabilities; none: lines alone."""
    crops: Annotated[int, Field(ge=1)] = 16
    """Crops of a picture that are looked at, at most."""
    threads: Annotated[int, Field(ge=1)] = 1


def main(settings: DetectConfig) -> None:
    set_up_logging()
    torch.set_num_threads(settings.threads)
    detector = load_detector(or_shipped(settings.model, DETECTOR), load_encoder(settings.encoder) if settings.encoder else None)
    source = Path(settings.input)
    if settings.output:
        check_writable(Path(settings.output))
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    files = [source] if source.is_file() else list_photographs(source)
    found: dict[str, Detected] = {}
    with progress_bar("looking", total=len(files)) as bar:
        for path in files:
            try:
                picture = read_picture(path.read_bytes())
                found[str(path)] = detect(detector, upright(picture.pixels, picture.orientation).expand(3, -1, -1), num_crops=settings.crops)
                print(f"{path}: {describe(found[str(path)])}")
            except (ValueError, OSError) as error:
                log.error("%s: %s", path, error)
            bar.advance()
    if settings.output:
        write_json(Path(settings.output), {path: {"probabilities": one.probabilities, "psnr_db": one.psnr_db} for path, one in found.items()})
    if failed := len(files) - len(found):
        raise ValueError(f"{failed} of {len(files)} files failed; their messages are above")


def describe(found: Detected) -> str:
    likely = sorted(((value, name) for name, value in found.probabilities.items() if value >= LEAST_SHOWN), reverse=True)
    return f"{', '.join(f'{name} {value:.2f}' for value, name in likely)}; about {found.psnr_db:.0f} dB from clean"


if __name__ == "__main__":
    run_command(DetectConfig, main, description=__doc__.splitlines()[0])
