"""The report of a fine-tuning, the same for each kind of model: on the terminal, as report.json with every photograph's values, and as report.md."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from downstream.before_after import COLUMNS, Measure, compare, in_words
from lcl.core.files import open_aside
from lcl.evals.results import console
from lcl.measured import write_result

log = logging.getLogger(__name__)


def write_report(settings: Any, output: Path, measures: Sequence[Measure], *, record: Mapping[str, Any], heading: str, means: str, ending: Sequence[str], notes: Sequence[str] = ()) -> None:
    """`means` says over what they are, `notes` what could not be measured, `ending` is the last of report.md; `record` is what report.json holds beside the measures."""
    compared = [compare(measure) for measure in measures]
    words = in_words(compared)
    rows = [one.cells() for one in compared]
    write_result(output / "report.json", settings, {**record, "said": words, "measures": [one.record() for one in compared]})
    lines = [f"# {heading}", "", words, "", *("| " + " | ".join(row) + " |" for row in (COLUMNS, ("---",) * len(COLUMNS), *rows)), ""]
    lines += [f"{means} Differences are paired by picture, with 95 % intervals by bootstrap over pictures.", "", *(f"- {line}" for line in notes), *([""] if notes else []), *ending]
    with open_aside(output / "report.md") as file:
        file.write(("\n".join(lines) + "\n").encode())
    table = Table(title=means, title_justify="left")
    for column in COLUMNS:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console().print(table)
    for line in notes:
        log.warning("%s", line)
    log.info("%s", words)
    log.info("%s: report.json, report.md", output)
