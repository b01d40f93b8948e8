"""Images that documents show and the crawl does not hold: the list for `lcl fetch-images`.

    work/extracted/NAME.parquet, minus duplicates, minus what the index finds --> work/wanted/NAME.parquet (url, page_url)
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lcl.core.files import open_aside
from lcl.core.rejected import Rejected
from pipeline.drops import Drop, read_drops, without
from pipeline.extracted import from_row, read_rows
from pipeline.image_index import ImageIndex, address_hash, open_image_index
from pipeline.images import ImageRules, check_image_url
from pipeline.raw import ImageReference

SCHEMA = pa.schema([("url", pa.string()), ("page_url", pa.string())])


def list_wanted(name: str, work: Path, rules: ImageRules) -> dict[str, Any]:
    """Writes the table of a split, and returns how many images it names."""
    index = open_image_index(work / "index")
    rows = list(_wanted(read_rows(work / "extracted" / f"{name}.parquet"), index, read_drops(work / "dedup" / "lists" / f"{name}.parquet"), rules))
    target = work / "wanted" / f"{name}.parquet"
    target.parent.mkdir(exist_ok=True)
    with open_aside(target) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file, compression="zstd")
    return {"wanted": len(rows)}


def _wanted(rows: Iterator[dict[str, Any]], index: ImageIndex, drops: Mapping[str, Drop], rules: ImageRules) -> Iterator[dict[str, str]]:
    for row in rows:
        try:
            document = without(from_row(row), drops.get(row["key"]), [])
        except Rejected:
            continue
        for piece in document.pieces:
            if not isinstance(piece, ImageReference) or piece.data is not None:
                continue
            held = any(url.startswith("data:") or index.find(address_hash(url)) for url in piece.candidates)
            if not piece.candidates or held:
                continue
            try:
                check_image_url(piece.candidates[0], rules)
            except Rejected:  # known before anything is asked for
                continue
            else:
                yield {"url": piece.candidates[0], "page_url": row["page_url"]}
