"""Pairs of a clean and a degraded crop, by step and number: made from clean photographs, or cut from a folder of pairs.

    photographs --crop--> clean; with a margin --degrade--> its middle     the same for the same seed, step and number, whatever the number of processes
    FOLDER/GT/name, FOLDER/LQ/name --the same crop of both--> a pair        (the folders of IR-SDE and of most published sets)
"""

import hashlib
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from downstream.photographs import Crops, list_photographs, to_tensor
from downstream.restore.degradations import DegradationConfig, degrade_window, reach_px
from downstream.restore.process import Images, Times
from downstream.restore.tones import Tones, tones_of
from lcl.core.images import probe_image

CLEAN, DEGRADED = "GT", "LQ"


class Pairs(NamedTuple):
    clean: Images
    degraded: Images
    deviation: Times
    """Of the Gaussian noise in the degraded ones, of pixels in [0, 1]; 0 where it is not known."""
    tones: Tones | None = None
    """Of the degraded photographs around the crops, where they are asked for."""


class PairSource(Protocol):
    fingerprint: str

    def batch(self, step: int, items: range) -> Pairs: ...

    def __len__(self) -> int: ...


class MadePairs:
    """Crops of clean photographs, degraded as they come, to what they would be in the degraded photograph; with `tones_px` the tones of as large a square of it around them."""

    def __init__(self, files: list[Path], settings: DegradationConfig, *, side_px: int, seed: int, tones_px: int = 0) -> None:
        settings.check()
        self._crops, self._settings, self._seed = Crops(files, side_px=side_px, seed=seed), settings, seed
        self._margin, self._tones = max(reach_px(settings), around_px(side_px, tones_px)), bool(tones_px)
        self.fingerprint = self._crops.fingerprint

    def __len__(self) -> int:
        return len(self._crops)

    def batch(self, step: int, items: range) -> Pairs:
        windows = [self._crops.window(step, item, margin_px=self._margin) for item in items]
        found = [degrade_window(window, self._settings, np.random.default_rng([self._seed, step, item, 1])) for window, item in zip(windows, items, strict=True)]
        clean, degraded = torch.stack([to_tensor(window.part) for window in windows]), torch.stack([one.pixels for one in found])
        return Pairs(clean, degraded, torch.tensor([one.noise_255 / 255 for one in found]), torch.stack([tones_of(one.around) for one in found]) if self._tones else None)


class FoundPairs:
    """Crops of the pairs in FOLDER/GT and FOLDER/LQ, at the same place of both."""

    def __init__(self, folder: Path, *, side_px: int, seed: int, tones_px: int = 0) -> None:
        """Raises ValueError if a picture lacks its partner, or has another size."""
        pairs = list_pairs(folder)
        self._clean, self._degraded = (Crops([pair[part] for pair in pairs], side_px=side_px, seed=seed) for part in range(2))
        self._margin, self._tones = around_px(side_px, tones_px), bool(tones_px)
        self.fingerprint = hashlib.sha256((self._clean.fingerprint + self._degraded.fingerprint).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._clean)

    def batch(self, step: int, items: range) -> Pairs:
        windows = [self._degraded.window(step, item, margin_px=self._margin) for item in items]
        tones = torch.stack([tones_of(to_tensor(window.pixels)) for window in windows]) if self._tones else None
        return Pairs(self._clean.batch(step, items), torch.stack([to_tensor(window.part) for window in windows]), torch.zeros(len(items)), tones)


def around_px(side_px: int, wanted_px: int) -> int:
    """The margin that makes a crop as large as is wanted."""
    return max(0, -((side_px - wanted_px) // 2))


def list_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Clean and degraded file of each name, which may differ in its ending. Raises ValueError if a picture lacks its partner, or has another size."""
    found = []
    for part in (CLEAN, DEGRADED):
        if not (folder / part).is_dir():
            raise ValueError(f"{folder} has no folder {part}: a folder of pairs has {CLEAN} (clean) and {DEGRADED} (degraded), with the same names in both")
        found.append({path.relative_to(folder / part).with_suffix(""): path for path in list_photographs(folder / part)})
    clean, degraded = found
    if alone := sorted(clean.keys() ^ degraded.keys()):
        part = CLEAN if alone[0] in clean else DEGRADED
        raise ValueError(f"{folder / part / alone[0]} has no partner of its name in {DEGRADED if part == CLEAN else CLEAN}: add it, or remove this one")
    pairs = [(clean[name], degraded[name]) for name in sorted(clean)]
    for one, other in pairs:
        sizes = [probe_image(path.read_bytes()).size for path in (one, other)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"{other} is {sizes[1][0]} x {sizes[1][1]} px, its partner {sizes[0][0]} x {sizes[0][1]}: scale it to that size")
    return pairs

