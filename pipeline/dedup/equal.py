"""Records with the same 128-bit hash, one partition of hashes at a time: the first of each stays.

    records --sort by hash, order kept--> runs of equal ones --> (repeated, first)
"""

import numpy as np
import xxhash

from pipeline.dedup.runs import DROP, HASHED, HASHED_PLACE, PLACE, make_records, partition_of, read_all, read_runs, write_runs
from pipeline.dedup.steps import Work, read_by_group, write_by_group
from pipeline.dedup.survivors import survivors


def sort_by_hash(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The records with equal ones together, each run in the given order, and for each record the index of the first of its run."""
    ordered = records[np.lexsort((records["lo"], records["hi"]))]
    is_first = np.ones(len(ordered), bool)
    is_first[1:] = (ordered["hi"][1:] != ordered["hi"][:-1]) | (ordered["lo"][1:] != ordered["lo"][:-1])
    return ordered, np.maximum.accumulate(np.where(is_first, np.arange(len(ordered)), 0))


def read_living(work: Work, partition: int, *, kind: str, alive: str, dtype: np.dtype) -> np.ndarray:
    """The partition's records of documents that are left after the stage `alive`, in document order."""
    records = read_runs(work.by_group(kind), partition, num_receivers=work.num_partitions, dtype=dtype)
    return records[survivors(work, alive).among(records["doc"])]


def drop_equal_documents(work: Work, partition: int, *, kind: str, alive: str) -> dict[str, int]:
    """Drops every document whose hash an earlier one has."""
    records, first = sort_by_hash(read_living(work, partition, kind=kind, alive=alive, dtype=HASHED))
    repeated = first != np.arange(len(records))
    drops = make_records(DROP, doc=records["doc"][repeated], kept=records["doc"][first[repeated]])
    write_by_group(work, f"drop_{kind}", partition, drops)
    return {"dropped": len(drops)}


def drop_equal_paragraphs(work: Work, partition: int, *, alive: str) -> dict[str, int]:
    """Drops every paragraph that stands earlier in the same domain, also in its own document."""
    records, first = sort_by_hash(read_living(work, partition, kind="paragraph", alive=alive, dtype=HASHED_PLACE))
    is_new = records["doc"] >= work.corpus.num_known
    repeated = records[is_new & (first != np.arange(len(records)))]
    write_by_group(work, "drop_paragraph", partition, make_records(PLACE, doc=repeated["doc"], place=repeated["place"]))
    return {"in": int(np.count_nonzero(is_new)), "dropped": len(repeated)}


def make_image_sets(work: Work, group: int, *, alive: str, frequent: bool) -> dict[str, int]:
    """Writes a hash of each document's set of image addresses, those that are too frequent not counted; none for a document without any."""
    images = read_all(work.path("image_url", group), num_receivers=work.num_partitions, dtype=HASHED_PLACE)
    images = images[survivors(work, alive).among(images["doc"])]
    if frequent:
        dropped = read_by_group(work.by_partition("drop_image_url"), work, group, PLACE)
        images = images[~np.isin(_place_numbers(images), _place_numbers(dropped))]
    images = images[np.lexsort((images["lo"], images["hi"], images["doc"]))]
    hashes = make_records(np.dtype([("hi", "<u8"), ("lo", "<u8")]), hi=images["hi"], lo=images["lo"])
    documents, starts = np.unique(images["doc"], return_index=True)
    digests = [xxhash.xxh128_digest(np.unique(own).tobytes()) for own in np.split(hashes, starts[1:])] if len(documents) else []
    words = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
    records = make_records(HASHED, hi=words[:, 0], lo=words[:, 1], doc=documents)
    write_runs(work.path("image_set", group), records, partition_of(records["hi"], work.num_partitions), num_receivers=work.num_partitions)
    return {}


def _place_numbers(records: np.ndarray) -> np.ndarray:
    """One number per (document, place) of a group: places are below 2^24 and a group's documents below 2^39."""
    return records["doc"] << 24 | records["place"]
