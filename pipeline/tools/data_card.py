"""The data card of a set: what it is, where it came from, what was left out, what it holds and how to use it. It follows from the set alone.

    sidecars, run.json, report.json, catalogues --> statistics --> README.md beside the shards
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcl.core.document import SCHEMA
from lcl.core.files import open_aside, read_json
from lcl.core.selection import RECORD, is_selection
from pipeline.tools.shard_stats import gather_stats

CARD = "README.md"
PLACES = ("crawl", "shards", "output", "extends", "image_store", "num_workers", "similarities", "scores")  # settings that say where, not what: they are of the machine
MAX_NAME = 80

LIMITS = """\
- The pages and pictures belong to their authors. A licence in the table is what a page named for itself; it was not checked, and it may not cover the pictures.
- Pages can name people. Removal requests: `lcl remove` takes pages, domains and pictures out; ask who gave you this set for the removals since.
- The web is no sample of the world: the tables above show which languages and domains weigh how much.
- Extraction and language identification make mistakes; scores in the catalogue allow stricter choices (`lcl select`).
- Near-duplicates, texts of evaluation sets and unwanted content are absent only as far as the filters above say so.
"""


def write_card(folder: Path, *, title: str = "", note: str = "") -> str:
    """Writes README.md into the folder of a set or of a selection and returns its text. The same set gives the same card.

    Raises ValueError as `find_shards` does, and if a README.md is there that this function did not write.
    """
    path = folder / CARD
    if path.exists() and MARK not in path.read_text("utf-8", "replace"):
        raise ValueError(f"{path} was not written by `lcl card`; move it away first")
    text = "\n".join(_sections(folder, title or folder.resolve().name, note)) + "\n"
    with open_aside(path) as file:
        file.write(text.encode())
    return text


MARK = "<!-- data card: written by `lcl card`, do not edit -->"


def _sections(folder: Path, title: str, note: str) -> Iterator[str]:
    stats = gather_stats([folder])
    counts = stats["counts"]
    yield f"{MARK}\n# Data card: {_plain(title)}\n"
    if note:
        yield f"{_plain(note)}\n"
    yield (
        f"{counts['documents']:,} interleaved image-text documents (texts and pictures in page order where the source has one) with {counts['images']:,} pictures "
        f"and {counts['characters']:,} characters, in {counts['shards']:,} WebDataset shards of the format `{SCHEMA}`.\n"
    )
    yield from _sources(folder, stats)
    yield from _rules(folder)
    yield from _funnel(stats["funnel"])
    yield "## What it holds\n"
    means = [(entry["title"], f"{entry['mean']:.4g}") for entry in stats["histograms"].values() if entry["mean"] is not None]
    yield _table(("quantity", "mean"), means)
    for name, heading in (("languages", "language"), ("licenses", "licence that the page names"), ("domains", "domain")):
        tally = stats["tallies"][name]
        yield _table((heading, "documents"), [(label, f"{count:,}") for label, count in tally["top"]])
        if tally["different"] > len(tally["top"]):
            yield f"The {len(tally['top'])} most frequent of {tally['different']:,}{'' if tally['is_exact'] else ' or more'}.\n"
    yield f"## Known limits\n\n{LIMITS}"
    yield "## Verify and load\n"
    yield f'```bash\nlcl verify --shards {_shell(folder.name)}\nlcl stats --shards {_shell(folder.name)} --output stats\n```\n'
    yield (
        "```python\nfrom pathlib import Path\n\nfrom lcl.core.shards import ShardSet\n\n"
        f"for document in ShardSet([Path({folder.name!r})]):\n    print(document.page_url, document.texts, len(document.images))\n```"
    )


def _sources(folder: Path, stats: Mapping[str, Any]) -> Iterator[str]:
    yield "## Sources\n"
    if is_selection(folder):
        yield f"A selection: the documents of other shards where {_code(read_json(folder / RECORD)['where'])}.\n"
    files = stats["tallies"]["crawl_files"]
    yield _table(("crawl file", "documents"), [(label, f"{count:,}") for label, count in files["top"]])
    if files["different"] > len(files["top"]):
        yield f"The {len(files['top'])} with most documents of {files['different']:,}. Each document names its crawl file, the offset of its record and its address.\n"


def _rules(folder: Path) -> Iterator[str]:
    """The settings that made the set, without paths."""
    path = folder / "run.json"
    if path.exists():
        record = read_json(path)
        rules = {key: value for key, value in record["config"].items() if key not in PLACES}
        yield "## Rules\n\nThe settings of the run that wrote these shards, and its commit:\n"
        yield f"```json\n{json.dumps({'config': rules, 'commit': record.get('commit', 'unknown')}, indent=1)}\n```\n"


def _funnel(funnel: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if funnel:
        yield "## What came in and what was left out\n"
    for kind, counts in funnel.items():
        dropped = sorted(counts["dropped"].items(), key=lambda item: (-item[1], item[0]))
        rows = [("found", counts["in"]), *((f"- {reason.replace('_', ' ')}", count) for reason, count in dropped), ("= kept", counts["out"])]
        yield _table((kind, "number"), [(label, f"{count:,}") for label, count in rows])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---|---:|", *(f"| {_code(row[0])} | {row[1]} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """The text on one line, without what Markdown or HTML would take for markup."""
    visible = "".join(character if character.isprintable() else " " for character in text)
    return "".join(f"\\{character}" if character in "\\`*_[]<>#|&!" else character for character in visible)


def _code(text: str) -> str:
    """The text as code in a table, cut to a length: a name from the web must not become markup."""
    visible = "".join(character if character.isprintable() and character not in "`|" else "\N{REPLACEMENT CHARACTER}" for character in text[:MAX_NAME])
    return f"`{visible or '(empty)'}`"


def _shell(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").replace(".", "").isalnum() else "FOLDER"
