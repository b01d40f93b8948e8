"""Entry point: the rows of studies/refinement.py as tables and pictures.

    python studies/refinement_page.py --results docs/results/refinement

    RESULTS/HASH.json --> RESULTS/../refinement.md (tuned and untuned, over rates, on other pictures), untuned-CODEC.svg beside the rows
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from refinement import METHODS, TUNE, RunConfig, change_of
from svg import pyplot, save_svg
from tables_page import require_rows, write_page

from downstream.codec.bd_rate import bd_rate
from lcl.core.config import config, from_dict, run_command
from lcl.core.files import read_json
from lcl.evals.intervals import RESAMPLES, clustered_bootstrap

LEAST_LEVELS = 4  # of a curve


class Row(NamedTuple):
    settings: RunConfig
    measured: Mapping[str, Any]


@config
class PageConfig:
    results: str = "docs/results/refinement"
    """Folder with the rows; pictures are written into it, the tables beside it."""


def main(settings: PageConfig) -> None:
    folder = Path(settings.results)
    rows = [Row(from_dict(RunConfig, found["config"], origin=str(path)), found["measured"]) for path in sorted(folder.glob("*.json")) for found in [read_json(path)]]
    require_rows(rows, folder, script="refinement.py")
    parts = []
    for codec in dict.fromkeys(row.measured["codec"] for row in rows):
        own = sorted((row for row in rows if row.measured["codec"] == codec), key=lambda row: METHODS.index(row.settings.method))
        parts += [untuned_table(codec, own), curves_table(codec, own), elsewhere_table(codec, own)]
        if any(row.settings.pictures == TUNE for row in own):
            draw_untuned(own, folder / f"untuned-{codec}.svg")
    write_page(parts, folder, num_rows=len(rows))


def table(title: str, said: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown under its title; nothing without lines."""
    if not lines:
        return ""
    return "\n".join([f"## {title}", "", said, "", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(line)} |" for line in lines)])


def untuned_table(codec: str, rows: Sequence[Row]) -> str:
    """What the grid of settings says: the best one, and how a method does without tuning."""
    lines = []
    for row in rows:
        if row.settings.pictures == TUNE:
            changes = cell_changes(row)
            best = row.settings.cells[int(changes.argmin())]
            quarters = np.quantile(changes, [0.25, 0.75])
            lines.append([
                row.settings.method, f"{best.learning_rate:g}, {best.max_temperature:g}, {best.decay:g}", *(f"{value:+.1f}" for value in (changes.min(), np.median(changes), np.quantile(changes, 0.9))),
                f"{quarters[1] - quarters[0]:.1f}", f"{(changes > 0).sum()} of {len(changes)}",
            ])  # fmt: skip
    said = "Change of the true loss in percent at the end (not at the best look), over the settings of the grid, on the tune pictures."
    return table(f"{codec}: tuned and untuned", said, ["method", "best learning rate, T_max, decay", "best", "median", "worst decile", "quartile range", "worse than the start"], lines)


def cell_changes(row: Row) -> Float[np.ndarray, " cells"]:
    """In percent."""
    return np.array([100 * (change_of(cell) - 1) for cell in row.measured["cells"]])


def curves_table(codec: str, rows: Sequence[Row]) -> str:
    """True loss and BD-rate against the same codec unrefined, by method and iterations."""
    curves = [row for row in rows if row.settings.pictures != TUNE]
    levels = {pictures: levels_of_curves([row for row in curves if row.settings.pictures == pictures]) for pictures in {row.settings.pictures for row in curves}}
    lines = []
    for iterations, method in product(sorted({row.settings.iterations for row in curves}), METHODS):
        own = sorted((row for row in curves if (row.settings.iterations, row.settings.method) == (iterations, method)), key=lambda row: row.settings.level)
        for pictures in dict.fromkeys(row.settings.pictures for row in own):
            of_set = [row for row in own if row.settings.pictures == pictures and row.settings.level in levels[pictures]]
            if len(of_set) >= LEAST_LEVELS:
                lines.append([pictures, str(iterations), method, loss_change(of_set), difference_of_rates(of_set)])
    return table(f"{codec}: over rates", "Against the codec unrefined, in percent, with 95 % intervals (bootstrap over pictures).", ["pictures", "iterations", "method", "true loss", "BD-rate"], lines)


def levels_of_curves(rows: Sequence[Row]) -> set[float]:
    """Those that every number of iterations has that makes a curve: the middle one stands at one number alone, for the table of other pictures."""
    levels = [{row.settings.level for row in rows if row.settings.iterations == iterations} for iterations in {row.settings.iterations for row in rows}]
    return set.intersection(*([some for some in levels if len(some) >= LEAST_LEVELS] or [set()]))


def loss_change(rows: Sequence[Row]) -> str:
    """Of the kept latents, over all crops of all rows; crops of one picture are drawn together."""
    changes = np.concatenate([100 * (np.array(cell["best"]) / np.array(cell["first"]) - 1) for row in rows for cell in row.measured["cells"]])
    found = clustered_bootstrap(changes, [str(number) for row in rows for number in range(row.settings.crops)], of="pictures")
    return f"{found.value:+.1f} ({found.low:+.1f} to {found.high:+.1f})"


def difference_of_rates(rows: Sequence[Row]) -> str:
    """BD-rate of the curve of means over pictures, with the interval of pictures drawn again."""
    plain, refined = (np.array([[part["bpp"], part["squared_error"]] for part in parts]) for parts in ([row.measured["plain"] for row in rows], [row.measured["cells"][0] for row in rows]))
    num = plain.shape[-1]
    try:
        value = bd_rate(curve_of(plain), curve_of(refined))
        rng = np.random.default_rng(0)
        drawn = [bd_rate(curve_of(plain[..., chosen]), curve_of(refined[..., chosen])) for chosen in rng.integers(num, size=(RESAMPLES // 10, num))]
    except ValueError as error:
        return str(error)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def curve_of(points: Float[np.ndarray, "levels 2 pictures"]) -> list[tuple[float, float]]:
    """(bits per pixel, dB), means over pictures of rates and of decibels."""
    rates, errors = points[:, 0].mean(axis=-1), points[:, 1]
    return list(zip(rates.tolist(), (10 * np.log10(255**2 / errors)).mean(axis=-1).tolist(), strict=True))


def elsewhere_table(codec: str, rows: Sequence[Row]) -> str:
    sets = list(dict.fromkeys(row.settings.pictures for row in rows if row.settings.pictures != TUNE))
    at = {(row.settings.iterations, row.settings.level) for row in rows if row.settings.pictures == TUNE} or {(row.settings.iterations, row.settings.level) for row in rows}
    lines = []
    for method in METHODS:
        found = {row.settings.pictures: row for row in rows if row.settings.method == method and (row.settings.iterations, row.settings.level) in at}
        if found.keys() - {TUNE}:
            lines.append([method, *(loss_change([found[name]]) if name in found else "" for name in sets)])
    return table(f"{codec}: the tuned settings on other pictures", "Change of the true loss in percent after as many iterations as in the grid, with 95 % intervals (bootstrap over pictures).", ["method", *sets], lines)


def draw_untuned(rows: Sequence[Row], path: Path) -> None:
    """Every setting of the grid as a dot, by method."""
    grid = [row for row in rows if row.settings.pictures == TUNE]
    figure, axes = pyplot.subplots(figsize=(7, 3.4), layout="constrained")
    for place, row in enumerate(grid):
        changes = cell_changes(row)
        axes.plot(np.full(len(changes), place) + np.linspace(-0.25, 0.25, len(changes)), np.sort(changes), ".", markersize=4)
        axes.hlines(np.median(changes), place - 0.3, place + 0.3, color="black", linewidth=1)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xticks(range(len(grid)), [row.settings.method for row in grid])
    axes.set(ylabel="change of the true loss, %", title="Without tuning: every setting of the grid; line: median")
    axes.set_ylim(top=min(axes.get_ylim()[1], 60))
    axes.grid(alpha=0.3, axis="y")
    save_svg(figure, path)


if __name__ == "__main__":
    run_command(PageConfig, main, description=__doc__.splitlines()[0])
