"""The next step's batches, made in a thread while the model computes."""

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lcl.flops import batch_flops
from lcl.loader import RowLoader
from lcl.model import ModelConfig
from lcl.rows import Batch, Row, SpecialIds, collate

DEPTH = 2  # steps that wait ready: one is not enough where rows differ much in their images


@dataclass(frozen=True)
class StepInput:
    """This rank's micro-batches of one step, the loader's state behind them, and what they will cost."""

    batches: Sequence[Batch]
    first_row: Row
    documents: Sequence[int]  # their places in the training sequence
    loader_state: Mapping[str, Any]
    images_read: int
    images_damaged: int
    flops: float


class Prefetcher:
    """Takes rows from a loader, step by step, ahead of `next`. An error of the loader comes out of `next`."""

    def __init__(
        self, loader: RowLoader, model: ModelConfig, *, rows: int, micro_rows: int, row_length: int, special: SpecialIds, vocab_size: int, regression: bool, pin: bool
    ) -> None:
        """`rows` a step for this rank, `micro_rows` of them in a batch; with `pin` in memory that a GPU copies from without waiting."""
        self._ready: queue.Queue[StepInput | BaseException] = queue.Queue(DEPTH)
        self._stopped = threading.Event()

        def make() -> StepInput:
            taken = loader.take(rows)
            batches = [collate(taken[at : at + micro_rows], row_length=row_length, special=special) for at in range(0, rows, micro_rows)]
            documents = [place for row in taken for place in row.documents]
            flops = sum(batch_flops(model, vocab_size, batch, regression=regression) for batch in batches)
            return StepInput([batch.pin_memory() for batch in batches] if pin else batches, taken[0], documents, loader.state(), *loader.damage(), flops)

        def run() -> None:
            while not self._stopped.is_set():
                try:
                    item: StepInput | BaseException = make()
                except BaseException as error:  # whatever it is, the main thread must hear of it
                    item = error
                self._ready.put(item)
                if isinstance(item, BaseException):
                    return

        self._thread = threading.Thread(target=run, name="prefetch", daemon=True)
        self._thread.start()

    def next(self) -> StepInput | BaseException:
        """The next step's input, or why there is none."""
        return self._ready.get()

    def stop(self) -> None:
        """Ends the thread; what it made ahead is dropped."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue
