"""Entry point: two results of one task on the same images, by a paired test.

    lcl eval compare before.json after.json --output difference.json
"""

from pathlib import Path

import tyro
from rich.table import Table

from lcl.core.config import commit, config, run_command, versions
from lcl.core.files import sha256_of, write_json
from lcl.evals.compare import SCHEMA, compare, settings_apart
from lcl.evals.results import check_output, console, read_result


@config
class CompareConfig:
    first: tyro.conf.Positional[str]
    """A result of `lcl eval`."""
    second: tyro.conf.Positional[str]
    """Another of the same task on the same images; the difference is second - first."""
    output: str
    """JSON file for the difference."""
    seed: int = 0
    """Of the bootstrap."""


def main(settings: CompareConfig) -> None:
    first, second, output = Path(settings.first), Path(settings.second), check_output(Path(settings.output), schema=SCHEMA)
    differences, apart = compare(first, second, seed=settings.seed), settings_apart(first, second)
    table = Table(title=f"{read_result(first)['task']}: second - first", title_justify="left")
    for column in ("metric", "first", "second", "difference", "95 % interval (paired)", "n", "McNemar p"):
        table.add_column(column)
    for one in differences:
        of = one.difference
        tested = one.p_value_note if one.p_value is None else f"{one.p_value:.3g} ({one.only_first} : {one.only_second})"
        table.add_row(one.metric, f"{one.first:.1%}", f"{one.second:.1%}", f"{of.value:+.1%}", f"{of.low:+.1%} to {of.high:+.1%} ({of.method})", str(of.n), tested)
    page = console()
    page.print(table)
    for name, values in apart.items():
        page.print(f"not the same in both: {name}, {values[0]} and {values[1]}", highlight=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    inputs = {name: {"file": str(path), "sha256": sha256_of(path), "model": read_result(path)["model"]} for name, path in (("first", first), ("second", second))}
    record = {"schema": SCHEMA, "task": read_result(first)["task"], **inputs, "differences": [one.record() for one in differences], "settings_apart": apart, "seed": settings.seed}
    write_json(output, record | {"commit": commit(), "versions": versions(("lcl", "numpy", "scipy"))})


if __name__ == "__main__":
    run_command(CompareConfig, main, description=__doc__.splitlines()[0])
