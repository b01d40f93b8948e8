"""Statistics as files for people: a picture of each histogram and one HTML page of all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcl.core.files import open_aside, write_json
from lcl.core.html_page import page_template
from pipeline.tools.charts import Chart, draw_chart

NAMES = {"domains": "most frequent domains, documents", "languages": "languages, documents", "licenses": "licences that pages name, documents"}


def write_stats(stats: Mapping[str, Any], output: Path) -> None:
    """Writes stats.json, NAME.svg and NAME.png for each chart, and index.html, which needs none of the others."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "stats.json", stats)
    pictures = []
    for name, chart in charts_of(stats).items():
        svg, png = draw_chart(chart)
        for suffix, data in ((".svg", svg.encode()), (".png", png)):
            with open_aside(output / f"{name}{suffix}") as file:
                file.write(data)
        pictures.append({"name": name, "title": chart.title, "svg": svg})
    with open_aside(output / "index.html") as file:
        file.write(page_template(Path(__file__).with_name("stats.html")).render(stats=stats, pictures=pictures).encode())


def charts_of(stats: Mapping[str, Any]) -> dict[str, Chart]:
    """The charts by file name. Names of scores, which anybody chooses, become numbers there."""
    charts = {}
    for number, (name, histogram) in enumerate(stats["histograms"].items()):
        labels = [_bin_label(low, high) for low, high, _ in histogram["bins"]]
        file_name = f"score-{number:02d}" if name.startswith("score.") else name
        if labels:
            charts[file_name] = Chart(histogram["title"], labels, [count for _, _, count in histogram["bins"]])
    for name, title in NAMES.items():
        if top := stats["tallies"][name]["top"]:
            charts[name] = Chart(title, [label for label, _ in top], [count for _, count in top], sideways=True)
    for kind, funnel in stats["funnel"].items():
        if dropped := sorted(funnel["dropped"].items(), key=lambda item: -item[1]):
            charts[f"dropped_{kind}"] = Chart(f"{kind} left out, by reason", [reason.replace("_", " ") for reason, _ in dropped], [count for _, count in dropped], sideways=True)
    return charts


def _bin_label(low: float, high: float | None) -> str:
    """5 for a bin of one whole number, 5-9 for several, 0.1-0.2 for a range, 1000+ for the last."""
    if high is None:
        return f"{low:g}+"
    if low == int(low) and high == int(high):
        return f"{low:.0f}" if high == low + 1 else f"{low:.0f}–{high - 1:.0f}"
    return f"{low:g}–{high:g}"
