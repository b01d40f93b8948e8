"""Bar charts as SVG, whose text stays text, and as PNG. The same numbers give the same bytes in one version of matplotlib."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

BLUE = "#2f6fb5"
MAX_LABEL = 40


@dataclass(frozen=True)
class Chart:
    """Bars by label; `sideways` for names, which are longer than numbers."""

    title: str
    labels: Sequence[str]
    counts: Sequence[int]
    sideways: bool = False


def draw_chart(chart: Chart) -> tuple[str, bytes]:
    """The chart as an <svg> element and as a PNG file."""
    labels = [clean_label(label) for label in chart.labels]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lcl", "text.parse_math": False, "font.family": "sans-serif", "font.size": 9}):
        height = max(1.6, 0.24 * len(labels) + 0.7) if chart.sideways else 2.8
        figure = Figure(figsize=(4.8, height), layout="constrained")
        axes = figure.subplots()
        places = range(len(labels))
        if chart.sideways:
            axes.barh(places, chart.counts, color=BLUE, height=0.75)
            axes.set_yticks(places, labels)
            axes.invert_yaxis()
        else:
            axes.bar(places, chart.counts, color=BLUE, width=0.85)
            step = max(1, -(-len(labels) // 16))
            axes.set_xticks(places[::step], labels[::step], rotation=45, ha="right", rotation_mode="anchor")
        axes.set_title(chart.title, fontsize=10)
        axes.grid(alpha=0.3, axis="x" if chart.sideways else "y")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        (axes.xaxis if chart.sideways else axes.yaxis).set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    return svg.getvalue()[svg.getvalue().index("<svg") :], png.getvalue()


def clean_label(label: str) -> str:
    """The label, cut to a length, with what XML cannot hold or nobody can see replaced."""
    visible = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in label)
    return visible if len(visible) <= MAX_LABEL else visible[: MAX_LABEL - 1] + "…"
