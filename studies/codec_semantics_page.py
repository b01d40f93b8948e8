"""Entry point: the rows of studies/codec_semantics.py as a table and a picture.

    python studies/codec_semantics_page.py --results docs/results/codec_semantics

    RESULTS/HASH.json --> RESULTS/../codec_semantics.md, RESULTS/accuracy.svg (accuracy and PSNR against bits per pixel)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from codec_semantics import ALL_LEVELS, CODECS, REFINED, SEEDS, SIDE_PX, TABLES, CodecRow, RunConfig
from jaxtyping import Float
from seeds import over_seeds
from table import name_of
from tables_page import done_rows, write_page

from lcl.core.config import config, run_command
from lcl.core.files import open_aside
from lcl.evals.intervals import Estimate, clustered_bootstrap

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "lcl", "svg.fonttype": "none"}  # the same numbers give the same bytes; text stays text
from matplotlib import pyplot  # noqa: E402  (the backend is chosen first)

OUTSIDE = "outside of the curve"
JUDGES_TOLERANCE = 1e-3  # nats: what another batch size changes

Values = Float[np.ndarray, " images"]
Rows = Mapping[str, Mapping[str, Any]]


class Point(NamedTuple):
    """One level of one row: values of each picture, those of judges as their mean over judges."""

    ids: Sequence[str]
    bpp: Values
    psnr_db: Values
    accuracy: Values
    nats: Values


@config
class PageConfig:
    results: str = "docs/results/codec_semantics"
    """Folder with the rows; the picture is written into it, the table beside it."""


def main(settings: PageConfig) -> None:
    folder = Path(settings.results)
    rows = done_rows(TABLES, folder, script="codec_semantics.py")
    check_judges(rows)
    draw(rows, folder / "accuracy.svg")
    parts = [original_part(rows), refinement_part(rows), training_part(rows), pretraining_part(rows)]
    write_page(parts, folder, num_rows=len(rows))


def check_judges(rows: Rows) -> None:
    """Raises ValueError for rows of other judges, as another machine trains them: what they say of the same picture as it is differs."""
    said: dict[str, tuple[str, list[float]]] = {}
    for name, measured in rows.items():
        for picture, *nats in zip(measured["ids"], *measured["original"]["nats"], strict=True):
            first, before = said.setdefault(picture, (name, nats))
            if not np.allclose(before, nats, atol=JUDGES_TOLERANCE):
                raise ValueError(f"rows {first} and {name} have other judges (of {picture} they say {before} and {nats}): compute one of them again with the judges of the other")


# --- What a row says

def points_of(measured: Mapping[str, Any]) -> dict[int, Point]:
    return {one["level"]: _point(measured["ids"], one) for one in measured["levels"]}


def _point(ids: Sequence[str], level: Mapping[str, Any]) -> Point:
    bpp = 8 * np.array(level["bytes"], dtype=float) / SIDE_PX**2
    return Point(ids, bpp, np.array(level["psnr_db"], dtype=float), *(np.mean(level[name], axis=0) for name in ("right", "nats")))


def at_equal_rate(point: Point, curve: Sequence[Point], name: str) -> Values | None:
    """For each picture, values whose mean is the point's mean less the curve's at the point's mean rate, which is linear between the curve's means.

    With (1 - w) r_a + w r_b = r of the mean rates, and s the slope of the values between a and b:
    v_i - (1 - w) a_i - w b_i - s (r_i - (1 - w) r_ai - w r_bi), so that a bootstrap over pictures counts the spread of rates too (the delta method).
    None where the rate lies outside of the curve.
    """
    ordered = sorted(curve, key=lambda one: one.bpp.mean())
    rates = [one.bpp.mean() for one in ordered]
    rate = point.bpp.mean()
    if not rates[0] <= rate <= rates[-1] or len(rates) < 2:
        return None
    upper = min(max(1, int(np.searchsorted(rates, rate))), len(rates) - 1)
    a, b = ordered[upper - 1], ordered[upper]
    share = (rate - rates[upper - 1]) / (rates[upper] - rates[upper - 1])
    values, before, after = (getattr(one, name) for one in (point, a, b))
    slope = (after.mean() - before.mean()) / (rates[upper] - rates[upper - 1])
    return values - (1 - share) * before - share * after - slope * (point.bpp - (1 - share) * a.bpp - share * b.bpp)


def paired(values: Values, ids: Sequence[str]) -> Estimate:
    return clustered_bootstrap(values, ids, of="pictures")


# --- Parts of the page

def original_part(rows: Rows) -> str:
    """What the judges make of the pictures themselves, of the row with the most of them."""
    measured = max(rows.values(), key=lambda one: len(one["ids"]))
    right = np.mean(measured["original"]["right"], axis=0)
    found = paired(right, measured["ids"])
    each = ", ".join(f"{100 * np.mean(one):.1f}" for one in measured["original"]["right"])
    return f"Of the {found.n} test pictures as they are, the judges find the class of {100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f}; each judge: {each})."


def refinement_part(rows: Rows) -> str:
    """Every weight and encoder against refinement without one: at its level, and at equal rate."""
    curve = [points_of(rows[name])[level] for level in ALL_LEVELS if (name := name_of(replace(REFINED, levels=(level,)))) in rows]
    lines = [
        "## Refinement", "", f"{REFINED.iterations} iterations; differences are paired by picture, with 95 % bootstrap intervals over pictures; accuracy and nats are means of the judges.",
        "", "| level | refined with | bpp | dB | accuracy, % | bits, % more | dB more | accuracy, points more | nats less | at equal rate: accuracy, points more | nats less |", f"|{'---|' * 11}",
    ]  # fmt: skip
    count = 0
    for row in sorted(TABLES["refinement"], key=lambda row: row.levels):
        if (measured := rows.get(name_of(row))) is None:
            continue
        (level,) = row.levels
        point, base = points_of(measured)[level], rows.get(name_of(replace(REFINED, levels=(level,))))
        cells = [str(level), spelled(row), f"{point.bpp.mean():.3f}", f"{point.psnr_db.mean():.2f}", f"{100 * point.accuracy.mean():.1f}"]
        if base is not None and row.gamma:
            plain = points_of(base)[level]
            cells += [f"{100 * (point.bpp.mean() / plain.bpp.mean() - 1):+.1f}", said(paired(point.psnr_db - plain.psnr_db, point.ids), digits=2)]
            cells += [said(paired(100 * (point.accuracy - plain.accuracy), point.ids)), said(paired(plain.nats - point.nats, point.ids), digits=3)]
            at_rate = [at_equal_rate(point, curve, name) for name in ("accuracy", "nats")]
            cells += [OUTSIDE] * 2 if at_rate[0] is None else [said(paired(100 * at_rate[0], point.ids)), said(paired(-at_rate[1], point.ids), digits=3)]
        lines.append("| " + " | ".join(cells + [""] * (11 - len(cells))) + " |")
        count += 1
    return "\n".join(lines) if count else ""


def training_part(rows: Rows) -> str:
    """Every kind of codec against the plain one of the same seed, at equal rate, the mean over the levels where that can be said."""
    lines = [
        "## Training", "", "At equal rate against the plain codec of the same seed, the mean over levels inside of its curve; mean over seeds with the 95 % interval of Student's t.",
        "", "| codec | seeds | adapter's parameters | dB more | accuracy, points more | nats less |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    count = 0
    for kind, codec in CODECS.items():
        done = [(measured, plain) for seed in range(SEEDS) if (measured := _of_codec(rows, codec, seed)) and (plain := _of_codec(rows, CODECS["plain"], seed))]
        if done and kind != "plain":
            lines.append(f"| {kind} | {len(done)} | {done[0][0]['parameters']['adapter']:,} | {' | '.join(_gain_cells(done))} |")
            count += 1
    return "\n".join(lines) if count else ""


def pretraining_part(rows: Rows) -> str:
    """The trained encoder against the same one at its random start: refinements at the same level and weight, codecs at equal rate."""
    lines = [
        "## What pretraining adds", "", "The trained encoder less the same at its random start: refinements paired by picture, with 95 % bootstrap intervals; codecs at equal rate, paired by seed, as above.",
        "", "| use | bits, % more | dB more | accuracy, points more | nats less |", "|---|---|---|---|---|",
    ]  # fmt: skip
    head = len(lines)
    for row in sorted(TABLES["refinement"], key=lambda row: row.levels):
        trained, random = rows.get(name_of(row)), rows.get(name_of(replace(row, encoder="random")))
        if row.encoder == "trained" and not row.max_patches and trained and random:
            (one,), (other,) = points_of(trained).values(), points_of(random).values()
            cells = [f"{100 * (one.bpp.mean() / other.bpp.mean() - 1):+.1f}", said(paired(one.psnr_db - other.psnr_db, one.ids), digits=2)]
            cells += [said(paired(100 * (one.accuracy - other.accuracy), one.ids)), said(paired(other.nats - one.nats, one.ids), digits=3)]
            lines.append(f"| refinement, level {row.levels[0]}, weight {row.gamma:g} | {' | '.join(cells)} |")
    for kind in ("adapter", "distortion"):
        pairs = [pair for seed in range(SEEDS) if all(pair := [_of_codec(rows, CODECS[name], seed) for name in (kind, f"{kind}, random encoder")])]
        if pairs:
            lines.append(f"| {kind} in training, {len(pairs)} seeds | | {' | '.join(_gain_cells(pairs))} |")
    return "\n".join(lines) if len(lines) > head else ""


def _of_codec(rows: Rows, codec: CodecRow, seed: int) -> Mapping[str, Any] | None:
    return rows.get(name_of(RunConfig(codec=replace(codec, seed=seed))))


def _gain_cells(pairs: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """dB, points of accuracy and nats that the first of each pair has more than the second."""
    psnr_db, accuracy, nats = ([one for pair in pairs if (one := _gain(*pair, name)) is not None] for name in ("psnr_db", "accuracy", "nats"))
    return [over_seeds(psnr_db, digits=3, none=OUTSIDE), over_seeds([100 * one for one in accuracy], none=OUTSIDE), over_seeds([-one for one in nats], digits=3, none=OUTSIDE)]


def _gain(measured: Mapping[str, Any], plain: Mapping[str, Any], name: str) -> float | None:
    curve = list(points_of(plain).values())
    found = [values.mean() for point in points_of(measured).values() if (values := at_equal_rate(point, curve, name)) is not None]
    return float(np.mean(found)) if found else None


def spelled(row: RunConfig) -> str:
    if not row.gamma:
        return "no encoder"
    return f"{row.encoder} encoder, weight {row.gamma:g}" + (f", {row.max_patches} patches" if row.max_patches else "")


def said(estimate: Estimate, *, digits: int = 1) -> str:
    return f"{estimate.value:+.{digits}f} ({estimate.low:+.{digits}f} to {estimate.high:+.{digits}f})"


# --- The picture

def draw(rows: Rows, path: Path) -> None:
    """A curve for each way to refine, above, and for each codec, below: accuracy on the left, PSNR on the right."""
    ways: dict[str, list[Point]] = {}
    for row in TABLES["refinement"]:
        if (measured := rows.get(name_of(row))) is not None:
            ways.setdefault(spelled(row), []).extend(points_of(measured).values())
    codecs = {
        kind: [_mean_point([points_of(one)[level] for one in found]) for level in ALL_LEVELS]
        for kind, codec in CODECS.items() if (found := [one for seed in range(SEEDS) if (one := _of_codec(rows, codec, seed))])
    }  # fmt: skip
    shown = [(title, curves) for title, curves in (("refined", ways), ("as trained", codecs)) if curves]
    figure, axes = pyplot.subplots(len(shown), 2, figsize=(11, 4.2 * len(shown)), layout="constrained", squeeze=False)
    for (title, curves), (left, right) in zip(shown, axes, strict=True):
        for place, name, scale, heading in ((left, "accuracy", 100, "accuracy of the judges, %"), (right, "psnr_db", 1, "PSNR, dB")):
            for label, points in curves.items():
                place.plot(*_curve(points, name, scale), marker="o", markersize=3, linewidth=1.4, label=label, linestyle=":" if "random" in label else "-")
            place.set(xlabel="bits per pixel (whole files)", ylabel=heading, title=f"{heading.partition(',')[0]}, {title}")
            place.grid(alpha=0.3)
        right.legend(fontsize=8)
    with open_aside(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def _curve(points: Iterable[Point], name: str, scale: float) -> tuple[list[float], list[float]]:
    pairs = sorted((float(point.bpp.mean()), scale * float(getattr(point, name).mean())) for point in points)
    return [rate for rate, _ in pairs], [value for _, value in pairs]


def _mean_point(points: Sequence[Point]) -> Point:
    """Of the same pictures by codecs of several seeds."""
    return Point(points[0].ids, *(np.mean([getattr(point, name) for point in points], axis=0) for name in Point._fields[1:]))


if __name__ == "__main__":
    run_command(PageConfig, main, description=__doc__.splitlines()[0])
