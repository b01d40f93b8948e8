"""Scores of images and texts, made outside the shards: a parquet file with these columns, or a folder of them that `lcl score` wrote.

    key, image, text, value [, content]    one row per number; -1 where it is of no image or of no text
    scores-000000.parquet ...              one per shard that was scored
    scores.json                            what made them, checksums; written last: a folder without it does not exist
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from lcl.core.files import open_aside, read_json, sha256_of, write_json

SCHEMA = "lcl-scores/1"
RECORD = "scores.json"
Kind = Literal["pairs", "images", "documents"]
NO = -1  # in the place of an image's or a text's number
SCORES = pa.schema(
    [
        ("key", pa.string()),       # of the document
        ("image", pa.int32()),      # its number among the document's images, from 0
        ("text", pa.int32()),       # its number among the document's texts (lcl/core/text_units.py), from 0
        ("value", pa.float32()),
        ("content", pa.string()),   # `content_hash` of the document that was scored; may be missing, then numbers of images and texts must do
    ]
)
NEEDED = SCORES.names[:4]


@dataclass(frozen=True)
class ScoreFiles:
    """Where scores lie, and what each is of. `fingerprint` changes with their bytes; `record` is `scores.json`, empty for a single file."""

    path: Path
    kind: Kind
    files: tuple[Path, ...]
    fingerprint: str
    record: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class DocumentScores:
    """All rows of one document, by image, then by text."""

    images: Int[np.ndarray, " rows"]
    texts: Int[np.ndarray, " rows"]
    values: Float[np.ndarray, " rows"]
    content: str | None

    def grid(self, images: Sequence[int], texts: Sequence[int]) -> Float[np.ndarray, "images texts"]:
        """The value of each image with each text, as the shortest decimal for its 32 bits, so that 0.1 is not above a limit of 0.1.

        Raises ValueError unless there is one finite value for each and no other row.
        """
        wanted = np.repeat(images, len(texts)), np.tile(texts, len(images))
        if not (np.array_equal(self.images, wanted[0]) and np.array_equal(self.texts, wanted[1])):
            raise ValueError(f"has {len(self.values)} scores that are not one for each of {len(images)} images and {len(texts)} texts")
        if not np.isfinite(self.values).all():
            raise ValueError("has a score that is no finite number")
        return self.values.astype(str).astype(np.float64).reshape(len(images), len(texts))


def score_rows(key: str, values: Float[np.ndarray, "images texts"], *, texts: Sequence[int], content: str) -> pa.Table:
    """The rows of one document: one value for each of its images and each of these text numbers."""
    images = np.repeat(np.arange(len(values), dtype=np.int32), len(texts))
    columns = [[key] * values.size, images, np.tile(np.array(texts, np.int32), len(values)), values.astype(np.float32).ravel(), [content] * values.size]
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, SCORES.types, strict=True)], schema=SCORES)


def write_score_file(path: Path, tables: Iterable[pa.Table]) -> None:
    """Writes the rows of some documents, whole or not at all."""
    with open_aside(path) as file:
        pq.write_table(pa.concat_tables([SCORES.empty_table(), *tables]), file, compression="zstd")


def commit_scores(folder: Path, files: Sequence[Path], record: Mapping[str, Any]) -> None:
    """Writes `scores.json`, after which the folder can be read."""
    write_json(folder / RECORD, {"schema": SCHEMA, **record, "sha256": {path.name: sha256_of(path) for path in files}})


def find_scores(path: Path) -> ScoreFiles:
    """The scores in a folder of `lcl score`, or in one parquet file. Raises ValueError naming what is missing, unfinished or damaged."""
    if path.is_file():
        return ScoreFiles(path, _kind_of(path, (path,)), (path,), sha256_of(path), {})
    if not (path / RECORD).is_file():
        raise ValueError(f"{path} holds no scores: it is no parquet file, nor a folder with a {RECORD}; make one with `lcl score`, or let it finish")
    record = read_json(path / RECORD)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"{path / RECORD} is no record of scores ({SCHEMA}): score again")
    for name, checksum in record["sha256"].items():
        if not (path / name).is_file() or sha256_of(path / name) != checksum:
            raise ValueError(f"{path / name} is missing or damaged: its bytes do not give the checksum in {RECORD}: delete it and {RECORD}, and run `lcl score` again")
    fingerprint = hashlib.sha256("".join(record["sha256"].values()).encode()).hexdigest()
    files = tuple(path / name for name in record["sha256"])
    return ScoreFiles(path, _kind_of(path, files), files, fingerprint, record)


def _kind_of(path: Path, files: Sequence[Path]) -> Kind:
    """What the first number is of; `grid` holds all others to that. Raises ValueError if there is none, or for a file that holds no scores."""
    for file in files:
        try:
            parquet = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file} is no parquet file, or a damaged one ({error})") from error
        with parquet:
            if lacking := [name for name in NEEDED if name not in parquet.schema_arrow.names]:
                raise ValueError(f"{file} has no column {', '.join(lacking)}; scores have {', '.join(NEEDED)}, one row per number")
            for batch in parquet.iter_batches(1, columns=["image", "text"]):
                image, text = (batch[name][0].as_py() for name in ("image", "text"))
                return "documents" if image == NO else "images" if text == NO else "pairs"
    raise ValueError(f"{path} holds no score")


def read_keys(path: Path) -> list[str]:
    """The keys of the documents that a file has scores of, each once."""
    return pq.read_table(path, columns=["key"])["key"].unique().to_pylist()


def read_scores(files: Sequence[Path], keys: Sequence[str]) -> dict[str, DocumentScores]:
    """The scores of the documents with these keys, as far as the files have any. Inverse of `write_score_file`."""
    tables = [pq.read_table(path, schema=SCORES, filters=pc.field("key").isin(pa.array(keys, pa.string()))) for path in files]
    table = pa.concat_tables([SCORES.empty_table(), *tables]).sort_by([(name, "ascending") for name in ("key", "image", "text")])
    if not len(table):
        return {}
    owners = table["key"].combine_chunks()
    starts = np.flatnonzero(np.r_[True, pc.not_equal(owners[1:], owners[:-1]).to_numpy(zero_copy_only=False)])
    images, texts, values = (table[name].to_numpy() for name in ("image", "text", "value"))
    return {
        owners[int(start)].as_py(): DocumentScores(images[start:end], texts[start:end], values[start:end], table["content"][int(start)].as_py())
        for start, end in zip(starts, [*starts[1:], len(table)], strict=True)
    }
