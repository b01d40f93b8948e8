"""Images that occur in too many documents: icons, banners, placeholders.

    records by hash of the value --> documents per value --> over the limit: every place of it, and the value once
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lcl.core.files import open_aside
from pipeline.dedup.equal import read_living, sort_by_hash
from pipeline.dedup.records import IMAGE_VALUES
from pipeline.dedup.runs import HASHED_PLACE, PLACE, VALUE, make_records
from pipeline.dedup.steps import Work, read_by_group, write_by_group

FREQUENT = pa.schema([pa.field("value", pa.string(), nullable=False), pa.field("documents", pa.int64(), nullable=False)])


def drop_frequent_images(work: Work, partition: int, *, kind: str, alive: str, limit: int) -> dict[str, int]:
    """Drops the images whose value occurs in more than `limit` documents that are left, known ones counted; more than once in a document counts as once."""
    images, first = sort_by_hash(read_living(work, partition, kind=kind, alive=alive, dtype=HASHED_PLACE))
    starts = np.unique(first)
    is_new_document = np.ones(len(images), bool)
    is_new_document[1:] = (images["doc"][1:] != images["doc"][:-1]) | (first[1:] != first[:-1])
    num_documents = np.add.reduceat(is_new_document, starts, dtype=np.int64) if len(images) else np.empty(0, np.int64)
    is_frequent = num_documents > limit
    is_new = images["doc"] >= work.corpus.num_known
    dropped, values = images[is_new & np.isin(first, starts[is_frequent])], images[starts[is_frequent]]
    write_by_group(work, f"drop_{kind}", partition, make_records(PLACE, doc=dropped["doc"], place=dropped["place"]))
    occurrences = make_records(VALUE, doc=values["doc"], place=values["place"], documents=num_documents[is_frequent])
    write_by_group(work, f"value_{kind}", partition, occurrences)
    return {"in": int(np.count_nonzero(is_new)), "dropped": len(dropped), "values": len(values)}


def spell_frequent_values(work: Work, group: int, *, kind: str) -> dict[str, int]:
    """Writes the values that first occur in this group, in that order, as `FREQUENT`. data: addresses are left out: nobody fetches them."""
    column, same = IMAGE_VALUES[kind]
    wanted = read_by_group(work.by_partition(f"value_{kind}"), work, group, VALUE)
    wanted = wanted[np.lexsort((wanted["place"], wanted["doc"]))]
    rows: list[dict[str, str | int]] = []
    for first, batch in work.corpus.read(*work.corpus.bounds(group), [column]) if len(wanted) else ():
        low, high = np.searchsorted(wanted["doc"], [first, first + len(batch)])
        for document, place, count in wanted[low:high].tolist():
            value = same(batch[column][document - first][place].as_py())
            if not value.startswith("data:"):
                rows.append({"value": value, "documents": count})
    with open_aside(work.path(f"frequent_{kind}", group)) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=FREQUENT), file)
    return {}
