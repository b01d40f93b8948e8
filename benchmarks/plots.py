"""Entry point: draws the JSON files of packing.py and growth.py as SVG pictures, one message in each.

    python benchmarks/plots.py --results docs/benchmarks
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

from lcl.core.config import config, run_command
from lcl.core.files import open_aside, read_json

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "lcl", "svg.fonttype": "none"}  # the same numbers give the same bytes; text stays text
from matplotlib import pyplot  # noqa: E402  (the backend is chosen first)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator  # noqa: E402

OURS, OTHER = "tab:blue", "tab:gray"


@config
class PlotsConfig:
    results: str
    """Folder with the JSON files; the pictures are written beside them."""


def main(settings: PlotsConfig) -> None:
    folder = Path(settings.results)
    records = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    packing = {name: record for name, record in records.items() if record.get("benchmark") == "packing" and "throughput" in record["measured"]}
    if packing:
        draw_packing(packing, folder / "packing.svg")
    for name, record in records.items():
        measured = record["measured"] if record.get("benchmark") in ("packing", "growth") else {}
        if "fill" in measured and len({one["window"] for one in measured["fill"]["packed"]}) > 1:
            draw_fill(measured["fill"], folder / f"{name}_fill.svg")
        if "row_length" in measured:
            draw_row_length(measured, folder / f"{name}_row_length.svg")
        if "documents" in measured:
            draw_documents(measured, folder / f"{name}_documents.svg")
        if "contrastive" in measured:
            draw_contrastive(measured, folder, name)


def draw_packing(records: dict[str, dict[str, Any]], path: Path) -> None:
    """Documents per second of packed and padded rows, a pair of bars for each result."""
    found = [record["measured"]["throughput"] for record in records.values()]
    ratios = sorted(one["ratio"] for one in found)
    span = f"{ratios[0]:.1f}" if len(ratios) == 1 else f"{ratios[0]:.1f} to {ratios[-1]:.1f}"
    labels = [_images(record["config"]["documents"]["images"]) for record in records.values()]
    with picture(path, f"Packed rows take {span} times as many documents a second as padded rows", height=0.9 + 0.8 * len(found)) as axes:
        for at, one in enumerate(found):
            for offset, name, colour in ((0.2, "packed", OURS), (-0.2, "padded", OTHER)):
                value = one[f"{name}_documents_per_second"]
                axes.barh(at + offset, value, height=0.36, color=colour)
                label(axes, value, at + offset, f"{name} {value:.3g}, {100 * one[f'{name}_fill']:.0f} % full", "black")
        axes.set_yticks(range(len(found)), labels)
        axes.set_xlim(0, 1.45 * max(one["packed_documents_per_second"] for one in found))
        axes.set_xlabel(f"documents per second ({_where(found[0])})")


def _images(bounds: Sequence[int]) -> str:
    return f"{bounds[0]} images\na document" if bounds[0] == bounds[-1] else f"{bounds[0]} to {bounds[-1]} images\na document"


def _where(measured: dict[str, Any]) -> str:
    return f"one CPU core, {measured['precision']}" if measured["device"] == "cpu" else f"one GPU, {measured['precision']}"


def draw_fill(fill: dict[str, Any], path: Path) -> None:
    """Fill against the window, a line for each number of lanes."""
    windows = sorted({one["window"] for one in fill["packed"]})
    worst = {window: min(one["fill"] for one in fill["packed"] if one["window"] == window) for window in windows}
    enough = next((window for window in windows if worst[window] >= fill["target"]), None)
    message = f"No window fills rows to {100 * fill['target']:.0f} %"
    if enough is not None:
        message = f"A window of {enough} pieces fills rows to {100 * worst[enough]:.1f} %"
    with picture(path, f"{message}; one document a row, to {100 * fill['padded']:.0f} %") as axes:
        for at, lanes in enumerate(sorted({one["lanes"] for one in fill["packed"]})):
            some = [one for one in fill["packed"] if one["lanes"] == lanes]
            axes.plot([one["window"] for one in some], [100 * one["fill"] for one in some], marker="o", color=f"C{at}")
            label(axes, some[-1]["window"], 100 * some[-1]["fill"], f"{lanes} lanes" if lanes > 1 else "1 lane", f"C{at}")
        axes.plot([windows[0], windows[-1]], [100 * fill["target"]] * 2, color="black", linewidth=0.8, linestyle="--")
        label(axes, windows[-1], 100 * fill["target"], "target", "black")
        axes.set_ylim(top=100)
        logarithmic(axes, windows, None)
        axes.set_xlim(right=1.4 * windows[-1])
        axes.set_xlabel("pieces that wait in a lane (data.pack_window)")
        axes.set_ylabel("places that hold a token, %")


def draw_row_length(measured: dict[str, Any], path: Path) -> None:
    """Seconds of a step against the length of a row, with short documents and with one."""
    short = min(one["document_tokens"] for one in measured["row_length"])
    usual = max((one["document_tokens"] for one in measured["row_length"] if one["row_length"] > one["document_tokens"]), default=short)
    lines = {
        f"documents of {usual} tokens": [one for one in measured["row_length"] if one["document_tokens"] == min(usual, one["row_length"])],
        "one document": [one for one in measured["row_length"] if one["document_tokens"] == one["row_length"]],
    }
    first, last = (list(lines.values())[0][at] for at in (0, -1))
    growth = last["seconds"] / first["seconds"]
    longer = last["row_length"] / first["row_length"]
    with picture(path, f"A row {longer:.0f} times as long takes {growth:.1f} times as long, if documents stay as long") as axes:
        for (name, some), colour in zip(lines.items(), (OURS, OTHER), strict=True):
            axes.plot([one["row_length"] for one in some], [one["seconds"] for one in some], marker="o", color=colour)
            label(axes, some[-1]["row_length"], some[-1]["seconds"], name, colour)
        logarithmic(axes, [one["row_length"] for one in lines["one document"]], "log")
        axes.set_xlim(right=2.6 * last["row_length"])
        axes.set_xlabel("tokens in a row")
        axes.set_ylabel(f"seconds a step ({_where(measured)})")


def draw_documents(measured: dict[str, Any], path: Path) -> None:
    """Seconds of a step on one row against how many documents share it."""
    some = sorted(measured["documents"], key=lambda one: one["documents"])
    first, last = some[0], some[-1]
    saved = 100 * (1 - last["seconds"] / first["seconds"])
    with picture(path, f"{last['documents']} documents in a row of {last['row_length']} tokens cost {saved:.0f} % less than one") as axes:
        axes.plot([one["documents"] for one in some], [one["seconds"] for one in some], marker="o", color=OURS)
        for one in some:
            axes.annotate(f"{one['seconds']:.2g}", (one["documents"], one["seconds"]), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=9)
        logarithmic(axes, [one["documents"] for one in some], None)
        axes.set_ylim(0, 1.15 * max(one["seconds"] for one in some))
        axes.set_xlabel("documents that share the row")
        axes.set_ylabel(f"seconds a step ({_where(measured)})")


def draw_contrastive(measured: dict[str, Any], folder: Path, name: str) -> None:
    """Seconds and memory of the contrastive loss with its gradients against the number of images."""
    lines = {kind: [one for one in measured["contrastive"] if one["plain"] == plain] for kind, plain in (("in chunks", False), ("all at once", True))}
    largest = lines["in chunks"][-1]
    work = f"{largest['images']:,} negatives"
    memory = f"{work} take {largest['extra_bytes'] / 1e9:.1f} GB, not the {largest['similarities_bytes'] / 1e9:.0f} GB of their similarities"
    drawn = (
        ("extra_bytes", 1e6, memory, "further memory at its peak, MB"),
        ("seconds", 1.0, f"{work} take {largest['seconds']:.3g} s: time grows with their square", f"seconds ({_where(measured)})"),
    )
    for quantity, scale, message, unit in drawn:
        with picture(folder / f"{name}_contrastive_{quantity.removeprefix('extra_')}.svg", message) as axes:
            for (kind, some), colour in zip(lines.items(), (OURS, OTHER), strict=True):
                shown = [one for one in some if one[quantity] > 0]
                if shown:
                    axes.plot([one["images"] for one in shown], [one[quantity] / scale for one in shown], marker="o", color=colour)
                    label(axes, shown[-1]["images"], shown[-1][quantity] / scale, kind, colour)
            if quantity == "extra_bytes":
                numbers = [one["images"] for one in lines["in chunks"]]
                axes.plot(numbers, [one["similarities_bytes"] / 1e6 for one in lines["in chunks"]], color="black", linewidth=0.8, linestyle="--")
                label(axes, numbers[-1], largest["similarities_bytes"] / 1e6, "similarities alone", "black")
            logarithmic(axes, [one["images"] for one in lines["in chunks"]], "log")
            axes.set_xlim(right=5 * largest["images"])
            axes.set_xlabel(f"images, of width {largest['width']}, each against all")
            axes.set_ylabel(unit)


def label(axes: Axes, across: float, up: float, text: str, colour: str) -> None:
    """Writes `text` to the right of a point."""
    axes.annotate(text, (across, up), textcoords="offset points", xytext=(7, 0), va="center", color=colour, fontsize=9)


def logarithmic(axes: Axes, ticks: Sequence[int], vertical: str | None) -> None:
    """A logarithmic horizontal axis with these ticks alone; a vertical one, too, with `vertical` log."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    if vertical is not None:
        axes.set_yscale(vertical)
        low, high = axes.get_ylim()
        steps = (1.0,) if high > 100 * low else (1.0, 2.0, 5.0)
        axes.yaxis.set_major_locator(LogLocator(subs=steps))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.minorticks_off()


@contextmanager
def picture(path: Path, title: str, *, height: float = 3.4) -> Iterator[Axes]:
    """Axes with a title that states what they show; the file is written when the block ends."""
    figure, axes = pyplot.subplots(figsize=(6.8, height), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    axes.spines[["top", "right"]].set_visible(False)
    yield axes
    with open_aside(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    run_command(PlotsConfig, main, description=__doc__.splitlines()[0])
