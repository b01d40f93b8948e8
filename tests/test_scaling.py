"""The simulator behind docs/scaling.md: limits, the optimum of its interval, drawn failures against its formula, and the page against its numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from lcl.planning.scaling import Failures, build_point, daly_interval, goodput, simulated_goodput, training_point, young_interval
from tests.conftest import ROOT, Run

DAY = 86_400.0


@pytest.mark.parametrize(("between", "checkpoint", "restart"), [(DAY, 30.0, 600.0), (DAY / 10, 60.0, 60.0), (2000.0, 100.0, 300.0)])
def test_drawn_failures_give_the_closed_form(between: float, checkpoint: float, restart: float) -> None:
    """To 2 %: 20,000 segments, of whose failures there are hundreds at least."""
    interval = daly_interval(between, checkpoint)
    formula = goodput(interval, between=between, checkpoint=checkpoint, restart=restart)
    drawn = simulated_goodput(interval, between=between, checkpoint=checkpoint, restart=restart, segments=20_000, random=np.random.default_rng(0))
    assert drawn == pytest.approx(formula, rel=0.02) and 0.3 < formula < 1


@pytest.mark.parametrize("checkpoint", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("between", [3600.0, DAY, 30 * DAY])
def test_the_interval_is_the_best_one(between: float, checkpoint: float) -> None:
    """No other does better by more than a thousandth, and one half or twice as long does worse."""

    def kept(interval: float) -> float:
        return goodput(interval, between=between, checkpoint=checkpoint, restart=60.0)

    chosen = daly_interval(between, checkpoint)
    best = max(kept(chosen * factor) for factor in np.geomspace(0.2, 5, 200))
    assert kept(chosen) >= best * (1 - 1e-3) and kept(chosen / 2) < kept(chosen) > kept(2 * chosen)
    assert young_interval(between, checkpoint) == pytest.approx(chosen + checkpoint, rel=0.5)


def test_limits() -> None:
    assert goodput(100.0, between=1e12, checkpoint=25.0, restart=600.0) == pytest.approx(0.8), "nothing fails: only checkpoints cost"
    assert goodput(100.0, between=1.0, checkpoint=100.0, restart=600.0) < 1e-12 and goodput(1e6, between=1.0, checkpoint=0.0, restart=0.0) == 0.0
    assert daly_interval(10.0, 30.0) == 10.0 and young_interval(2 * DAY, 1.0) == pytest.approx((4 * DAY) ** 0.5)
    assert Failures(1000.0, 1.0, 1.0).between(8) == 125.0


def test_points_of_a_training() -> None:
    failures = Failures(gpu_seconds=1e8, restart_seconds=600, checkpoint_seconds=5)

    def point(gpus: int, seconds: float):
        return training_point(
            gpus, step_seconds=seconds, images=100.0 * gpus, single_images_per_second=100.0, failures=failures, price_per_hour=3.6, loader_images_per_second=50.0
        )

    one, many = point(1, 1.0), point(1000, 1.25)
    assert (one.images_per_second, one.scaling, one.loader_cores_per_gpu) == (100.0, 1.0, 2.0)
    assert many.scaling == pytest.approx(0.8) and many.goodput < one.goodput and many.interval_seconds < one.interval_seconds
    assert one.cost_per_billion_images * one.goodput == pytest.approx(1e7 * 1e-3)
    assert many.cost_per_billion_images == pytest.approx(one.cost_per_billion_images * one.goodput / (0.8 * many.goodput))


def test_points_of_a_build() -> None:
    def point(files: int, cores: int, driver: float = 0.0):
        return build_point(files, cores=cores, core_seconds=360.0, efficiency=0.5, shard_bytes=10.0, driver_seconds=driver, core_hour_price=2.0)

    assert point(100, 10).hours == pytest.approx(2.0) and point(100, 10).core_hours == pytest.approx(10.0) and point(100, 10).cost == pytest.approx(40.0)
    assert point(100, 20).hours == pytest.approx(1.0) and point(5, 10).hours == point(5, 5).hours, "no more cores work than there are files"
    assert point(1000, 1000, driver=7.2).driver_part == 1.0 and point(1000, 1000, driver=7.2).hours == pytest.approx(2.0)


def test_the_benchmark_runs_and_the_page_says_what_it_gave(run: Run, tmp_path: Path) -> None:
    """The same config gives the same numbers and pictures as those behind the page, which it quotes."""
    result = run("python", "benchmarks/scaling.py", "--output", tmp_path / "scaling.json")
    assert result.returncode == 0, result.stderr
    found, kept = (json.loads((folder / "scaling.json").read_text())["measured"] for folder in (tmp_path, ROOT / "docs" / "scaling"))
    assert found == kept
    page = " ".join((ROOT / "docs" / "scaling.md").read_text().split())
    for name in ("scaling_goodput.svg", "scaling_builds.svg"):
        assert (tmp_path / name).read_bytes() == (ROOT / "docs" / "scaling" / name).read_bytes() and f"(scaling/{name})" in page
    points = {name: {one["gpus"]: one for one in some} for name, some in kept["training"].items()}
    for gpus in (1, 8, 64, 256, 1024):
        b32, l14 = (points[name][gpus] for name in ("lcl_vit_b32_mmc4", "lcl_vit_l14"))
        assert (
            f"| {gpus:,} | {b32['images_per_second']:,.0f} | {100 * b32['scaling']:.0f} % | {100 * b32['goodput']:.2f} % | {b32['cost_per_billion_images']:,.0f} "
            f"| {l14['images_per_second']:,.0f} | {100 * l14['scaling']:.0f} % | {100 * l14['goodput']:.2f} % | {l14['cost_per_billion_images']:,.0f} |"
        ) in page
    for files in (1, 100, 10_000, 1_000_000):
        many, few = ({one["files"]: one for one in kept["builds"][cores]}[files] for cores in ("4096", "64"))
        assert f"| {files:,} | {many['core_hours']:,.1f} | {few['hours']:,.1f} | {many['hours']:,.1f} | {100 * many['driver_part']:.1f} % | {many['shard_bytes'] / 1e12:,.2f} | {many['core_hours'] / 0.92 * 0.04:,.0f} |" in page
    checks = [json.loads((ROOT / "docs" / "scaling" / f"plan_check{name}.json").read_text())["measured"] for name in ("", "_again")]
    for name, some in (item for checked in checks for item in checked.items() if item[0] != "calibration"):
        for one in some:
            assert f"| {name} | {one['processes']} | {one['predicted_seconds']:.3f} | {one['measured_seconds']:.3f} | {one['ratio']:.2f} |" in page
