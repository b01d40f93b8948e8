"""Entry point: the rows of studies/detector.py as tables.

    python studies/detector_page.py --results docs/results/detector

    RESULTS/HASH.json --> RESULTS/../detector.md
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from detector import SEEDS, TABLES, RunConfig, Weights
from table import name_of
from tables_page import done_rows, write_page

from lcl.core.config import config, run_command
from lcl.evals.intervals import Estimate, clustered_bootstrap

Measured = Mapping[str, Any]


@config
class PageConfig:
    results: str = "docs/results/detector"
    """Folder with the rows; the tables are written beside it."""


def main(settings: PageConfig) -> None:
    folder = Path(settings.results)
    rows = done_rows(TABLES, folder, script="detector.py")
    write_page(["# Detectors on a trained encoder and on its random start", accuracy_table(rows), difference(rows), by_task(rows)], folder, num_rows=len(rows))


def of_seeds(weights: Weights, rows: Mapping[str, Measured]) -> dict[int, Measured]:
    return {seed: rows[name] for seed in range(SEEDS) if (name := name_of(RunConfig(encoder=weights, seed=seed))) in rows}


def accuracy_table(rows: Mapping[str, Measured]) -> str:
    lines = ["Share of pictures whose damage is named rightly, and how far the decibels are off, by seed.", "", "| encoder | seed | named rightly | 95 % interval over photographs | decibels off |", "|---" * 5 + "|"]
    for weights in ("trained", "random"):
        for seed, measured in of_seeds(weights, rows).items():
            accuracy = measured["accuracy"]
            lines.append(f"| {weights} | {seed} | {accuracy['value']:.1%} | {accuracy['low']:.1%} to {accuracy['high']:.1%} | {measured['decibels_off']['value']:.2f} |")
    return "\n".join(lines)


def paired(trained: Sequence[Measured], random: Sequence[Measured]) -> Estimate:
    """Of the same pictures under the same seeds: what the trained encoder has more, with an interval of photographs drawn with all their pictures and seeds."""
    ones, others = ([picture for measured in rows for picture in measured["pictures"]] for rows in (trained, random))
    if [(one["picture"], one["task"]) for one in ones] != [(other["picture"], other["task"]) for other in others]:
        raise ValueError("the rows are of different pictures: compute them on the same --unseen")
    more = np.array([float(one["found"] == one["task"]) - float(other["found"] == other["task"]) for one, other in zip(ones, others, strict=True)])
    return clustered_bootstrap(more, [one["picture"] for one in ones], of="photographs")


def difference(rows: Mapping[str, Measured]) -> str:
    trained, random = of_seeds("trained", rows), of_seeds("random", rows)
    seeds = sorted(trained.keys() & random.keys())
    if not seeds:
        return ""
    found = paired([trained[seed] for seed in seeds], [random[seed] for seed in seeds])
    shown = "a gain is shown" if found.low > 0 else "a loss is shown" if found.high < 0 else "no difference is shown"
    value, low, high = (100 * one for one in (found.value, found.low, found.high))
    return f"Trained less random, on the same pictures: {value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}, bootstrap over photographs, {len(seeds)} seeds): **{shown}**."


def by_task(rows: Mapping[str, Measured]) -> str:
    columns = {weights: list(of_seeds(weights, rows).values()) for weights in ("trained", "random")}
    lines = ["Named rightly by what the pictures are, mean over seeds; and what the trained encoder's detectors take them for.", "", "| damage | trained | random | taken for, in all seeds |", "|---" * 4 + "|"]
    for task in next(iter(rows.values()))["taken_for"]:
        shares = [f"{fmean(one['taken_for'][task].get(task, 0) / sum(one['taken_for'][task].values()) for one in found):.0%}" if found else "" for found in columns.values()]
        counts: dict[str, int] = {}
        for one in columns["trained"]:
            for name, count in one["taken_for"][task].items():
                counts[name] = counts.get(name, 0) + count
        others = ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]) if name != task)
        lines.append(f"| {task} | {' | '.join(shares)} | {others} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(PageConfig, main, description=__doc__.splitlines()[0])
