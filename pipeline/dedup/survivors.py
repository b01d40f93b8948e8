"""Which documents are left after a stage: one bit each, so that every task can hold all of them (125 MB for 10^9)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lcl.core.files import open_aside
from pipeline.dedup.runs import DROP, read_all
from pipeline.dedup.steps import Runner, Work, run_step

ALL = "all"


class Survivors:
    def __init__(self, bits: np.ndarray) -> None:
        self._bits = bits  # uint8; document i is bit i % 8 of byte i // 8

    def __contains__(self, document: int) -> bool:
        return bool(self.among(np.array([document]))[0])

    def among(self, documents: np.ndarray) -> np.ndarray:
        """bool per document number."""
        return (self._bits[documents >> 3] >> (documents & 7).astype(np.uint8)) & 1 == 1


def survivors(work: Work, stage: str) -> Survivors:
    """The documents left after `stage`; ALL is the stage before any other."""
    return Survivors(_read(work, stage))


def drop_documents(runner: Runner, work: Work, stage: str, *, before: str, drops: Sequence[Path]) -> str:
    """Makes the survivors of `stage`: those of the stage before without what the DROP records in `drops` say, known ones apart. Returns `stage`."""
    run_step(runner, work, f"settle_{stage}", partial(_settle, stage=stage, before=before, drops=drops), 1)
    return stage


def _settle(work: Work, _: int, *, stage: str, before: str, drops: Sequence[Path]) -> dict[str, int]:
    bits = _read(work, before)
    for path in drops:
        documents = read_all(path, num_receivers=work.corpus.num_groups, dtype=DROP)["doc"]
        documents = documents[documents >= work.corpus.num_known]
        np.bitwise_and.at(bits, documents >> 3, ~(np.uint8(1) << (documents & 7).astype(np.uint8)))
    with open_aside(work.folder / f"survivors-{stage}.bits") as file:
        file.write(bits.tobytes())
    return {}


def _read(work: Work, stage: str) -> np.ndarray:
    if stage == ALL:
        return np.full(work.corpus.num_documents // 8 + 1, 255, np.uint8)
    return np.fromfile(work.folder / f"survivors-{stage}.bits", np.uint8)
