"""Entry point: the rows of studies/context_adjustment.py as tables and pictures.

    python studies/context_adjustment_page.py --results docs/results/context_adjustment

    RESULTS/HASH.json --> RESULTS/../context_adjustment.md, rates.svg (R_F and R_G over training) and curves.svg beside the rows
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from context_adjustment import ALPHA, BETAS, CODEC, SEEDS, TABLES, VARIANTS, row_of
from scipy.stats import t as student
from svg import pyplot, save_svg
from table import name_of
from tables_page import done_rows, write_page

from downstream.codec.bd_rate import bd_rate
from downstream.codec.gaussian import LEAST_LIKELIHOOD
from downstream.codec.image_codec import LATENT_PX
from lcl.core.config import config, run_command

Measured = Mapping[str, Any]

FLOOR_BPP = -math.log2(LEAST_LIKELIHOOD) * CODEC.latent_width / LATENT_PX**2


@config
class PageConfig:
    results: str = "docs/results/context_adjustment"
    """Folder with the rows; pictures are written into it, the tables beside it."""


def main(settings: PageConfig) -> None:
    folder = Path(settings.results)
    rows = done_rows(TABLES, folder, script="context_adjustment.py")
    draw_rates(rows, folder / "rates.svg")
    draw_curves(rows, folder / "curves.svg")
    write_page([points_table(rows), differences_table(rows), groups_table(rows)], folder, num_rows=len(rows))


def of_seeds(variant: str, beta: float, rows: Mapping[str, Measured]) -> dict[int, Measured]:
    return {seed: rows[name] for seed in range(SEEDS) if (name := name_of(row_of(variant, beta, seed))) in rows}


def spread(values: Sequence[float], digits: int) -> str:
    return f"{fmean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def points_table(rows: Mapping[str, Measured]) -> str:
    lines = ["## Rate and quality", "", "On crops of unseen photographs; mean ± standard deviation over seeds.", "", "| variant | weight of the rate | seeds | bits per pixel | PSNR, dB | R_G at the end |", "|---" * 6 + "|"]
    for name in VARIANTS:
        for beta in BETAS:
            found = list(of_seeds(name, beta, rows).values())
            if found:
                auxiliary = [one["curves"]["auxiliary_bpp"][-1] for one in found if "auxiliary_bpp" in one["curves"]]
                lines.append(
                    f"| {name} | {beta + ALPHA:g} | {len(found)} | {spread([one['bpp'] for one in found], 4)} | {spread([one['psnr_db'] for one in found], 3)} | {spread(auxiliary, 2) if auxiliary else ''} |"
                )
    lines += ["", f"Where every likelihood is at its floor R_G is {FLOOR_BPP:.2f} bits per pixel."]
    return "\n".join(lines)


def differences(variant: str, rows: Mapping[str, Measured]) -> dict[int, float | str]:
    """BD-rate against `off` with the same seed, of each seed that has all rates, or why there is none."""
    found: dict[int, float | str] = {}
    for seed in range(SEEDS):
        curves = [[(one[seed]["bpp"], one[seed]["psnr_db"]) for beta in BETAS if seed in (one := of_seeds(which, beta, rows))] for which in ("off", variant)]
        if all(len(curve) == len(BETAS) for curve in curves):
            try:
                found[seed] = bd_rate(*curves)
            except ValueError as error:
                found[seed] = str(error)
    return found


def differences_table(rows: Mapping[str, Measured]) -> str:
    lines = [
        "## Against the mode off", "", "BD-rate (PSNR) in percent, paired by seed, with a 95 % interval of t over seeds; negative needs fewer bits.", "",
        "| variant | BD-rate | interval | of each seed |", "|---" * 4 + "|",
    ]  # fmt: skip
    for name in list(VARIANTS)[1:]:
        found = differences(name, rows)
        if found:
            values = [value for value in found.values() if isinstance(value, float)]
            each = "; ".join(dict.fromkeys(f"{value:+.2f}" if isinstance(value, float) else f"none ({value})" for value in found.values()))
            lines.append(f"| {name} | {f'{fmean(values):+.2f}' if values else ''} | {interval(values)} | {each} |")
    return "\n".join(lines)


def interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return f"{fmean(values) - half:+.2f} to {fmean(values) + half:+.2f}"


def groups_table(rows: Mapping[str, Measured]) -> str:
    lines = ["## Groups", "", "Bits per pixel of each group of channels, means over seeds, at equal parameters.", "", "| groups | channels | parameters | weight of the rate | of each group | PSNR, dB |", "|---" * 6 + "|"]
    for name, variant in (("growing", "off"), ("even", "even groups")):
        for beta in BETAS:
            found = list(of_seeds(variant, beta, rows).values())
            if found:
                parts = [fmean(values) for values in zip(*(one["y_bpp"] for one in found), strict=True)]
                sizes = ", ".join(map(str, found[0]["group_sizes"]))
                lines.append(f"| {name} | {sizes} | {found[0]['parameters']:,} | {beta + ALPHA:g} | {', '.join(f'{one:.3f}' for one in parts)} | {spread([one['psnr_db'] for one in found], 3)} |")
    return "\n".join(lines)


def draw_rates(rows: Mapping[str, Measured], path: Path) -> None:
    """R_F and R_G over training, of the variants that have an auxiliary model, at the middle rate."""
    variants = [name for name in VARIANTS if any("auxiliary_bpp" in one["curves"] for one in of_seeds(name, BETAS[1], rows).values())]
    figure, places = pyplot.subplots(1, max(1, len(variants)), figsize=(4.2 * max(1, len(variants)), 3.2), layout="constrained", sharey=True, squeeze=False)
    for place, name in zip(places[0], variants, strict=False):
        for measured in of_seeds(name, BETAS[1], rows).values():
            curves = measured["curves"]
            place.plot(curves["step"], curves["y_bpp"], color="tab:blue", linewidth=1)
            place.plot(curves["step"], curves["auxiliary_bpp"], color="tab:orange", linewidth=1)
        place.axhline(FLOOR_BPP, color="grey", linestyle=":", linewidth=1)
        place.set(title=f"{name}: R_F (blue), R_G (orange), floor (dotted)", xlabel="step", yscale="log")
        place.title.set_fontsize(9)
        place.grid(alpha=0.3)
    places[0][0].set_ylabel("bits per pixel")
    save_svg(figure, path)


def draw_curves(rows: Mapping[str, Measured], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(5.6, 3.6), layout="constrained")
    for name in VARIANTS:
        points = [[fmean(one[what] for one in found.values()) for what in ("bpp", "psnr_db")] for beta in BETAS if (found := of_seeds(name, beta, rows))]
        if points:
            axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3, linewidth=1.2, label=name)
    axes.set(xlabel="bits per pixel", ylabel="PSNR, dB", title="Means over seeds")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    save_svg(figure, path)


if __name__ == "__main__":
    run_command(PageConfig, main, description=__doc__.splitlines()[0])
