"""`lcl plan`: laws of its parts, its numbers against what was counted or measured elsewhere, and what it says of mistakes."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from lcl.core.config import to_dict
from lcl.core.files import write_json
from lcl.engine import EngineConfig
from lcl.estimate import Parameters, Reading, count_parameters
from lcl.flops import decoder_flops, forward_flops, named_peak, vision_flops
from lcl.planning.calibration import Calibration
from lcl.planning.data_plan import DataPlanConfig, plan_data, rates_of
from lcl.planning.machines import ACCELERATORS, MachineConfig
from lcl.planning.measuring import measure_pipeline
from lcl.planning.operators import Counter, StepWork, Work, count_step
from lcl.planning.reading import typical_of_numbers
from lcl.planning.run_plan import is_close
from lcl.planning.step_time import ring_seconds, step_on_cpu
from lcl.planning.training_plan import checkpoint_bytes, memory_of, plan_training, recommend
from lcl.train_config import PRESETS, TrainConfig
from tests.conftest import ROOT, Run, assert_one_line_error
from tests.made_rows import make_batch, make_model, make_row

TOY, B32 = PRESETS["toy"], PRESETS["lcl_vit_b32_mmc4"]
RATES = Calibration(
    product_flops=1e11, attention_flops=5e10, cached_bytes=1e11, streamed_bytes=4e10, rowwise_bytes=2e10, fresh_bytes=3e9, operator_seconds=1e-5, view_seconds=1e-6,
    all_reduce_seconds=2e-4, all_reduce_bytes=2e9,
)  # fmt: skip
VOCAB_SIZE = 49_411


def test_products_are_those_that_pytorch_counts() -> None:
    """All of a real forward and backward pass, attention too."""
    model, batch = make_model(), make_batch([make_row(["ttitit"], seed=0)])

    def step() -> None:
        outputs = model(batch)
        (outputs.nll_sum + outputs.pooled.sum() + outputs.contexts.sum()).backward()

    with FlopCounterMode(display=False) as theirs:
        step()
    with Counter() as ours:
        step()
    counts = theirs.get_flop_counts()["Global"]
    attention = sum(count for operation, count in counts.items() if "scaled_dot_product" in str(operation))
    convolution = sum(count for operation, count in counts.items() if "convolution" in str(operation))
    found = ours.work
    assert attention == found.attention_flops > 0
    # Theirs counts the gradient of pixels too where it is asked for, and ours that of weights alone.
    assert found.product_flops == pytest.approx(theirs.get_total_flops() - attention, abs=convolution)
    assert found.operators > 50 and found.views > 20 and found.rowwise_bytes > 0 and found.cached_bytes > 0


def test_a_step_that_is_not_computed_is_counted_as_its_formula_says() -> None:
    """Rows that are full: the useful arithmetic and the counted one differ by what the formula calls masked pairs alone."""
    config = replace(TOY, micro_rows=2)
    reading = Reading((96, 96), images=2, slots=32, targets=2 * (95 - 17))
    work = count_step(config, VOCAB_SIZE, reading, documents=2.0, image_grid=(4, 4), ranks=1, accumulation=1)
    grids = [(4, 4)] * 4
    useful = forward_flops(config.model, VOCAB_SIZE, document_lengths=(96,) * 4, grids=grids, num_slots=64, num_targets=4 * 78, num_contexts=4)
    inside = vision_flops(config.model.vision, grids) - _without_attention_vision(config)
    in_decoder = decoder_flops(config.model.text, (96,) * 4) - decoder_flops(config.model.text, (1,) * 384) + 4 * 384 * 32
    assert work.forward.product_flops == pytest.approx(useful - inside - in_decoder, rel=0.01)
    assert work.backward.product_flops == pytest.approx(2 * work.forward.product_flops, rel=0.03), "gradients of inputs and of weights, but for pixels"
    assert work.forward.fresh_bytes > 0 and work.update.operators > 100 and work.losses.product_flops > 0


def _without_attention_vision(config: TrainConfig) -> float:
    """FLOPs of the tower without attention's products, for 4 images of 16 patches and a class token."""
    tower = config.model.vision.tower()
    return vision_flops(config.model.vision, [(4, 4)] * 4) - tower.layers * 4 * 4 * 17**2 * tower.width


def test_nothing_is_allocated_for_a_large_model() -> None:
    """ViT-L/14 in a row of 2,048: some GB if it were real."""
    work = count_step(PRESETS["lcl_vit_l14"], VOCAB_SIZE, Reading((512,), 1, 256, 254), documents=1.0, image_grid=(16, 16), ranks=1, accumulation=1)
    assert work.forward.product_flops > 1e11 and work.update.cached_bytes + work.update.streamed_bytes > 4 * 4 * 300e6


def test_seconds_follow_from_work_and_rates() -> None:
    work = Work(operators=10, views=100, product_flops=2e11, attention_flops=1e11, cached_bytes=1e11, streamed_bytes=4e10, rowwise_bytes=2e10, fresh_bytes=3e9)
    assert RATES.seconds_of(work) == pytest.approx(1e-4 + 1e-4 + 2 + 2 + 1 + 1 + 1 + 1)
    assert RATES.seconds_of(work.times(3) + work) == pytest.approx(4 * RATES.seconds_of(work))
    part = Work(product_flops=1e11)
    step = StepWork(forward=part, backward=part.times(2), losses=Work(), update=part)
    assert RATES.seconds_of(step.of_step(1)) == pytest.approx(1 + 2 + 1)
    assert RATES.seconds_of(step.of_step(4)) == pytest.approx(2 * 4 + 4 * 2 + 1), "with accumulation the forward pass runs twice"
    alone, two = (
        step_on_cpu(TOY, RATES, step, ranks=ranks, accumulation=1, num_trained=10**6, num_images=0, loading=0.5) for ranks in (1, 2)
    )  # fmt: skip
    assert (alone.compute, alone.collectives, alone.total) == (4.0, 0.0, 4.5)
    assert two.collectives == pytest.approx(8 * 2e-4 + 4e6 / 2e9) and two.compute > alone.compute


def test_a_ring_sends_at_most_twice_the_bytes() -> None:
    assert ring_seconds(100.0, 1, 10.0) == 0.0 and ring_seconds(100.0, 2, 10.0) == 10.0
    assert ring_seconds(100.0, 1024, 10.0) == pytest.approx(20.0, rel=1e-3)


def test_every_accelerator_has_a_peak_and_others_are_described() -> None:
    for name, one in ACCELERATORS.items():
        assert named_peak(one.torch_name, precision="bf16"), name
        MachineConfig(accelerator=name).check()
    with pytest.raises(ValueError, match="h10 is not in the table.*did you mean h100"):
        MachineConfig(accelerator="h10").check()
    own = MachineConfig(accelerator="mine", memory_gb=64, peak_tflops=300, link_gb=50, gpus=16, network_gbit=25)
    own.check()
    assert own.memory_bytes == 64e9 and own.peak_flops("bf16") == 3e14 and own.num_nodes == 2
    assert own.slowest_link_bytes == 25e9, "8 cards of 25 Gbit/s"
    assert replace(own, network_gbit=400).slowest_link_bytes == 50e9 == replace(own, gpus=8).slowest_link_bytes, "a GPU's own link"
    assert replace(own, gpus_per_node=1).slowest_link_bytes == 25e9 / 8


def plan_of(config: TrainConfig, **machine: object) -> dict:
    parameters = count_parameters(config, VOCAB_SIZE)
    typical = typical_of_numbers(config, tokens=425, images=3)
    return plan_training(config, parameters, typical, VOCAB_SIZE, MachineConfig(**machine), mfu=0.4, rates=RATES, row_seconds=0.0)


def test_a_smaller_memory_takes_another_way() -> None:
    parameters, typical = count_parameters(B32, VOCAB_SIZE), typical_of_numbers(B32, tokens=425, images=3)

    def chosen(memory_gb: float):
        return recommend(B32, parameters, typical, VOCAB_SIZE, MachineConfig(memory_gb=memory_gb, gpus=8))

    large = chosen(1000)
    assert (large.micro_rows, large.accumulation, large.zero_stage, large.recompute_every, large.relative_time) == (32, 1, 1, 0, 1.0)
    smaller = chosen(12)
    assert smaller.relative_time > 1 and (smaller.accumulation > 1 or smaller.recompute_every) and smaller.zero_stage >= 1
    assert chosen(0.5) is None
    for one, memory_gb in ((large, 1000), (smaller, 12)):
        run = replace(B32, micro_rows=one.micro_rows, recompute_every=one.recompute_every)
        assert memory_of(run, parameters, typical, VOCAB_SIZE, zero_stage=one.zero_stage, ranks=8).total(recomputed=False) <= 0.9e9 * memory_gb


def test_time_and_money_follow_from_the_step() -> None:
    plan = plan_of(B32, accelerator="h100", gpus=8, price_per_hour=2.0)
    seconds, run = plan["seconds"]["total"], plan["run"]
    assert run["days"] == pytest.approx(10_000 * seconds / 86_400) and run["cost"] == pytest.approx(run["gpu_hours"] * 2) == pytest.approx(run["days"] * 24 * 8 * 2)
    assert plan["seconds"]["compute"] == pytest.approx(253.6e12 / (8 * 0.4 * 989.4e12), rel=0.01)  # the step of tests/test_estimate.py
    assert plan["per_second"]["images"] == pytest.approx(2630 / seconds, rel=0.01)
    more = plan_of(B32, accelerator="h100", gpus=64)
    assert more["seconds"]["compute"] == pytest.approx(plan["seconds"]["compute"] / 8) and more["seconds"]["collectives"] > plan["seconds"]["collectives"]
    assert more["run"]["cost"] is None and [one["zero_stage"] for one in more["memory"]] == [0, 1, 2, 3]
    totals = [one["total"] for one in more["memory"]]
    assert totals[1] > totals[2] > totals[3]
    with pytest.raises(ValueError, match=r"batch_rows \(256\) is no multiple of --machine.gpus \(48\): give --train.batch-rows 240"):
        plan_of(B32, gpus=48)


def test_checkpoints_have_the_sizes_that_were_written() -> None:
    """Of `lcl pretrain --preset small`, fp32, ZeRO 0, one rank: mp_rank_00_model_states.pt of 29,808,943 bytes and model.safetensors of 9,904,788."""
    small = PRESETS["small"]
    found = checkpoint_bytes(small, Parameters({"all": 2_474_000}, 2_474_000), ranks=1)
    assert found.rank_0 == pytest.approx(29_808_943, rel=0.01) and found.weights == pytest.approx(9_904_788, rel=0.01) and found.other_ranks == 0
    sharded = replace(small, engine=EngineConfig(precision="bf16", zero_stage=1))
    four = checkpoint_bytes(sharded, Parameters({"all": 1000}, 1000), ranks=4)
    assert (four.rank_0, four.other_ranks, four.in_all) == (2000 + 3000, 3000, 2000 + 12_000 + 4000)
    third = checkpoint_bytes(replace(small, engine=EngineConfig(precision="bf16", zero_stage=3)), Parameters({"all": 1000}, 1000), ranks=4)
    assert third.in_all == four.in_all and third.rank_0 == third.other_ranks


def test_a_build_is_expanded_by_its_files(tmp_path: Path) -> None:
    timing = {
        "total": {"core_seconds": 72.0, "documents_out": 400, "documents_in": 500}, "storage_bytes": {"shards": 8_000_000, "index": 1000, "extracted": 3000},
    }  # fmt: skip
    write_json(tmp_path / "timing.json", timing)
    write_json(tmp_path / "report.json", {"crawls": {"in": 3, "out": 2}})
    settings = DataPlanConfig(build=str(tmp_path), crawl_files=1000, crawls=100, cores=64, efficiency=0.5, core_hour_price=0.04)
    rates = rates_of(settings)
    assert rates == {"core_seconds": 36.0, "documents": 200.0, "shard_bytes": 4e6, "work_bytes": 2000.0}
    plan = plan_data(settings, rates)
    assert plan["in_all"]["core_hours"] == 1000.0 and plan["in_all"]["shard_bytes"] == 4e11 and plan["per_crawl"]["documents"] == 200_000
    assert plan["in_all"]["days"] == pytest.approx(1000 / 0.5 / 64 / 24) and plan["in_all"]["cost"] == pytest.approx(80.0)
    assert plan["documents_per_second"] * 86_400 * plan["in_all"]["days"] == pytest.approx(plan["in_all"]["documents"])
    with pytest.raises(ValueError, match="belong together: give both, or --data.build"):
        rates_of(DataPlanConfig(core_seconds_per_file=36))
    given = DataPlanConfig(core_seconds_per_file=36, documents_per_file=200, shard_bytes_per_file=4e6, work_bytes_per_file=2000)
    assert rates_of(given) == rates and rates_of(DataPlanConfig()) is None
    predicted = {"core_hours.in_all": 0.02, "documents_out": 400, "storage_bytes.shards": 8e6, "storage_bytes.in_all": 8_004_000}
    write_json(tmp_path / "a.pilot.json", {"inputs": 2, "predictions": {name: {"value": value} for name, value in predicted.items()}})
    assert rates_of(DataPlanConfig(build=str(tmp_path / "a.pilot.json"))) == pytest.approx(rates)
    with pytest.raises(ValueError, match="holds no timing.json"):
        rates_of(DataPlanConfig(build=str(tmp_path / "elsewhere")))


def test_within_a_quarter_of_the_measurement() -> None:
    assert [is_close({"ratio": ratio}) for ratio in (0.74, 0.75, 1.0, 1.25, 1.26)] == [False, True, True, True, False]


def test_the_command_answers_without_deepspeed_and_ray(run: Run, tmp_path: Path, shards: Path) -> None:
    """On shards and on a CPU whose rates are given, as JSON and for people."""
    write_json(tmp_path / "rates.json", to_dict(RATES))
    code = "import runpy, sys; sys.argv[0] = 'lcl'; runpy.run_module('lcl.plan', run_name='__main__'); assert not {'deepspeed', 'ray'} & set(sys.modules)"
    words = ["--preset", "toy", "--machine.accelerator", "cpu", "--machine.gpus", "2", "--machine.price-per-hour", "1", "--shards", shards]
    words += ["--calibration", tmp_path / "rates.json", "--output", tmp_path / "plan.json", "--data.core-seconds-per-file", "36", "--data.documents-per-file", "200"]
    result = run(sys.executable, "-c", code, *words)
    assert result.returncode == 0, result.stderr
    for part in ("Memory of a rank, 2 rows of 192 tokens", "by this machine's calibration", "epochs of the shards", "at the price given", "A checkpoint:", "Shards of 1 crawl files"):
        assert part in result.stdout, result.stdout
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["schema"] == "lcl-plan/1" and plan["training"]["seconds"]["loading"] > 0 and plan["training"]["step"]["accumulation"] == 1 and plan["commit"]
    assert plan["data"]["documents_per_core_second"] == pytest.approx(200 / 36)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--machine.accelerator", "h1000"], "did you mean h100"),
        (["--machine.gpus", "48"], "give --train.batch-rows 240"),
        (["--run", "nowhere"], "--run nowhere: no run.json there"),
        (["--machine.accelerator", "cpu"], "add --train.engine.precision fp32"),
        (["--measure", "training"], "--measure training needs --shards"),
    ],
)
def test_mistakes_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, words: list[str], said: str) -> None:
    import runpy

    monkeypatch.setattr(sys, "argv", ["plan", *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("lcl.plan", run_name="__main__")
    error = capsys.readouterr().err
    assert end.value.code == 1 and error.startswith("error: ") and said in error and error.count("\n") == 1


@pytest.mark.slow
def test_one_and_two_processes_are_predicted_within_a_quarter(run: Run, tmp_path: Path) -> None:
    result = run(sys.executable, "benchmarks/plan_check.py", "--output", tmp_path / "plan_check.json", "--models", "small", timeout=3000)
    assert result.returncode == 0, result.stdout + result.stderr
    compared = json.loads((tmp_path / "plan_check.json").read_text())["measured"]["small"]
    assert [one["processes"] for one in compared] == [1, 2] and all(is_close(one) for one in compared)


def test_a_check_that_fails_is_a_failure(run: Run, tmp_path: Path) -> None:
    assert_one_line_error(run(sys.executable, ROOT / "benchmarks" / "plan_check.py", "--output", tmp_path / "a.json", "--models", "smal"), "smal", "did you mean small")


def test_a_pipeline_is_measured_on_a_sample_crawl(tmp_path: Path) -> None:
    built = measure_pipeline(tmp_path, pages=24)
    plan = plan_data(DataPlanConfig(build=str(built), crawl_files=10), rates_of(DataPlanConfig(build=str(built))))
    assert plan["in_all"]["documents"] == 10 * plan["per_file"]["documents"] > 0 and plan["in_all"]["core_hours"] > 0 and plan["per_file"]["shard_bytes"] > 10_000
    with pytest.raises(ValueError, match="`lcl sample-crawl` failed: error:.*--num-pages"):
        measure_pipeline(tmp_path / "other", pages=1)
