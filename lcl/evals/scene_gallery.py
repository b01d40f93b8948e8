"""A picture of test scenes: what is seen, the true classes, and those that each model names."""

import io

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lcl.evals.dense_probe import Segmented

TILE_INCHES = 1.2
LEGEND_INCHES = 0.9
DPI = 110


def scene_gallery(segmented: Segmented) -> bytes:
    """A PNG with a column for each scene and a row for the scenes, the truth and each model; the background is grey."""
    num_classes = len(segmented.classes) - 1
    colours = np.array([*colormaps["turbo"](np.linspace(0.05, 0.95, num_classes))[:, :3], (0.5, 0.5, 0.5)])
    rows = {"scene": segmented.pixels, "truth": colours[segmented.truth], **{name: colours[found] for name, found in segmented.predicted.items()}}
    num = len(segmented.pixels)
    figure = Figure(figsize=(TILE_INCHES * (num + 1.5), TILE_INCHES * len(rows) + LEGEND_INCHES), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(rows), num, squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for place, picture in zip(line, pictures, strict=True):
            place.imshow(picture, interpolation="nearest")
            place.set_xticks([])
            place.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    handles = [Patch(color=colour, label=name) for colour, name in zip(colours, segmented.classes, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
