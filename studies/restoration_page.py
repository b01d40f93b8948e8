"""Entry point: the rows of studies/restoration.py as tables and a picture.

    python studies/restoration_page.py --results docs/results/restoration

    RESULTS/HASH.json --> RESULTS/../restoration.md, RESULTS/quality.svg (quality against seconds)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from restoration import ABLATIONS, BASE, CLEAN_SDE, ENCODERS, METHODS, SEEDS, TABLES, TASKS, RunConfig, Task
from svg import pyplot, save_svg
from table import name_of
from tables_page import done_rows, write_page

from lcl.core.config import config, run_command

Rows = Mapping[str, Mapping[str, Any]]
CONSISTENCY = ("IR-CM", "IR-CM of the path")
QUALITIES = {  # title, digits
    "psnr_db": ("PSNR, dB", 2), "psnr_y_db": ("PSNR-Y, dB", 2), "ssim": ("SSIM", 4), "gmsd": ("GMSD", 4), "haarpsi": ("HaarPSI", 4), "feature_distance": ("features", 4),
}  # fmt: skip


class Measured(NamedTuple):
    """One way to restore one task: what each seed's model has, by measure, and seconds per megapixel."""

    qualities: list[Mapping[str, float]]
    seconds: list[float]


@config
class PageConfig:
    results: str = "docs/results/restoration"
    """Folder with the rows; the picture is written into it, the tables beside it."""


def main(settings: PageConfig) -> None:
    folder = Path(settings.results)
    rows = done_rows(TABLES, folder, script="restoration.py")
    draw(rows, folder / "quality.svg")
    parts = [promises_part(rows), *(methods_part(rows, task) for task in TASKS), encoder_part(rows), ablations_part(rows), stronger_part(rows)]
    write_page(parts, folder, num_rows=len(rows))


# --- What rows say

def of_seeds(rows: Rows, row: RunConfig) -> list[Mapping[str, Any]]:
    """Of the row's seeds those that are done."""
    return [found for seed in range(SEEDS) if (found := rows.get(name_of(replace(row, seed=seed)))) is not None]


def of_method(found: Sequence[Mapping[str, Any]], ending: str, *, part: str = "rows") -> Measured:
    """Of each row the method whose name ends so (`1 step`, `identity`); rows that diverged have none."""
    chosen = [one for row in found for one in row.get(part, []) if one["method"].endswith(ending) and ", no encoder" not in one["method"]]
    return Measured([one["quality"] for one in chosen], [one["seconds_per_megapixel"] for one in chosen])


def ways(rows: Rows, task: Task) -> dict[str, Measured]:
    """Everything that was done to a task's pictures, by name, in the order of the table."""
    classical = of_seeds(rows, replace(BASE, task=task, kind="classical"))[:1]
    names = {"identity": "degraded"} | {name: name for name in ("non-local means", "CLAHE", "Wiener")}
    found = {shown: of_method(classical, name) for name, shown in names.items()}
    by_kind = {name: of_seeds(rows, replace(row, task=task)) for name, row in {**METHODS, "IR-SDE of x_0": CLEAN_SDE}.items()}
    found["regression"] = of_method(by_kind["regression"], "1 step")
    found |= {f"{name}, 100 steps": of_method(by_kind[name], " steps") for name in ("IR-SDE", "IR-SDE of x_0")}
    found |= {f"{name}, {steps} step{'s' * (steps > 1)}": of_method(by_kind[name], f", {steps} step{'s' * (steps > 1)}") for name in CONSISTENCY for steps in (1, 2, 4)}
    return {name: one for name, one in found.items() if one.qualities}


def diverged(row: Mapping[str, Any]) -> bool:
    """Whether its loss was not finite, or one step leaves a picture farther from the clean one than it was."""
    if row["diverged"]:
        return True
    one, degraded = (of_method([row], ending).qualities[0]["psnr_db"] for ending in ("1 step", "identity"))
    return one < degraded


def beats(gains: Sequence[float], plain: Sequence[float]) -> bool:
    """Whether the mean gain is more than twice the spread of the seeds without it, its standard deviation."""
    return len(plain) > 1 and float(np.mean(gains)) > 2 * float(np.std(plain, ddof=1))


# --- Parts of the page

def promises_part(rows: Rows) -> str:
    """What the method is to do, and whether it does, by the means over seeds."""
    said = (
        "Gains of one step in PSNR, dB: at least 3 over the degraded picture, more than 0 over each filter (the best), at most 0.3 behind regression."
        " Speed: seconds of IR-SDE's 100 steps over those of one, at least 50; of each the least of the seeds, for other work ran beside. Two steps over one: higher in HaarPSI and lower in GMSD."
        " Of the path: trained on states between degraded and clean, with later steps at T / 2 and T / 4 and fresh noise, as published; the others mend the network's own first step."
    )
    titles = ["task", "over degraded", "over filters", "over regression", "times as fast", "two steps over one: HaarPSI, GMSD", "likewise of the path"]
    lines = ["## What was promised", "", said, "", _heading(titles)]
    count = 0
    for task in TASKS:
        found = ways(rows, task)
        if "IR-CM, 1 step" in found:
            lines.append(_line([task, *promises(found)]))
            count += 1
    return "\n".join(lines) if count else ""


def promises(found: Mapping[str, Measured]) -> list[str]:
    """A cell for each promise: the number and yes or no; empty where what it is compared with is not done."""
    one = found["IR-CM, 1 step"]

    def mean(name: str, key: str = "psnr_db") -> float:
        return float(np.mean([each[key] for each in found[name].qualities]))

    cells = []
    for others, least in ((("degraded",), 3.0), (("non-local means", "CLAHE", "Wiener"), 0.0), (("regression",), -0.3)):
        gains = [mean("IR-CM, 1 step") - mean(other) for other in others if other in found]
        cells.append(f"{min(gains):+.2f}: {_said(min(gains) >= least)}" if gains else "")
    slow = found.get("IR-SDE, 100 steps")
    times = None if slow is None else min(slow.seconds) / min(one.seconds)
    cells.append("" if times is None else f"{times:.0f}: {_said(times >= 50)}")
    for name in CONSISTENCY:
        if f"{name}, 2 steps" in found:
            haarpsi, gmsd = (mean(f"{name}, 2 steps", key) - mean(f"{name}, 1 step", key) for key in ("haarpsi", "gmsd"))
            cells.append(f"{haarpsi:+.4f}, {gmsd:+.4f}: {_said(haarpsi > 0 > gmsd)}")
        else:
            cells.append("")
    return cells


def _said(kept: bool) -> str:
    return "yes" if kept else "no"


def methods_part(rows: Rows, task: Task) -> str:
    found = ways(rows, task)
    slow = found.get("IR-SDE, 100 steps")
    lines = [f"## {task}", "", _heading(["method", "seeds", *(title for title, _ in QUALITIES.values()), "s / megapixel", "times as fast as IR-SDE"])]
    for name, one in found.items():
        speed = "" if slow is None or "step" not in name and name != "regression" else f"{min(slow.seconds) / min(one.seconds):.0f}"
        qualities = [spread([each[key] for each in one.qualities], digits) for key, (_, digits) in QUALITIES.items()]
        lines.append(_line([name, str(len(one.qualities)), *qualities, f"{min(one.seconds):.2f}", speed]))
    return "\n".join(lines) if found else ""


def encoder_part(rows: Rows) -> str:
    """Gains of the guided network over the one without, and over the one with a random encoder, paired by seed, and whether they are more than twice the spread of the seeds."""
    trained, random = ENCODERS.values()
    compared = {"trained encoder over none": (BASE, trained), "random encoder over none": (BASE, random), "trained over random": (random, trained)}
    said = "Gains in PSNR, dB, paired by seed, the mean over seeds; `yes` where it is more than twice the standard deviation of the seeds without an encoder."
    lines = ["## The encoder in the network", "", said, ""]
    lines.append(_heading(["task", "steps", "seeds", "without", *(f"{name}: gain | more than the spread" for name in compared)], columns=4 + 2 * len(compared)))
    count = 0
    for task in TASKS:
        for ending in (", 1 step", ", 2 steps"):
            found = [pairs_of(rows, task, *both, ending) for both in compared.values()]
            if any(found):
                plain = [one["psnr_db"] for one in of_method(of_seeds(rows, replace(BASE, task=task)), ending).qualities]
                cells = [cell for pairs in found for cell in (_gain(pairs, plain) if pairs else ("", ""))]
                lines.append(_line([task, ending.split()[1], str(max(map(len, found))), spread(plain, 2), *cells]))
                count += 1
    return "\n".join(lines) if count else ""


def pairs_of(rows: Rows, task: Task, one: RunConfig, other: RunConfig, ending: str) -> list[tuple[float, float]]:
    """PSNR of both, of each seed that has both."""
    found = []
    for seed in range(SEEDS):
        both = [rows.get(name_of(replace(row, task=task, seed=seed))) for row in (one, other)]
        if all(row is not None and not row["diverged"] for row in both):
            found.append(tuple(of_method([row], ending).qualities[0]["psnr_db"] for row in both))
    return found


def _gain(pairs: Sequence[tuple[float, float]], plain: Sequence[float]) -> tuple[str, str]:
    gains = [after - before for before, after in pairs]
    return f"{np.mean(gains):+.2f}", _said(beats(gains, plain))


def ablations_part(rows: Rows) -> str:
    said = "Diverged: the loss was not finite, or one step leaves pictures farther from the clean ones than they were. Quality is of the runs whose loss stayed finite."
    lines = ["## Ablations, on rain", "", said, ""]
    lines.append(_heading(["IR-CM", "runs", "diverged", *(f"PSNR, dB, {steps}" for steps in ("1 step", "2 steps", "4 steps")), "HaarPSI, 1 step", "HaarPSI, 2 steps"]))
    count = 0
    for name, row in {"as in the tables above": BASE, **ABLATIONS}.items():
        if found := of_seeds(rows, row):
            cells = [_of(found, f", {steps}", "psnr_db", 2) for steps in ("1 step", "2 steps", "4 steps")]
            cells += [_of(found, f", {steps}", "haarpsi", 4) for steps in ("1 step", "2 steps")]
            lines.append(_line([name, str(len(found)), f"{sum(map(diverged, found))} of {len(found)}", *cells]))
            count += name != "as in the tables above"
    return "\n".join(lines) if count else ""


def stronger_part(rows: Rows) -> str:
    """Degradations stronger than any of the training."""
    lines = ["## Stronger than in training", "", _heading(["task", "degraded: PSNR, dB", "regression", "IR-CM, 1 step", "IR-CM, 2 steps"])]
    count = 0
    for task in TASKS:
        regression, ours = (of_seeds(rows, replace(METHODS[name], task=task)) for name in ("regression", "IR-CM"))
        if ours or regression:
            shown = ((ours or regression, "identity"), (regression, "1 step"), (ours, "1 step"), (ours, "2 steps"))
            lines.append(_line([task, *(_of(found, ending, "psnr_db", 2, part="stronger") for found, ending in shown)]))
            count += 1
    return "\n".join(lines) if count else ""


def _of(found: Sequence[Mapping[str, Any]], ending: str, key: str, digits: int, *, part: str = "rows") -> str:
    return spread([one[key] for one in of_method(found, ending, part=part).qualities], digits)


def spread(values: Sequence[float], digits: int) -> str:
    """The mean, and the lowest and highest of several."""
    if not values:
        return ""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) < 2 or min(values) == max(values) else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _heading(titles: Sequence[str], *, columns: int = 0) -> str:
    return f"{_line(titles)}\n|{'---|' * (columns or len(titles))}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# --- The picture

def draw(rows: Rows, path: Path) -> None:
    """A place for each task and measure: quality against seconds per megapixel, a point for each way to restore."""
    shown: dict[Task, dict[str, Measured]] = {task: found for task in TASKS if (found := ways(rows, task))}
    figure, axes = pyplot.subplots(2, max(1, len(shown)), figsize=(4 * max(1, len(shown)), 7), layout="constrained", squeeze=False)
    for column, (task, found) in enumerate(shown.items()):
        for place, key in zip(axes[:, column], ("psnr_db", "haarpsi"), strict=True):
            for name, one in found.items():
                if "step" in name or name == "regression":
                    place.errorbar(min(one.seconds), np.mean(values := [each[key] for each in one.qualities]), yerr=np.ptp(values) / 2, marker="o", capsize=2)
                    place.annotate(name, (min(one.seconds), np.mean(values)), fontsize=7, xytext=(3, 3), textcoords="offset points")
            place.set(xscale="log", xlabel="seconds per megapixel", ylabel=QUALITIES[key][0], title=task)
            place.grid(alpha=0.3)
    save_svg(figure, path)


if __name__ == "__main__":
    run_command(PageConfig, main, description=__doc__.splitlines()[0])
