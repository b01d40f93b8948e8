"""What deduplication tells the next phase: per split, one row for each document of which something is dropped.

    drops of all steps, by group --> lists/NAME.parquet (key, reason, kept, paragraphs, images)
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lcl.core.files import open_aside
from lcl.core.rejected import Reason
from pipeline.dedup.records import image_kinds, keys_of
from pipeline.dedup.runs import DROP, PLACE
from pipeline.dedup.steps import Work, read_by_group

LISTS = "lists"
LIST = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("reason", pa.string()),                # why the document is dropped; null: it stays
        pa.field("kept", pa.string()),                  # key of the document for which it is dropped; a later stage may have dropped that too
        pa.field("paragraphs", pa.list_(pa.int32())),   # numbers of dropped paragraphs of a document that stays, ascending
        pa.field("images", pa.list_(pa.int32())),       # places in image_urls of dropped images of a document that stays, ascending
    ]
)
REASONS = {  # step: why its documents are dropped
    "contaminated": Reason.CONTAMINATED,
    "url": Reason.DUPLICATE_URL,
    "text": Reason.DUPLICATE_CONTENT,
    "near": Reason.NEAR_DUPLICATE,
    "image_set": Reason.SAME_IMAGE_SET,
}


def write_lists(work: Work, group: int) -> dict[str, int]:
    """Writes the lists of the splits that begin in the group; counts documents by what became of them."""
    corpus, counts = work.corpus, Counter[str]()
    begins_in = np.minimum(corpus.starts[:-1] // corpus.group_documents, corpus.num_groups - 1)
    splits = np.flatnonzero((begins_in == group) & (np.arange(len(begins_in)) >= corpus.num_known_splits))
    if not len(splits):
        return {}
    start, end = int(corpus.starts[splits[0]]), int(corpus.starts[splits[-1] + 1])
    groups = range(group, max(group, (end - 1) // corpus.group_documents) + 1)
    drops = {stage: _read(work, f"drop_{stage}", groups, DROP) for stage in REASONS if _is_there(work, f"drop_{stage}")}
    places = {kind: _read(work, f"drop_{kind}", groups, PLACE) for kind in ("paragraph", *image_kinds(work)) if _is_there(work, f"drop_{kind}")}
    for split in splits:
        bounds = int(corpus.starts[split]), int(corpus.starts[split + 1])
        own_drops, own_places = ({kind: _between(found, *bounds) for kind, found in records.items()} for records in (drops, places))
        table = _list_of(work, own_drops, own_places)
        with open_aside(work.folder.parent / LISTS / corpus.paths[split].name) as file:
            pq.write_table(table, file, compression="zstd")
        counts.update(reason for reason in table["reason"].to_pylist() if reason is not None)
    dropped = counts.total()
    return {"in": end - start, "out": end - start - dropped, **counts}


def _is_there(work: Work, kind: str) -> bool:
    return work.path(kind, 0).exists()


def _read(work: Work, kind: str, groups: range, dtype: np.dtype) -> np.ndarray:
    paths = sorted(work.folder.glob(f"{kind}-[0-9]*.bin"))
    records = np.concatenate([read_by_group(paths, work, group, dtype) for group in groups])
    return records[np.argsort(records["doc"], kind="stable")]


def _between(records: np.ndarray, low: int, high: int) -> np.ndarray:
    first, behind = np.searchsorted(records["doc"], [low, high])
    return records[first:behind]


def _list_of(work: Work, drops: Mapping[str, np.ndarray], places: Mapping[str, np.ndarray]) -> pa.Table:
    reasons: dict[int, Reason] = {}
    kept: dict[int, int] = {}
    for stage, records in drops.items():
        for document, kept_document in records.tolist():
            assert document not in reasons, f"document {document} was dropped twice"
            reasons[document] = REASONS[stage]
            if kept_document >= 0:
                kept[document] = kept_document
    dropped_places: dict[str, dict[int, set[int]]] = {"paragraphs": {}, "images": {}}
    for kind, records in places.items():
        of_document = dropped_places["paragraphs" if kind == "paragraph" else "images"]
        for document, place in records.tolist():
            if document not in reasons:
                of_document.setdefault(document, set()).add(place)
    documents = sorted({*reasons, *dropped_places["paragraphs"], *dropped_places["images"]})
    keys = keys_of(work, np.array(documents, np.int64))
    kept_keys = dict(zip(kept, keys_of(work, np.array(list(kept.values()), np.int64)), strict=True))
    columns = [
        keys,
        [reasons.get(document) for document in documents],
        [kept_keys.get(document) for document in documents],
        *([sorted(dropped_places[name].get(document, ())) for document in documents] for name in ("paragraphs", "images")),
    ]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, LIST, strict=True)], schema=LIST)
