"""Entry point: the rows of studies/density.py as tables and pictures.

    python studies/density_page.py --results docs/results/density

    RESULTS/HASH.json --> RESULTS/../density.md, RESULTS/curve_DATA.svg (bits per dimension over the training)

Differences are to the linear schedule with the same seed: the same crops and noise, and a network that begins alike but for the weights that take the context.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from density import FEW_STEPS, KINDS, SEEDS, SHOTS, SIZES, STEPS, TABLES, Data, RunConfig
from seeds import interval, over_seeds
from svg import pyplot, save_svg
from table import name_of
from tables_page import done_rows, write_page

from lcl.core.config import config, run_command

Measured = Mapping[str, Any]
Rows = Mapping[str, Measured]

BASE, PRIMARY = "linear", "MuLAN, convolutional context"
TARGET_SHARE = 0.6  # at the end, where the learning rate falls, all schedules arrive within a few steps
TITLES: dict[Data, str] = {"digits": "Digits, 8 x 8", "photographs": "Squares of photographs, 32 x 32"}

GRID_PX = 142  # on the page
CODED: dict[Data, str] = {
    "digits": f"the first {SIZES['digits'].coded_images} digits, {SIZES['digits'].at_once} to a call of the network, which is faster and makes the initial bits as many times as large; plain coders take all as one picture",
    "photographs": f"middles of {SIZES['photographs'].coded_px} px of the first photographs, which plain coders take one by one",
}


@config
class PageConfig:
    results: str = "docs/results/density"
    """Folder with the rows; pictures are written into it, the tables beside it."""


def main(settings: PageConfig) -> None:
    folder = Path(settings.results)
    rows = done_rows(TABLES, folder, script="density.py")
    parts = [
        f"One comparison was named before any row was computed: the bound with *{PRIMARY}* against that of the linear schedule, on each kind of data. The others are for orientation: of so many intervals some miss zero by chance. "
        "The T steps stand at evenly spread times in all rows, for to choose them, as the codec does, is to choose a schedule."
    ]
    for data, title in TITLES.items():
        found = seeds_of(rows, data)
        if found:
            parts += [f"## {title}", likelihood_table(found), coding_table(found, CODED[data]), speed_table(found), sample_table(found), sample_grids(folder, data), label_table(found)]
            draw_curves(found, folder / f"curve_{data}.svg")
    few = seeds_of(rows, "digits", loss_steps=FEW_STEPS)
    if few:
        parts += [f"## Digits, trained on the bound of {FEW_STEPS} steps", likelihood_table(few), coding_table(few, CODED["digits"])]
    write_page(parts, folder, num_rows=len(rows))


Found = Mapping[str, Mapping[int, Measured]]
"""Of each kind what was measured, by seed."""


def seeds_of(rows: Rows, data: Data, *, loss_steps: int = 0) -> Found:
    """The kinds of which a row is done."""

    def name(kind: RunConfig, seed: int) -> str:
        return name_of(replace(kind, data=data, loss_steps=loss_steps, steps=STEPS[data], seed=seed))

    by_kind = {title: {seed: rows[name(kind, seed)] for seed in range(SEEDS) if name(kind, seed) in rows} for title, kind in KINDS.items()}
    return {title: found for title, found in by_kind.items() if found}


def values(found: Mapping[int, Measured], value: Callable[[Measured], float]) -> str:
    """The mean over seeds, and their deviation."""
    numbers = [value(one) for one in found.values()]
    return f"{np.mean(numbers):.3f}" + (f" ({np.std(numbers, ddof=1):.3f})" if len(numbers) > 1 else "")


def percent(found: Mapping[int, Measured], value: Callable[[Measured], float]) -> str:
    return " ".join(f"{100 * value(one):+.2f}" for one in found.values()) + " %"


def gain(found: Found, kind: str, value: Callable[[Measured], float]) -> str:
    """How much less than with the linear schedule, of the seeds that both have; what is not apart from zero is said not to be shown."""
    base = found.get(BASE, {})
    differences = [value(base[seed]) - value(one) for seed, one in found[kind].items() if seed in base]
    if kind == BASE or not differences:
        return ""
    shown = len(differences) < 2 or interval(differences).low > 0 or interval(differences).high < 0
    return over_seeds(differences, digits=3) + ("" if shown else ": not shown")


def table_of(caption: str, headings: list[str], lines: list[list[str]]) -> str:
    return "\n".join([caption, "", f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}", *(f"| {' | '.join(line)} |" for line in lines)])


def likelihood_table(found: Found) -> str:
    first = next(iter(next(iter(found.values())).values()))
    error = np.mean([one["vlb"]["standard_error"] for by_seed in found.values() for one in by_seed.values()])
    caption = (
        f"Bits per dimension of {first['images']} unseen images, mean over seeds (deviation); standard errors over images are about {error:.3f}, and the same images are in all rows. Less by: than linear with the same "
        f"seed, 95 % interval of Student's t over seeds. ODE: one truncated-normal dequantisation of the first {first['ode']['images']} images."
    )
    lines = [
        [kind, str(len(by_seed)), f"{next(iter(by_seed.values()))['parameters']:,}", values(by_seed, vlb), gain(found, kind, vlb), values(by_seed, lambda one: one["vlb"]["context"]),
         values(by_seed, flow), gain(found, kind, flow)]
        for kind, by_seed in found.items()
    ]  # fmt: skip
    return table_of(caption, ["schedule", "seeds", "parameters", "bound", "less by", "of it context", "ODE", "less by"], lines)


def vlb(one: Measured) -> float:
    return one["vlb"]["bits_per_dim"]


def flow(one: Measured) -> float:
    return one["ode"]["bits_per_dim"]


def coding_table(found: Found, what: str) -> str:
    first = next(iter(next(iter(found.values())).values()))
    lines = []
    for number, row in enumerate(first["coded"]):
        for kind, by_seed in found.items():
            cells = [values(by_seed, lambda one, number=number, name=name: one["coded"][number][name]["bits_per_dim"]) for name in ("elbo_uncalibrated", "elbo")]
            less = gain(found, kind, lambda one, number=number: one["coded"][number]["elbo"]["bits_per_dim"])
            coded = [values(by_seed, lambda one, number=number, name=name: one["coded"][number][name]) for name in ("elbo_of_these", "payload_bits_per_dim", "bits_per_dim")]
            coded.insert(2, percent(by_seed, lambda one, number=number: one["coded"][number]["payload_over_elbo"]))
            seconds = values(by_seed, lambda one, number=number: one["coded"][number]["encode_seconds"] / one["coded"][number]["images"])
            lines.append([str(row["steps"]), kind, *cells, less, *coded, seconds])
    lines += [["", name, "", "", "", "", "", "", f"{one['bits_per_dim']:.3f}" if one else "not installed", f"{one['encode_seconds'] / first['coded'][0]['images']:.5f}" if one else ""] for name, one in first["plain"].items()]
    caption = (
        f"Few steps: ELBO_T of all images, with variances as in VDM and calibrated; and {first['coded'][0]['images']} pictures coded in one stream and decoded again, beside ELBO_T of the same: {what}. "
        "The payload is without initial bits and header, which the whole file has."
    )
    headings = ["T", "schedule", "ELBO, variances of q", "ELBO, calibrated", "less by", "ELBO of the coded", "payload", "above it", "whole file", "seconds to encode a picture"]
    return table_of(caption, headings, lines)


def speed_table(found: Found) -> str:
    """Steps and seconds until the training loss is what that of the linear schedule is after TARGET_SHARE of its steps, the mean over its seeds."""
    if BASE not in found:
        return ""
    target = float(np.mean([one["curve"]["bits_per_dim"][int(TARGET_SHARE * len(one["curve"]["bits_per_dim"]))] for one in found[BASE].values()]))
    lines = []
    for kind, by_seed in found.items():
        reached = [steps_to(one["curve"], target) for one in by_seed.values()]
        rates = [one["train_seconds"] / one["curve"]["steps"][-1] for one in by_seed.values()]
        done = [(steps, steps * rate) for steps, rate in zip(reached, rates, strict=True) if steps is not None]
        cells = [f"{np.mean([steps for steps, _ in done]):,.0f}", f"{np.mean([seconds for _, seconds in done]):,.0f}"] if done else ["", ""]
        lines.append([kind, f"{np.mean(rates):.4f}", f"{len(done)} of {len(reached)}", *cells])
    caption = f"Until the training loss (means of windows of steps) is {target:.3f}, where the linear schedule is after {TARGET_SHARE:.0%} of its steps. Seconds are of the processor, start-up within."
    return table_of(caption, ["schedule", "seconds a step", "seeds that came there", "steps", "seconds"], lines)


def steps_to(curve: Mapping[str, list[float]], target: float) -> float | None:
    """The first step at which a curve is at the target, or None."""
    return next((step for step, value in zip(curve["steps"], curve["bits_per_dim"], strict=True) if value <= target), None)


def sample_table(found: Found) -> str:
    first = next(iter(next(iter(found.values())).values()))
    ways = [one["way"] for one in first["samples"]]
    lines = []
    for kind, by_seed in found.items():
        for number, way in enumerate(ways):
            calls = f"{np.mean([one['samples'][number]['evaluations'] for one in by_seed.values()]):.0f}"
            lines.append([kind, way.replace("_", " "), calls, values(by_seed, lambda one, number=number: one["samples"][number]["kernel_distance"])])
    halves = first["between_halves_of_the_images"]
    lines.append(["two halves of the images", "", "", f"{halves['kernel_distance']:.3f}, standard error {halves['standard_error']:.3f}"])
    caption = (
        f"Kernel distance (KID) of {first['samples'][0]['images']} samples to the {first['images']} images, mean over seeds (deviation), in mean tokens of the project's own encoder: not comparable with numbers of other "
        f"features. One distance has a standard error of about {np.mean([one['samples'][0]['standard_error'] for by_seed in found.values() for one in by_seed.values()]):.3f}."
    )
    return table_of(caption, ["schedule", "sampled by", "evaluations", "kernel distance"], lines)


def sample_grids(folder: Path, data: Data) -> str:
    """Pictures of the samples of the first seed, as the rows left them; they carry their marks of origin."""
    kinds = {title: folder / name_of(replace(kind, data=data, steps=STEPS[data])) for title, kind in KINDS.items()}
    there = {title: made for title, made in kinds.items() if made.is_dir()}
    if not there:
        return ""
    samples = SIZES[data].samples
    ways = [f"ancestral_{steps}" for steps in samples.steps] + [f"ode_{tolerance:g}" for tolerance in samples.tolerances]
    lines = [[title, *(f'<img src="{folder.name}/{made.name}/{way}.png" width="{GRID_PX}" alt="samples, {way}">' for way in ways)] for title, made in there.items()]
    return table_of("Samples, seed 0.", ["schedule", *(way.replace("_", " ") for way in ways)], lines)


def label_table(found: Found) -> str:
    lines = []
    for kind, by_seed in found.items():
        measured = list(by_seed.values())
        for name in measured[0]["labels"]:
            if name in ("pixels", "tokens") and kind != BASE:  # the same in all rows
                continue
            cells = [f"{100 * np.mean([one['labels'][name][str(shots)][0] for one in measured]):.1f}" if str(shots) in measured[0]["labels"][name] else "" for shots in SHOTS]
            lines.append(["" if name in ("pixels", "tokens") else kind, name, *cells])
    return table_of("Accuracy in percent of a ridge regression from few labels of each class, mean over seeds and three draws of the labels.", ["schedule", "features", *(f"{shots} a class" for shots in SHOTS)], lines)


def draw_curves(found: Found, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(6.5, 4), layout="constrained")
    for kind, by_seed in found.items():
        curves = [one["curve"] for one in by_seed.values()]
        axes.plot(curves[0]["steps"], np.mean([one["bits_per_dim"] for one in curves], axis=0), label=kind, linewidth=1.4)
    last = min(one["curve"]["bits_per_dim"][-1] for by_seed in found.values() for one in by_seed.values())
    axes.set(xlabel="steps of training", ylabel="bits per dimension, training loss", ylim=(0.97 * last, 1.5 * last))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_svg(figure, path)


if __name__ == "__main__":
    run_command(PageConfig, main, description=__doc__.splitlines()[0])
