"""Pictures of studies: the same numbers give the same bytes, and text stays text."""

from pathlib import Path
from typing import Any

import matplotlib

from lcl.core.files import open_aside

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "lcl", "svg.fonttype": "none"}
from matplotlib import pyplot  # noqa: E402  (the backend is chosen first)

__all__ = ["pyplot", "save_svg"]


def save_svg(figure: Any, path: Path) -> None:
    with open_aside(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
