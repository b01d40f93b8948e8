"""A plan from its config: what is needed is read, measured where that is asked for, and put into lines for people."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lcl.core.config import commit, from_dict, to_dict, versions
from lcl.core.files import read_json, write_json
from lcl.core.logs import duration
from lcl.core.tokenizer import Tokenizer
from lcl.estimate import count_parameters, plain_amount, plain_table
from lcl.planning.calibration import Calibration, calibrate
from lcl.planning.data_plan import plan_data, rates_of
from lcl.planning.measuring import WITHIN, compare_training, measure_pipeline
from lcl.planning.plan_config import PlanConfig
from lcl.planning.reading import loading_seconds, source_of, typical_of_numbers, typical_of_shards
from lcl.planning.training_plan import USABLE, plan_training
from lcl.train_config import TrainConfig

SCHEMA = "lcl-plan/1"


def run_plan(settings: PlanConfig) -> dict[str, Any]:
    """The plan as JSON values, written to `output` where that is named. Raises ValueError naming what does not fit together, before anything is measured."""
    config = train_config(settings)
    settings.machine.check()
    config.model.check()
    config.loss.check()
    if "training" in settings.measure and not settings.shards:
        raise ValueError("--measure training needs --shards: a short training reads real ones")
    if config.engine.precision != "fp32" and (settings.machine.is_cpu or "training" in settings.measure):
        raise ValueError(f"a CPU's rates are those of fp32, and the training is in {config.engine.precision}: add --train.engine.precision fp32")
    tokenizer = Tokenizer(config.model.tokenizer)
    parameters = count_parameters(config, tokenizer.vocab_size)
    row_seconds = 0.0
    if settings.shards:
        source = source_of(config, tokenizer)
        typical = typical_of_shards(config, source, tokenizer)
        if settings.machine.is_cpu:
            row_seconds = loading_seconds(config, source, tokenizer, rows=max(config.micro_rows, 32))
    else:
        typical = typical_of_numbers(config, tokens=settings.document_tokens, images=settings.document_images)
    rates = read_or_calibrate(settings.calibration) if settings.machine.is_cpu or "training" in settings.measure else None
    training = plan_training(
        config, parameters, typical, tokenizer.vocab_size, settings.machine, mfu=settings.mfu, rates=rates, row_seconds=row_seconds
    )
    plan: dict[str, Any] = {"schema": SCHEMA, "config": to_dict(replace(settings, train=config)), "training": training}
    if rates is not None:
        plan["calibration"] = to_dict(rates)
    if "pipeline" in settings.measure:
        with TemporaryDirectory() as folder:
            built = measure_pipeline(Path(folder), pages=settings.measured_pages)
            data = replace(settings.data, build=str(built))
            plan["data"] = plan_data(data, rates_of(data) or {})
    elif (given := rates_of(settings.data)) is not None:
        plan["data"] = plan_data(settings.data, given)
    if "training" in settings.measure:
        plan["compared"] = compare_training(config, rates, steps=settings.measured_steps)
    plan |= {"commit": commit(), "versions": versions()}
    if settings.output:
        Path(settings.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(settings.output), plan)
    return plan


def train_config(settings: PlanConfig) -> TrainConfig:
    """The training that is planned, on the shards of the plan. Raises ValueError for a run that is none of `lcl pretrain`."""
    config = settings.train
    if settings.run:
        path = Path(settings.run)
        path = path / "run.json" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"--run {settings.run}: no run.json there")
        config = from_dict(TrainConfig, read_json(path).get("config", {}), origin=str(path))
    return replace(config, data=replace(config.data, shards=settings.shards)) if settings.shards else config


def read_or_calibrate(file: str) -> Calibration:
    """The rates in `file`; where it is not there, this machine's, written to it."""
    path = Path(file)
    if file and path.exists():
        return from_dict(Calibration, read_json(path), origin=file)
    rates = calibrate()
    if file:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, to_dict(rates))
    return rates


def lines_of(plan: Mapping[str, Any]) -> Iterator[str]:
    """The plan for people, each part with what it assumes."""
    config, training = plan["config"], plan["training"]
    machine, recommended = config["machine"], training["recommended"]
    kind = f"{machine['gpus']} x {machine['accelerator']}"
    yield f"Memory of a rank, {training['step']['micro_rows']} rows of {config['train']['row_length']} tokens at a time, {kind}, {config['train']['engine']['precision']}"
    rows = [("ZeRO", "weights", "gradients", "optimiser", "activations", "(all recomputed)", "in all", "")]
    for one in training["memory"]:
        amounts = [one[name] for name in ("weights", "gradients", "optimizer", "activations", "activations_recomputed", "total")]
        fits = "" if "fits" not in one else "fits" if one["fits"] else "fits recomputed" if one["fits_recomputed"] else "does not fit"
        rows.append((str(one["zero_stage"]), *(plain_amount(amount, "B", digits=3) for amount in amounts), fits))
    yield plain_table(rows)
    if recommended is not None:
        yield (
            f"Recommended: --micro-rows {recommended['micro_rows']} --engine.zero-stage {recommended['zero_stage']} --recompute-every {recommended['recompute_every']}"
            f" (accumulation {recommended['accumulation']}; {USABLE:.0%} of the memory may be used)"
        )
    elif any("fits" in one for one in training["memory"]):
        yield "Recommended: nothing fits; more GPUs, a shorter --train.row-length or --train.engine.offload cpu"
    seconds, rate, run = training["seconds"], training["per_second"], training["run"]
    assumed = f"at an MFU of {training['mfu']:.0%} while computing, nothing overlapped" if training["mfu"] else "by this machine's calibration, one thread a rank"
    yield f"\nA step of {training['step']['rows']:.0f} rows: {training['step']['documents']:.0f} documents, {training['step']['images']:.0f} images, {training['step']['tokens']:.0f} tokens"
    yield f"  {seconds['total']:.3g} s = computing {seconds['compute']:.3g} + collectives {seconds['collectives']:.3g} + loading {seconds['loading']:.3g} ({assumed})"
    yield f"  {plain_amount(rate['tokens'])} tokens/s, {rate['images']:.4g} images/s, {rate['documents']:.4g} documents/s"
    cost = f", at the price given {run['cost']:.4g}" if run["cost"] is not None else ""
    epochs = f", {run['epochs']:.3g} epochs of the shards" if run["epochs"] is not None else ""
    yield f"The run of {run['steps']} steps: {duration(86400 * run['days'])}, {run['gpu_hours']:.4g} hours of {'ranks' if machine['accelerator'] == 'cpu' else 'GPUs'}{cost}{epochs}"
    kept = training["checkpoint_bytes"]
    yield (
        f"A checkpoint: {plain_amount(kept['in_all'], 'B')} = rank 0 {plain_amount(kept['rank_0'], 'B')}, each other rank {plain_amount(kept['other_ranks'], 'B')}, "
        f"whole weights {plain_amount(kept['weights'], 'B')}; {kept['kept']} are kept and one more while it is written"
    )
    if "data" in plan:
        yield from _data_lines(plan["data"])
    if "compared" in plan:
        yield "\nMeasured beside the prediction, processor seconds of a rank's step"
        table = [("processes", "predicted", "measured", "ratio", "")]
        table += [
            (str(one["processes"]), f"{one['predicted_seconds']:.4g}", f"{one['measured_seconds']:.4g}", f"{one['ratio']:.2f}", f"within {WITHIN:.0%}" if is_close(one) else "NOT within")
            for one in plan["compared"]
        ]
        yield plain_table(table)


def is_close(compared: Mapping[str, float]) -> bool:
    """Whether the prediction is within `WITHIN` of the measurement."""
    return abs(compared["ratio"] - 1) <= WITHIN


def _data_lines(data: Mapping[str, Any]) -> Iterator[str]:
    each, whole = data["per_file"], data["in_all"]
    cost = f", at the price given {whole['cost']:.4g}" if whole["cost"] is not None else ""
    yield f"\nShards of {whole['files']} crawl files"
    yield (
        f"  a file: {each['core_hours']:.3g} core-hours, {each['documents']:.4g} documents, {plain_amount(each['shard_bytes'], 'B')} of shards, "
        f"{plain_amount(each['work_bytes'], 'B')} of temporary tables"
    )
    yield f"  a crawl: {data['per_crawl']['core_hours']:.4g} core-hours, {plain_amount(data['per_crawl']['documents'])} documents, {plain_amount(data['per_crawl']['shard_bytes'], 'B')}"
    yield f"  in all: {whole['core_hours']:.4g} core-hours{cost}, {plain_amount(whole['documents'])} documents, {plain_amount(whole['shard_bytes'], 'B')}; {duration(86400 * whole['days'])}, {data['documents_per_second']:.4g} documents/s"
