"""A condition over catalogues to a selection: no tar is opened, nothing is copied.

    catalogues, shard by shard --> Condition --> rows --> selection (lcl/core/selection.py)
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from lcl.core.config import config
from lcl.core.files import read_json
from lcl.core.logs import progress_bar
from lcl.core.selection import RECORD, SelectedShard, is_selection, write_selection
from lcl.core.shards import find_shards, read_catalogue
from pipeline.tools.where import Condition, score_names


@config
class SelectConfig:
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of shards, or selections of them."""
    where: str
    """Which documents, e.g. "score.language_rank < 900 and num_images >= 2 and domain != 'x.org'"; also 'part' in page_url, language in ('en', 'de')."""
    output: str
    """Folder for the selection; it is read wherever a folder of shards is."""


def select_documents(settings: SelectConfig) -> dict[str, Any]:
    """Writes the selection and returns its record. The same call again writes the same bytes.

    Raises ValueError for a condition that cannot be understood, if nothing meets it, and if the folder holds something else.
    """
    condition = Condition(settings.where)
    output = Path(settings.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        if not is_selection(output) or read_json(output / RECORD).get("where") != settings.where:
            raise ValueError(f"--output {output} holds something else than this selection; give another folder")
    shards = find_shards([Path(folder) for folder in settings.shards])
    chosen: list[SelectedShard] = []
    known: set[str] = set()
    num_images = num_characters = 0
    with progress_bar("shards", total=len(shards)) as bar:
        for shard in shards:
            table = read_catalogue(shard.path, shard.sidecar, columns=[*dict.fromkeys(["num_images", "num_characters", *condition.columns])])
            rows = np.arange(len(table)) if shard.rows is None else shard.rows
            known |= score_names(table) if condition.scores else set()
            rows = rows[condition(table)[rows]]
            chosen.append(SelectedShard(shard.path, shard.sidecar["sha256"][".tar"], rows))
            num_images += int(table["num_images"].to_numpy()[rows].sum())
            num_characters += int(table["num_characters"].to_numpy()[rows].sum())
            bar.advance()
    condition.check_scores(known)
    chosen = [part for part in chosen if len(part.rows)]
    if not chosen:
        raise ValueError(f"no document of {', '.join(settings.shards)} meets --where {settings.where!r}; `lcl stats` shows how its values are spread")
    counts = {"documents": sum(len(part.rows) for part in chosen), "images": num_images, "characters": num_characters}
    return write_selection(output, chosen, where=settings.where, counts=counts)
