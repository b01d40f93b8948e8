"""Entry point: one static HTML page of a shard build, a training run and its evaluations."""

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib
from pydantic import Field

from lcl.core.config import config, run_command
from lcl.core.document import PARAGRAPH_BREAK, Document
from lcl.core.files import open_aside, read_json
from lcl.core.html_page import data_url, page_at, page_template, thumbnail
from lcl.core.logs import read_metrics
from lcl.core.shards import ShardSet
from lcl.evals.compare import read_comparison
from lcl.evals.results import read_result

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402  (the backend is chosen first)

THUMBNAIL_PX = 200
MAX_TEXT_CHARACTERS = 700
CURVES = (
    ("train/text_nats", "text loss, nats per token"),
    ("train/contrastive_nats", "contrastive loss, nats"),
    ("train/image_to_context_accuracy", "images that find their context in the batch"),
)


@config
class ReportConfig:
    shards: str
    """Folder of a shard build."""
    run: str | None = None
    """Folder of a training run."""
    results: tuple[str, ...] = ()
    """JSON files of evaluations."""
    comparisons: tuple[str, ...] = ()
    """JSON files of `lcl eval compare`."""
    output: str
    """The HTML file to write."""
    title: str = "From web pages to an encoder"
    note: str = ""
    """A line under the title."""
    results_note: str = ""
    """A line above the results."""
    num_documents: Annotated[int, Field(ge=0)] = 12
    """Documents in the gallery, drawn at random with a fixed seed."""


def main(settings: ReportConfig) -> None:
    path = page_at(Path(settings.output))
    shards = ShardSet([Path(settings.shards)])
    chosen = sorted(random.Random(0).sample(range(len(shards)), min(settings.num_documents, len(shards))))
    run = Path(settings.run) if settings.run else None
    page = page_template(Path(__file__).with_name("report.html")).render(
        title=settings.title,
        note=settings.note,
        results_note=settings.results_note,
        build=read_json(Path(settings.shards) / "report.json"),
        num_documents=len(shards),
        documents=[_card(shards.read(index)) for index in chosen],
        curves=_curves(read_metrics(run / "metrics.jsonl")) if run else [],
        training=read_json(run / "run.json") if run else None,
        comparisons=[read_comparison(Path(path)) for path in settings.comparisons],
        results=[read_result(path) | {"picture": _picture_beside(path)} for path in map(Path, settings.results)],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_aside(path) as file:
        file.write(page.encode())
    print(f"report: {path.resolve()}")


def _picture_beside(result: Path) -> str:
    """The scenes that a dense probe drew beside its result, as an address; empty where there are none."""
    scenes = result.with_name(f"{result.stem}.scenes.png")
    return data_url("image/png", scenes.read_bytes()) if scenes.exists() else ""


def _card(document: Document) -> dict[str, Any]:
    parts = []
    for segment in document.segments:
        if segment.kind == "text":
            text = segment.text if len(segment.text) <= MAX_TEXT_CHARACTERS else segment.text[:MAX_TEXT_CHARACTERS] + " …"
            parts.append({"kind": "text", "paragraphs": text.split(PARAGRAPH_BREAK)})
        else:
            parts.append({"kind": "image", "data": thumbnail(segment.data, height_px=THUMBNAIL_PX), "metadata": segment.metadata})
    link = document.page_url if document.page_url.startswith(("http://", "https://")) else ""
    return {"document": document, "link": link, "parts": parts}


def _curves(metrics: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """One picture per curve: every step thin, and the running mean of a twentieth of the run."""
    pictures = []
    for name, title in CURVES:
        points = [(line["step"], line[name]) for line in metrics if name in line]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        window = max(1, len(values) // 20)
        means = [sum(values[max(0, end - window) : end]) / len(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
        figure, axes = pyplot.subplots(figsize=(4.6, 2.8), layout="constrained")
        axes.plot(steps, values, linewidth=0.5, alpha=0.4, color="tab:blue")
        axes.plot(steps, means, linewidth=1.6, color="tab:blue")
        axes.set_xlabel("step")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg")
        pyplot.close(figure)
        pictures.append({"title": title, "data": data_url("image/svg+xml", buffer.getvalue())})
    return pictures


if __name__ == "__main__":
    run_command(ReportConfig, main, description=__doc__.splitlines()[0])
