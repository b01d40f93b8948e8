"""Features of all images of a set, computed once for each encoder and read from safetensors afterwards.

    key = sha256 of (weights or control, model, preprocessing | ids, bytes, labels and splits of the images | pooled or tokens)
    KEY.safetensors   pooled: [images embed] float32;  tokens: [images patches width] float16, counts: [images] int32

Batches are the same whatever the number of threads, and each is computed by one thread: the numbers do not depend on it.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from threadpoolctl import threadpool_limits

from lcl.core.files import open_aside
from lcl.core.logs import progress_bar
from lcl.evals.encode import BATCH
from lcl.evals.evaluated import Subject, Vectors, What
from lcl.evals.image_sets import ImageSet

LAYOUT = 1  # of the files; part of the key


@dataclass(frozen=True)
class Features:
    """Of every image of a set, in its order: one vector each, or patch tokens of which image i has the first counts[i]."""

    values: Float[np.ndarray, "images ..."]
    counts: Int[np.ndarray, " images"] | None = None


@dataclass(frozen=True)
class FeatureCache:
    """Features below `folder`. It may be deleted at any time, and several runs may share it."""

    folder: Path

    def get(self, subject: Subject, images: ImageSet, what: What) -> Features:
        """The features, from the cache or computed and put there. Raises ValueError as `ensure`, and naming a file of the cache that is damaged."""
        self.ensure(subject, images, what)
        path = self._path(subject, images, what)
        try:
            with safe_open(path, framework="numpy") as file:
                return Features(file.get_tensor(what), file.get_tensor("counts") if what == "tokens" else None)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it, it will be computed again") from error

    def ensure(self, subject: Subject, images: ImageSet, what: What) -> None:
        """Computes the features if the cache lacks them; patch tokens bring the pooled vectors with them.

        Raises ValueError naming an image that cannot be decoded, and an encoder whose features are not finite.
        """
        if not self._path(subject, images, what).exists():
            self._fill(subject, images, what)

    def _path(self, subject: Subject, images: ImageSet, what: What) -> Path:
        key = [LAYOUT, subject.fingerprint, images.index_sha256, what, BATCH, version("pillow")]
        return self.folder / f"{what}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.safetensors"

    def _fill(self, subject: Subject, images: ImageSet, what: What) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = list(_batches(subject, images))
        pooled = np.concatenate([part.pooled for part in parts])
        if not np.isfinite(pooled).all():
            raise ValueError(f"{subject.name}: its features are not finite; its training diverged, evaluate an earlier checkpoint")
        written: dict[What, dict[str, np.ndarray]] = {"pooled": {"pooled": pooled}}
        if what == "tokens":
            counts = np.array([count for part in parts for count in part.counts], dtype=np.int32)
            tokens = np.zeros((len(images), counts.max(), parts[0].tokens.shape[2]), dtype=np.float16)
            start = 0
            for part in parts:
                tokens[start : start + len(part.tokens), : part.tokens.shape[1]] = part.tokens
                start += len(part.tokens)
            written["tokens"] = {"tokens": tokens, "counts": counts}
        for kind, arrays in written.items():
            with open_aside(self._path(subject, images, kind)) as file:
                file.write(save(arrays, metadata={"subject": subject.name, "fingerprint": subject.fingerprint, "images": images.name, "index_sha256": images.index_sha256}))


def _batches(subject: Subject, images: ImageSet) -> Iterator[Vectors]:
    def work(start: int) -> Vectors:
        places = range(start, min(start + BATCH, len(images)))
        return subject.encode([images.read(place, subject.prepare) for place in places])

    with one_thread() as num_threads, progress_bar(f"features, {subject.name}", total=len(images)) as bar:
        with ThreadPoolExecutor(num_threads if subject.parallel else 1) as pool:
            for vectors in pool.map(work, range(0, len(images), BATCH)):
                bar.advance(len(vectors.pooled))
                yield vectors


@contextmanager
def one_thread() -> Iterator[int]:
    """Lets torch and BLAS compute each operation by one thread, so that sums have one order. Yields the number of threads that torch had."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield before
    finally:
        torch.set_num_threads(before)
