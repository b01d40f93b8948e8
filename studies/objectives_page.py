"""Entry point: the rows of studies/objectives.py as tables and pictures.

    python studies/objectives_page.py --results docs/results/objectives

    RESULTS/HASH.json --> RESULTS/../objectives.md (a table for each of TABLES, with what could have been seen), loss.svg, rank.svg, scaling.svg beside the rows
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from objectives import BASE, CPU_SIZES, OBJECTIVE_NAMES, PHOTO_COUNTS, TABLES, RunConfig, for_gpu
from scipy.stats import t as student
from svg import pyplot, save_svg
from table import name_of, read_rows
from tables_page import require_rows, write_page

from lcl.core.config import config, run_command

Measured = Mapping[str, Any]

TRAINED = "trained encoder"
CONTROLS = ("random weights", "raw pixels")  # as the names of rows begin
COLUMNS = (  # heading, task, metric
    ("linear probe", "linear probe", "accuracy"),
    ("attentive probe", "attentive probe", "accuracy"),
    ("nearest neighbours", "nearest neighbours", "accuracy"),
    ("zero-shot", "zero-shot classification", "accuracy"),
    ("context to image, R@1", "context retrieval", "context to image R@1"),
)
HELD_OUT = ("large", 0)  # size and photographs of the point that the law predicts


@config
class PageConfig:
    results: str = "docs/results/objectives"
    """Folder with the rows; pictures are written into it, the tables beside it."""
    gpu: bool = False
    """Rows that were computed with --gpu."""


def main(settings: PageConfig) -> None:
    folder = Path(settings.results)
    rows = rows_in(folder, gpu=settings.gpu)
    require_rows(rows, folder, script="objectives.py")
    draw_curves(rows, folder, "loss", {"text_nats": "text loss, nats a token", "contrastive_nats": "contrastive loss, nats"})
    draw_curves(rows, folder, "rank", {"effective_rank": "effective rank of the pooled latents", "embedding_variance": "1 - mean cosine of different images"})
    parts = [objectives_table(rows), controls_table(rows), *(axis_table(name, rows) for name in TABLES if name not in ("objectives", "scaling")), scaling_part(rows, folder)]
    write_page(parts, folder, num_rows=len(rows))


def rows_in(folder: Path, *, gpu: bool) -> dict[str, Measured]:
    """What was measured of the rows that are done, under the names that they have in TABLES, also where they were computed for a GPU."""
    found: dict[str, Measured] = {}
    for row in (row for table in TABLES.values() for row in table):
        found |= {name_of(row): measured for measured in read_rows(folder, [for_gpu(row) if gpu else row]).values()}
    return found


def value_of(measured: Measured, task: str, metric: str, model: str = TRAINED) -> float | None:
    """A value of a row, in percent; None where it was not measured."""
    for evaluation in measured["evaluations"]:
        for row in evaluation["rows"]:
            if evaluation["task"].startswith(task) and row["metric"] == metric and row["model"].startswith(model):
                return 100 * row["value"]
    return None


def seeds_of(row: RunConfig, rows: Mapping[str, Measured], task: str, metric: str, model: str = TRAINED) -> list[float]:
    found = [rows[name] for seed in range(3) if (name := name_of(replace(row, seed=seed))) in rows]
    return [value for one in found if (value := value_of(one, task, metric, model)) is not None]


def cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def objectives_table(rows: Mapping[str, Measured]) -> str:
    lines = ["## Objectives", "", "Percent, mean ± standard deviation over seeds.", "", table_head(["objective", "seeds"])]
    pooled: dict[str, list[float]] = {heading: [] for heading, _, _ in COLUMNS}
    for name in OBJECTIVE_NAMES:
        row = replace(BASE, objective=name)
        columns = {heading: seeds_of(row, rows, task, metric) for heading, task, metric in COLUMNS}
        num = max(map(len, columns.values()))
        if num:
            lines.append(f"| {name} | {num} | " + " | ".join(map(cell, columns.values())) + " |")
        for heading, values in columns.items():
            pooled[heading] += [stdev(values)] if len(values) == 3 else []
    for model in CONTROLS:
        controls = [seeds_of(BASE, rows, task, metric, model) for _, task, metric in COLUMNS]
        if any(controls):
            lines.append(f"| {model} | {max(map(len, controls))} | " + " | ".join(map(cell, controls)) + " |")
    least = [least_difference(values, num=3) if values else math.nan for values in pooled.values()]
    if all(map(math.isnan, least)):
        return "\n".join(lines)
    lines += ["", "Least difference between two objectives of three seeds each that this could have told from chance (two-sided t test, 95 %; seeds only, the test images are the same): "]
    lines[-1] += ", ".join(f"{heading} {value:.1f}" for heading, value in zip(pooled, least, strict=True) if not math.isnan(value)) + "."
    return "\n".join(lines)


def least_difference(deviations: Sequence[float], *, num: int) -> float:
    """t_{0.975, 2 num - 2} * s * sqrt(2 / num), with s the pooled standard deviation over seeds."""
    pooled = math.sqrt(fmean(value**2 for value in deviations))
    return float(student.ppf(0.975, 2 * num - 2)) * pooled * math.sqrt(2 / num)


def controls_table(rows: Mapping[str, Measured]) -> str:
    """What the first row measured beside its encoder."""
    if (base := rows.get(name_of(BASE))) is None:
        return ""
    lines = ["## Controls", "", "Of the first row (LCL, seed 0), in percent with 95 % intervals.", "", "| protocol | model | value | interval | n |", "|---|---|---|---|---|"]
    for evaluation in base["evaluations"]:
        metric = next((metric for _, task, metric in COLUMNS if evaluation["task"].startswith(task)), None)
        for row in evaluation["rows"]:
            if row["metric"] == metric:
                lines.append(f"| {evaluation['task']} | {row['model']} | {100 * row['value']:.1f} | {100 * row['low']:.1f} to {100 * row['high']:.1f} | {row['n']} |")
    return "\n".join(lines)


def axis_table(name: str, rows: Mapping[str, Measured]) -> str:
    """One table of the study: what its rows change of the base, and what they measured."""
    of_corpus = ["context to image in the corpus, R@10", "random weights", "chance"] if name == "corpus" else []
    lines = [f"## {name.replace('_', ' ').capitalize()}", "", table_head(["row", "images seen"], of_corpus)]
    done = [row for row in TABLES[name] if name_of(row) in rows]
    if done in ([], [BASE]):
        return ""
    for row in done:
        measured = rows[name_of(row)]
        values = [value_of(measured, task, metric) for _, task, metric in COLUMNS]
        if of_corpus:  # the second one, behind that on composed pages
            second = {"evaluations": [one for one in measured["evaluations"] if one["task"].startswith("context retrieval")][1:]}
            values += [value_of(second, "context retrieval", "context to image R@10", model) for model in (TRAINED, "random weights", "chance")]
        lines.append(f"| {changes(row)} | {measured['images_seen']:,.0f} | " + " | ".join("" if value is None else f"{value:.1f}" for value in values) + " |")
    return "\n".join(lines)


def changes(row: RunConfig) -> str:
    """What a row changes of the base, in words."""
    plain, base = ({**{key: value for key, value in asdict(one).items() if key != "pages"}, **asdict(one.pages)} for one in (row, BASE))
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in plain.items() if value != base[key]) or "base"


def table_head(first: Sequence[str], last: Sequence[str] = ()) -> str:
    headings = [*first, *(heading for heading, _, _ in COLUMNS), *last]
    return f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}"


def draw_curves(rows: Mapping[str, Measured], folder: Path, name: str, shown: Mapping[str, str]) -> None:
    """Curves over images seen of the first seed of each objective."""
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4.6 * len(shown), 3.2), layout="constrained")
    for number, objective in enumerate(OBJECTIVE_NAMES):
        measured = rows.get(name_of(replace(BASE, objective=objective)))
        for place, (curve, title) in zip(axes, shown.items(), strict=True):
            place.set_title(title, fontsize=10)
            place.set_xlabel("thousand images seen")
            place.grid(alpha=0.3)
            values = measured["curves"].get(curve, []) if measured else []
            points = [(seen / 1000, value) for seen, value in zip(measured["curves"]["images_seen"], values, strict=False) if value is not None] if values else []
            if any(value for _, value in points):  # text loss is 0 throughout where an objective has no targets
                place.plot(*zip(*points, strict=True), label=objective, color=f"C{number}", linewidth=1.4)
    axes[-1].legend(fontsize=8)
    save_svg(figure, folder / f"{name}.svg")


def scaling_part(rows: Mapping[str, Measured], folder: Path) -> str:
    """Error of the linear probe over photographs and parameters, with a law fitted to all points but one, which it predicts."""
    points = {}
    for size in CPU_SIZES:
        for count in PHOTO_COUNTS:
            measured = rows.get(name_of(replace(BASE, size=size, pages=replace(BASE.pages, max_photos=count))))
            if measured is not None:
                points[size, count] = (measured["num_photos"], measured["tower_parameters"], 1 - value_of(measured, "linear probe", "accuracy") / 100)
    if len(points) < len(CPU_SIZES) * len(PHOTO_COUNTS):
        return ""
    fitted = {key: value for key, value in points.items() if key != HELD_OUT}
    law, margins = fit_law(list(fitted.values()))
    num, parameters, error = points[HELD_OUT]
    predicted = math.exp(law @ [1, math.log(num), math.log(parameters)])
    spread = float(np.std([math.log(one[2]) - law @ [1, math.log(one[0]), math.log(one[1])] for one in fitted.values()], ddof=3))
    figure, axes = pyplot.subplots(figsize=(5.2, 3.4), layout="constrained")
    for size in CPU_SIZES:
        line = [points[size, count] for count in PHOTO_COUNTS]
        axes.plot([one[0] for one in line], [100 * one[2] for one in line], marker="o", label=f"{size}, {line[0][1]:,} parameters")
    axes.plot([num], [100 * predicted], marker="x", markersize=9, color="black", linestyle="none", label="predicted")
    axes.set(xscale="log", xlabel="photographs", ylabel="error of the linear probe, %", title="More photographs, larger towers")
    axes.set_ylim(bottom=0)  # or noise fills the picture
    counts = [points["small", count][0] for count in PHOTO_COUNTS]
    axes.set_xticks(counts, labels=[f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    save_svg(figure, folder / "scaling.svg")
    lines = ["## Scaling", "", "Error of the linear probe, in percent.", "", "| tower | " + " | ".join(f"{count:,} photographs" for count in counts) + " |"]
    lines.append("|---" * (len(PHOTO_COUNTS) + 1) + "|")
    lines += [f"| {size}, {points[size, 0][1]:,} parameters | " + " | ".join(f"{100 * points[size, count][2]:.1f}" for count in PHOTO_COUNTS) + " |" for size in CPU_SIZES]
    reaches = [f"{value - margin:.3f} to {value + margin:.3f}" for value, margin in zip(law, margins, strict=True)]
    lines += ["", f"Fitted to all points but the last: error = {math.exp(law[0]):.3g} x photographs^{law[1]:.3f} x parameters^{law[2]:.3f} (95 %: {reaches[1]} and {reaches[2]}). It predicts {100 * predicted:.1f} % for the last "]
    lines[-1] += f"({100 * predicted * math.exp(-2 * spread):.1f} to {100 * predicted * math.exp(2 * spread):.1f}, two deviations of the other points around it); measured {100 * error:.1f} %."
    return "\n".join(lines)


def fit_law(points: Sequence[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """(c, a, b) of the least squares of ln error = c + a ln photographs + b ln parameters, and how far their 95 % intervals reach (Student's t)."""
    matrix = np.array([[1, math.log(num), math.log(parameters)] for num, parameters, _ in points])
    errors = np.log([error for _, _, error in points])
    law = np.linalg.lstsq(matrix, errors, rcond=None)[0]
    freedom = len(points) - matrix.shape[1]
    variance = ((errors - matrix @ law) ** 2).sum() / freedom
    return law, student.ppf(0.975, freedom) * np.sqrt(variance * np.diag(np.linalg.inv(matrix.T @ matrix)))


if __name__ == "__main__":
    run_command(PageConfig, main, description=__doc__.splitlines()[0])
