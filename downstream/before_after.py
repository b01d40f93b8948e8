"""What a model gained on photographs: the results of one evaluation with it before and after, paired by photograph.

    results before, results after --by kind--> measures: a value of each photograph, before and after --difference--> mean, 95 % interval --> words

Of a codec the BD-rate of each photograph (its curve after against its curve before, downstream/codec/bd_rate.py), and where that cannot be said the cost of each level,
C = bpp + lmbda 255^2 MSE, which its training lowers. Bits and PSNR alone are no gain: one is bought with the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np

from downstream.codec.bd_rate import bd_rate
from downstream.fine_tune_plan import Kind
from lcl.evals.compare import rights_of
from lcl.evals.intervals import Estimate, clustered_bootstrap
from lcl.evals.results import read_result

Said = Literal["gain", "loss", "neither", "too few", ""]
OURS = "this codec, fast"  # what eval_codec.py calls the codec's own curve
FEW = 10  # photographs, below which a bootstrap's interval is too narrow to lean on
TOO_FEW = 6  # below which differences of one sign, for which a bootstrap has no 0, are by chance alone in more than one case of twenty (2 / 2^n)
QUALITIES = {"psnr_db": ("PSNR in dB", 2), "haarpsi": ("HaarPSI", 4)}  # of restored pictures: one of errors, one of what eyes see


@dataclass(frozen=True)
class Measure:
    name: str
    photographs: Sequence[str]
    """Of each value; several values of one photograph are drawn together."""
    before: Sequence[float]
    after: Sequence[float]
    better: Literal["lower", "higher", ""]
    """Empty where neither alone is."""
    digits: int


@dataclass(frozen=True)
class Compared:
    measure: Measure
    difference: Estimate
    """Of the mean after minus the mean before."""
    said: Said

    def record(self) -> dict[str, Any]:
        of, measure = self.difference, self.measure
        return {
            "measure": measure.name, "better": measure.better or None, "before": fmean(measure.before), "after": fmean(measure.after), "difference": of.value, "low": of.low, "high": of.high,
            "interval": of.method, "num_photographs": len(set(measure.photographs)), "said": self.said or None,
            "values": [{"photograph": name, "before": one, "after": other} for name, one, other in zip(measure.photographs, measure.before, measure.after, strict=True)],
        }  # fmt: skip

    def cells(self) -> tuple[str, ...]:
        """As COLUMNS."""
        of, digits = self.difference, self.measure.digits
        means = (f"{fmean(values):.{digits}f}" for values in (self.measure.before, self.measure.after))
        return (self.measure.name, self.measure.better, *means, f"{of.value:+.{digits}f}", f"{of.low:+.{digits}f} to {of.high:+.{digits}f}", {"neither": "no difference shown", "too few": "too few to say"}.get(self.said, self.said))


COLUMNS = ("measure", "better", "before", "after", "difference", "95 % interval", "shown")


def compare(measure: Measure) -> Compared:
    """A gain is said where the whole interval is better than 0, a loss where it is worse; of fewer than TOO_FEW photographs neither."""
    differences = np.array(measure.after, dtype=np.float64) - np.array(measure.before, dtype=np.float64)
    found = clustered_bootstrap(differences, measure.photographs, of="photographs")
    if not measure.better:
        return Compared(measure, found, "")
    if len(set(measure.photographs)) < TOO_FEW:
        return Compared(measure, found, "too few")
    low, high = (found.low, found.high) if measure.better == "higher" else (-found.high, -found.low)
    return Compared(measure, found, "gain" if low > 0 else "loss" if high < 0 else "neither")


def in_words(compared: Sequence[Compared]) -> str:
    """What the measures that can be better or worse say, and how far a number of pictures carries it."""
    judged = [one for one in compared if one.said]
    parts = []
    for said, words in (("gain", "a gain is shown"), ("loss", "a loss is shown"), ("neither", "neither gain nor loss is shown"), ("too few", f"fewer than {TOO_FEW} pictures cannot say whether something was gained")):
        names = [f"{one.measure.name} ({one.cells()[4]}, 95 % interval {one.cells()[5]})" for one in judged if one.said == said]
        if names:
            parts.append(f"{words} in {'; '.join(names)}")
    num = min(len(set(one.measure.photographs)) for one in judged)
    few = f" {num} pictures are few, and the interval is narrower than it should be: hold out more before you lean on this." if num < FEW else ""
    text = ". ".join(part[0].upper() + part[1:] for part in parts)
    return f"{text}.{few}"


def measures_of(kind: Kind, before: Mapping[str, Any], after: Mapping[str, Any], photographs: Sequence[str]) -> tuple[list[Measure], list[str]]:
    """From `measured` of two results of downstream/eval_KIND.py, and what could not be measured, a line each. `photographs` are the held-out ones, in the order of their names."""
    if kind == "codec":
        return of_codecs(before, after)
    return (of_densities(before, after, photographs) if kind == "density" else of_restorers(before, after)), []


def of_codecs(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[Measure], list[str]]:
    curves = [result["curves"][OURS] for result in (before, after)]
    measures, costs = [], []
    for level, points in enumerate(zip(*curves, strict=True)):
        names = _same_pictures(*(point["pictures"] for point in points))
        bpp, psnr_db = ([[picture[key] for picture in point["pictures"]] for point in points] for key in ("bpp", "psnr_db"))
        cost = [[rate + before["model"]["lmbdas"][level] * 255**2 * 10 ** (-quality / 10) for rate, quality in zip(*both, strict=True)] for both in zip(bpp, psnr_db, strict=True)]
        measures += [Measure(f"bits per pixel, level {level}", names, *bpp, "", 4), Measure(f"PSNR in dB, level {level}", names, *psnr_db, "", 2)]
        costs.append(Measure(f"cost, level {level}", names, *cost, "lower", 4))
    rates, unsaid = _bd_rates(*curves)
    if rates:
        return [*measures, Measure("BD-rate (PSNR) in %", list(rates), [0.0] * len(rates), list(rates.values()), "lower", 2)], unsaid
    return [*measures, *costs], unsaid


def _bd_rates(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], list[str]]:
    """Of each photograph in percent; and why of some there is none."""
    found, unsaid = {}, []
    for number, picture in enumerate(before[0]["pictures"]):
        curves = [[(point["pictures"][number]["bpp"], point["pictures"][number]["psnr_db"]) for point in points] for points in (before, after)]
        try:
            found[picture["picture"]] = bd_rate(*curves)
        except ValueError as error:
            unsaid.append(f"no BD-rate of {picture['picture']}: {error}")
    return found, unsaid


def of_densities(before: Mapping[str, Any], after: Mapping[str, Any], photographs: Sequence[str]) -> list[Measure]:
    """Squares come one of each photograph, then the next of each (downstream/density/unseen_images.py)."""
    values = [result["vlb"]["of_images"] for result in (before, after)]
    names = [photographs[number % len(photographs)] for number in range(len(values[0]))]
    return [Measure("bound in bits per dimension", names, *values, "lower", 4)]


def of_restorers(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Measure]:
    """Of each task; a model with an encoder is measured with it, its first row."""
    rows = [_first_of_tasks(result["rows"]) for result in (before, after)]
    measures = []
    for task, one in rows[0].items():
        for key, (title, digits) in QUALITIES.items():
            names = _same_pictures(one["pictures"], rows[1][task]["pictures"])
            measures.append(Measure(f"{title}, {task}", names, *([picture[key] for picture in row["pictures"]] for row in (one, rows[1][task])), "higher", digits))
    return measures


def of_probes(before: Path, after: Path) -> list[Measure]:
    """Of two results of one protocol (lcl/evals/results.py) with an encoder before and after: the share of pictures that it has right, in percent."""
    task, both = read_result(before)["task"], [rights_of(path) for path in (before, after)]
    measures = []
    for metric in both[0]:
        one, other = (rights[metric] for rights in both)
        assert one.items == other.items, "both evaluations are of the same pictures"
        measures.append(Measure(f"{task}, {metric} in %", one.clusters, *((100 * rights.shares).tolist() for rights in (one, other)), "higher", 1))
    return measures


def _first_of_tasks(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        found.setdefault(row["task"], row)
    return found


def _same_pictures(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [picture["picture"] for picture in one]
    assert names == [picture["picture"] for picture in other], "both evaluations are of the same photographs"
    return names
