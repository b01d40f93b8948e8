"""Entry point: every figure that needs a GPU, in slices of time: the same command again continues with what is left.

    python benchmarks/gpu.py --output outputs/gpu --seconds 540

    table of jobs --each in a process of its own, in order, while there is time--> OUTPUT/NAME.json
A job whose JSON is there is done. One that was cut short starts again, and a training goes on from its own checkpoint.
On a machine without a GPU the same jobs run with --toy, in minutes and at sizes that say nothing about speed.
"""

import copy
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
from plain_step import the_device
from pydantic import Field
from synthetic_documents import DocumentsConfig, one_token_words, write_documents

from lcl.attention import AttentionPlan, document_attention, plan_attention
from lcl.commands import execute
from lcl.contrastive import Twins, contrastive_loss
from lcl.core.config import config, run_command
from lcl.core.files import read_json
from lcl.core.logs import read_metrics, set_up_logging
from lcl.core.tokenizer import Tokenizer
from lcl.distributed import process_group
from lcl.loader import RowLoader, RowSource
from lcl.measured import write_result
from lcl.model import LCL
from lcl.rows import SpecialIds, collate
from lcl.schedule import ScheduleConfig
from lcl.train_config import PRESETS, TrainConfig
from lcl.trainer import Training, train

log = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parent
TARGET_MFU = 0.45
MARGIN_SECONDS = 15.0  # for ending a job and saying what is left
EXAMPLE = (1003, 5, 640, 128, 1)  # lengths of documents in a row of the attention check: none, some and whole blocks of 128, and padding

# What a kernel's name says of its work; the first that matches. CUTLASS names its types in kernels of attention too.
KERNELS = (
    ("attention", r"flex_attention|triton_tem_|flash|fmha|attention"),
    ("matrix products", r"gemm|nvjet|cutlass|cublas|wgrad|dgrad|conv|aten::(add)?b?mm"),
    ("optimiser", r"multi_tensor|adam|foreach"),
    ("copies", r"memcpy|memset|copy"),
    ("norms, activations, losses and the rest", r""),
)


@config
class GpuConfig:
    output: str = "outputs/gpu"
    """Folder of the results, of the shards that they are measured on, and of the training run."""
    seconds: Annotated[float, Field(gt=0)] = 540.0
    """Seconds after which this command has ended, whatever is left."""
    toy: bool = False
    """Toy sizes, for a test of the whole table on any machine."""
    jobs: tuple[str, ...] = ()
    """Only these jobs; by default all, in the table's order."""
    crawl: tuple[str, ...] = ()
    """With these four the flagship chain (docs/flagship.md) is the last job: crawl files, ..."""
    labelled: str = ""
    """... labelled pictures, ..."""
    photographs: str = ""
    """... photographs, ..."""
    unseen: str = ""
    """... and others to measure on."""
    job: str = ""
    """One job, run in this process; the command starts itself with it."""


@dataclass(frozen=True)
class Variant:
    """A throughput run: `batch_rows` is what a step accumulates to, and more than `micro_rows` costs a second look at every batch."""

    preset: str
    micro_rows: int
    batch_rows: int
    compiled: bool

    @property
    def name(self) -> str:
        return f"throughput_{self.preset}_{self.micro_rows}_of_{self.batch_rows}" + ("_compiled" if self.compiled else "")


@dataclass(frozen=True)
class Sizes:
    """All that differs between the real table and the one that tests run."""

    documents: DocumentsConfig
    num_documents: int
    variants: tuple[Variant, ...]
    profiled: Variant
    warm_steps: int
    steps: int
    workers: int
    loader_workers: tuple[int, ...]
    loader_rows: int
    training: TrainConfig
    packings: Mapping[str, tuple[str, ...]]  # options of packing.py by the name of the job, likewise below
    growth: tuple[str, ...]
    contrastive: tuple[str, ...]
    toy: bool = False


def full_sizes() -> Sizes:
    b32, cores = "lcl_vit_b32_mmc4", os.cpu_count() or 1
    workers = [count for count in (1, 2, 4, 8, 16, 32) if count <= cores]  # they divide the presets' 64 lanes
    single = [Variant(b32, rows, rows, compiled) for rows in (32, 64, 8) for compiled in (True, False)]
    others = [Variant(preset, rows, rows, True) for preset, most in (("lcl_vit_b16_laion", 32), ("lcl_vit_l14", 16), ("modern", 16)) for rows in (most, most // 4)]
    recipe = replace(PRESETS[b32].optimizer, schedule=ScheduleConfig(warmup_steps=30))
    return Sizes(
        documents=DocumentsConfig(image_px=(640, 480)), num_documents=2000,
        variants=(*single, Variant(b32, 32, 256, True), *others), profiled=Variant(b32, 32, 32, True), warm_steps=5, steps=20,
        workers=min(16, workers[-1]), loader_workers=tuple(workers), loader_rows=256,
        training=replace(PRESETS[b32], batch_rows=64, micro_rows=32, steps=300, save_every=100, compile=True, optimizer=recipe),
        packings={"packing_3_to_6": (), "packing_3": ("--documents.images", "3", "--fill-documents", "0")},
        growth=("--parts", "row_length", "documents", "ranks"), contrastive=("--parts", "contrastive"),
    )  # fmt: skip


def toy_sizes() -> Sizes:
    packing = ("--model", "toy", "--rounds", "1", "--fill-documents", "40", "--windows", "4", "--lanes", "1")
    packing += ("--documents.text-tokens", "40", "--documents.images")
    lengths = ("--row-lengths", "64", "128", "--document-tokens", "64", "--row-length", "128", "--documents", "1", "2")
    return Sizes(
        documents=DocumentsConfig(text_tokens=40, images=(1, 2), image_px=(40, 30)), num_documents=40,
        variants=(Variant("toy", 2, 2, False), Variant("toy", 2, 4, False)), profiled=Variant("toy", 2, 2, False), warm_steps=1, steps=2,
        workers=0, loader_workers=(0,), loader_rows=8,
        training=replace(PRESETS["toy"], steps=30, save_every=10),
        packings={"packing_3_to_6": (*packing, "1", "2"), "packing_3": (*packing, "1")},
        growth=("--model", "toy", "--parts", "row_length", "--rounds", "1", *lengths),
        contrastive=("--model", "toy", "--parts", "contrastive", "--negatives", "64", "--plain-up-to", "1"),
        toy=True,
    )  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a job works, and what on."""

    folder: Path
    sizes: Sizes
    chain: tuple[str, ...] = ()
    """Options of the flagship chain, if there are inputs for it."""

    @property
    def shards(self) -> Path:
        return self.folder / "shards"


@dataclass(frozen=True)
class Job:
    """One line of the table: either `work`, or the command of another benchmark, which takes --output.

    It is not started with less than `seconds` left, and told to end `ending_seconds` before time is over; then it is killed.
    """

    name: str
    seconds: float
    work: Callable[[Place], dict[str, Any]] | None = None
    command: tuple[str, ...] = ()
    ending_seconds: float = 0.0


def table(sizes: Sizes, *, chain: bool) -> list[Job]:
    """All jobs, what matters most first; the seconds are guesses for an H200, and too few cost no more than a job that is cut short."""
    growth = str(FOLDER / "growth.py")
    packing, packing_3 = (Job(name, 90, command=(str(FOLDER / "packing.py"), *options)) for name, options in sizes.packings.items())
    throughput = [Job(variant.name, 60, lambda place, variant=variant: measure_throughput(place, variant)) for variant in sizes.variants]
    return [
        Job("shards", 60, write_shards),
        Job("attention", 60, check_attention),
        Job("gradients", 40, check_gradients),
        throughput[0],
        packing,
        Job("profile", 60, profile_kernels),
        Job("contrastive", 40, command=(growth, *sizes.contrastive)),
        *throughput[1:],
        Job("loader", 60, measure_loader),
        packing_3,
        Job("growth", 120, command=(growth, *sizes.growth)),
        Job("training", 90, train_on_noise, ending_seconds=40.0),
        *([Job("flagship", 120, run_flagship, ending_seconds=75.0)] if chain else []),
    ]


def chain_of(settings: GpuConfig) -> tuple[str, ...]:
    """The options that say the flagship chain's inputs; none without inputs. Raises ValueError where some of them are missing."""
    given = {"--crawl": settings.crawl, "--labelled": (settings.labelled,), "--photographs": (settings.photographs,), "--unseen": (settings.unseen,)}
    missing = [option for option, values in given.items() if not any(values)]
    if missing and len(missing) < len(given):
        raise ValueError(f"{', '.join(missing)}: the flagship chain needs {', '.join(given)}; give all of them, or none")
    return () if missing else tuple(word for option, values in given.items() for word in (option, *(str(Path(value).resolve()) for value in values)))


def main(settings: GpuConfig) -> None:
    started = time.monotonic()
    set_up_logging()
    if not settings.toy and not torch.cuda.is_available():
        raise ValueError("this machine has no CUDA GPU; --toy runs the table on a CPU, as a test")
    jobs = table(toy_sizes() if settings.toy else full_sizes(), chain=bool(chain_of(settings)))
    unknown = {*settings.jobs, settings.job} - {job.name for job in jobs} - {""}
    if unknown:
        raise ValueError(f"--jobs {', '.join(sorted(unknown))}: the table has {', '.join(job.name for job in jobs)}")
    if settings.job:
        run_here(next(job for job in jobs if job.name == settings.job), settings)
    else:
        run_table([job for job in jobs if not settings.jobs or job.name in settings.jobs], settings, started + settings.seconds - MARGIN_SECONDS)


def run_table(jobs: Sequence[Job], settings: GpuConfig, until: float) -> None:
    """Runs what is not done, while there is time, and prints what was found and what is left. Raises ValueError if a job failed."""
    folder = Path(settings.output)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    failed = []
    for job in jobs:
        log_path, left = folder / "logs" / f"{job.name}.log", until - time.monotonic()
        if (folder / f"{job.name}.json").exists() or left < (0 if settings.toy else job.seconds):
            continue
        log.info("%s, with %.0f s left", job.name, left)
        if run_command_until(command_of(job, settings), log_path, until, ending_seconds=job.ending_seconds) != 0:
            failed.append(job.name)
            log.warning("%s failed:\n%s", job.name, log_path.read_text()[-1500:])
    for job in jobs:
        if (folder / f"{job.name}.json").exists():
            log.info("%-55s %s", job.name, headline(read_json(folder / f"{job.name}.json")["measured"]))
    left_over = [job.name for job in jobs if not (folder / f"{job.name}.json").exists() and job.name not in failed]
    log.info("left: %s" if left_over else "nothing is left%s", ", ".join(left_over))
    if failed:
        raise ValueError(f"jobs failed: {', '.join(failed)}; {folder / 'logs'} says why, and the same command tries them again")


def command_of(job: Job, settings: GpuConfig) -> list[str]:
    if job.command:
        return [sys.executable, *job.command, "--output", str(Path(settings.output) / f"{job.name}.json")]
    return [sys.executable, str(Path(__file__).resolve()), "--output", settings.output, "--job", job.name, "--toy", str(settings.toy), *chain_of(settings)]


def run_command_until(command: Sequence[str], log_path: Path, until: float, *, ending_seconds: float) -> int:
    """The command's exit status; 0 also where it was ended because time ran out, with all that it had started."""
    with open(log_path, "ab") as log_file:
        process = subprocess.Popen(command, stdout=log_file, stderr=log_file, start_new_session=True)
    try:
        return process.wait(timeout=max(0.0, until - ending_seconds - time.monotonic()))
    except subprocess.TimeoutExpired:
        log.info("%s: out of time", log_path.stem)
        process.terminate()  # to itself alone: a training saves, for which it needs its workers
        try:
            process.wait(timeout=ending_seconds)
        except subprocess.TimeoutExpired:
            log.warning("%s did not end within %.0f s and is killed", log_path.stem, ending_seconds)
        return 0
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # results and checkpoints are files written aside: nothing is left half done
        except ProcessLookupError:
            pass  # nobody was left
        process.wait()


def headline(measured: Any, name: str = "") -> str:
    """The first numbers of a result; of a list those of its last entry."""
    if isinstance(measured, list):
        return headline(measured[-1], name) if measured else ""
    if isinstance(measured, Mapping):
        return ", ".join([part for key, value in measured.items() if (part := headline(value, key))][:6])
    return f"{name} {measured:.4g}" if isinstance(measured, float) else f"{name} {measured}"


def run_here(job: Job, settings: GpuConfig) -> None:
    """Runs a job's function and writes its result."""
    if job.work is None:
        raise ValueError(f"--job {job.name} is a benchmark of its own: {' '.join(map(str, job.command))}; say --jobs {job.name}")
    sizes, folder = toy_sizes() if settings.toy else full_sizes(), Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_result(folder / f"{job.name}.json", settings, job.work(Place(folder, sizes, chain_of(settings))))


def write_shards(place: Place) -> dict[str, Any]:
    """Makes the shards that throughput, loading and training are measured on: noise that is as large as photographs, as JPEG."""
    chosen, sizes = place.sizes.training, place.sizes
    tokenizer = Tokenizer(chosen.model.tokenizer)
    write_documents(
        place.shards, sizes.documents, num_documents=sizes.num_documents, row_length=chosen.row_length, slots=chosen.model.most_slots, tokenizer=tokenizer,
        threads=os.cpu_count() or 1,
    )  # fmt: skip
    tars = list(place.shards.glob("*.tar"))
    return {"documents": sizes.num_documents, "shards": len(tars), "bytes": sum(tar.stat().st_size for tar in tars)}


def check_attention(place: Place) -> dict[str, Any]:
    """Errors against attention in fp64, ||a - b|| / ||b|| of output and gradients: by blocks (compiled) and document by document, fp32 and bf16."""
    device = the_device()
    length = 2048 if device.type == "cuda" else sum(EXAMPLE) + 100
    lengths = [EXAMPLE, EXAMPLE[::-1]]
    ids = torch.zeros(2, length, dtype=torch.int64)
    for row, some in enumerate(lengths):
        ids[row, : sum(some)] = torch.repeat_interleave(torch.arange(1, len(some) + 1), torch.tensor(some))
    ids = ids.to(device)
    plain, fast = AttentionPlan(ids, lengths), plan_attention(ids, lengths)
    found: dict[str, Any] = {"blocks_are_used": fast.block_mask is not None}
    random = torch.Generator().manual_seed(0)
    for key_heads in (8, 4):
        drawn = [torch.randn(2, heads, length, 64, generator=random) for heads in (8, key_heads, key_heads, 8)]
        for dtype in (torch.float32, torch.bfloat16):
            given = [tensor.to(device, dtype) for tensor in drawn]
            exact = _attended([tensor.double() for tensor in given], plain)
            for name, plan in (("by_blocks", fast), ("by_document", plain)):
                errors = [_error(one, other) for one, other in zip(_attended(given, plan), exact, strict=True)]
                key = f"{name}_{str(dtype).removeprefix('torch.')}_{key_heads}_key_heads"
                found[key] = dict(zip(("output", "query_gradient", "key_gradient", "value_gradient"), errors, strict=True))
    return {"largest_fp32": _largest(found, "float32"), "largest_bf16": _largest(found, "bfloat16")} | found


def _attended(given: Sequence[torch.Tensor], plan: AttentionPlan) -> list[torch.Tensor]:
    """Output and gradients of query, key and value, with the fourth tensor as the gradient of the output."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in given[:3]]
    output = document_attention(*leaves, plan=plan)
    return [output.detach(), *torch.autograd.grad(output, leaves, given[3])]


def _error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


def _largest(found: Mapping[str, Any], kind: str) -> float:
    return max(value for key, errors in found.items() if f"_{kind}_" in key and key.startswith("by_blocks") for value in errors.values())


def check_gradients(place: Place) -> dict[str, Any]:
    """How far the gradients of one toy step on the device are from those on the CPU: ||a - b|| / ||b||, fp32 and bf16 against fp32."""
    device, chosen = the_device(), PRESETS["toy"]
    tokenizer = Tokenizer(chosen.model.tokenizer)
    folder = place.folder / "toy-shards"
    documents = DocumentsConfig(text_tokens=40, images=(1, 2))
    write_documents(folder, documents, num_documents=40, row_length=chosen.row_length, slots=chosen.model.most_slots, tokenizer=tokenizer)
    data = replace(chosen.data, shards=(str(folder),))
    rows = RowLoader(RowSource(data, chosen.model, chosen.row_length, 0, tokenizer=tokenizer), rank=0, world_size=1, batch_rows=4).take(4)
    batch = collate(rows, row_length=chosen.row_length, special=SpecialIds.of(tokenizer))
    torch.manual_seed(0)
    model = LCL.for_tokenizer(chosen.model, tokenizer)

    def gradients(where: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        there, given = copy.deepcopy(model).to(where, dtype), batch.to(where)
        outputs = there(given)
        twins = Twins(given.image_ids, given.context_ids)
        contrast = contrastive_loss(outputs.pooled, outputs.contexts, outputs.logit_scale, twins=twins)
        (outputs.nll_sum / len(batch.predictors) + contrast).backward()
        return {name: parameter.grad.to("cpu", torch.float64) for name, parameter in there.named_parameters()}

    expected = gradients(torch.device("cpu"), torch.float32)
    found: dict[str, Any] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        there = gradients(device, dtype)
        whole = [torch.cat([values[key].flatten() for key in expected]) for values in (there, expected)]
        errors = {key: _error(there[key], expected[key]) for key in expected if expected[key].norm() > 1e-4 * whole[1].norm()}  # no error of nothing
        worst = max(errors, key=lambda key: errors[key])
        found |= {f"{name}_error": _error(*whole), f"{name}_worst_error": errors[worst], f"{name}_worst_parameter": worst}
    return found


def training_steps(place: Place, variant: Variant) -> Iterator[dict[str, float]]:
    """The metrics of one step of the trainer after another, in a run of its own that is not kept and saves nothing."""
    chosen = PRESETS[variant.preset]
    data = replace(chosen.data, shards=(str(place.shards),), num_workers=place.sizes.workers)
    with TemporaryDirectory(dir=place.folder) as folder, process_group(threads=1) as ranks:
        run = replace(chosen, output=folder, data=data, micro_rows=variant.micro_rows, batch_rows=variant.batch_rows, compile=variant.compiled)
        training = Training(run, ranks)
        try:
            while True:
                began = time.perf_counter()
                given = training.batches.next()
                if isinstance(given, BaseException):
                    raise given
                yield training.train_step(given, began)
        finally:
            training.batches.stop()
            training.monitor.close()


def measure_throughput(place: Place, variant: Variant) -> dict[str, Any]:
    """Medians over the steps. `mfu` counts useful FLOPs and the whole step; `mfu_while_computing` leaves out the waiting for data."""
    device, sizes = the_device(), place.sizes
    shown = asdict(variant) | {"target_mfu": TARGET_MFU}
    steps = training_steps(place, variant)
    try:
        began = time.perf_counter()
        list(islice(steps, sizes.warm_steps))
        warm_seconds = time.perf_counter() - began
        measured = list(islice(steps, sizes.steps))
    except torch.OutOfMemoryError:
        return shown | {"out_of_memory": True}
    finally:
        steps.close()
    found: dict[str, Any] = {}
    if "mfu" in measured[0]:
        found["mfu"] = median(step["mfu"] for step in measured)
        found["mfu_while_computing"] = median(step["mfu"] / (1 - step["data_wait"]) for step in measured)
    for name in ("images_per_second", "tokens_per_second", "documents_per_second", "step_seconds", "fill"):
        found[name] = median(step[name] for step in measured)
    found |= {"data_wait": sum(step["data_wait"] for step in measured) / len(measured), "warm_up_seconds": warm_seconds, "workers": sizes.workers}
    if device.type == "cuda":
        found["most_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found | shown


def profile_kernels(place: Place) -> dict[str, Any]:
    """Where the device's time goes in steps of training: shares by kind of kernel and the longest kernels; the rest of the step it is idle."""
    device, variant = the_device(), place.sizes.profiled
    kinds = [torch.profiler.ProfilerActivity.CPU] + ([torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else [])
    steps = training_steps(place, variant)
    try:
        list(islice(steps, place.sizes.warm_steps))
        with torch.profiler.profile(activities=kinds) as profile:
            measured = list(islice(steps, 3))
    finally:
        steps.close()
    wanted = torch.autograd.DeviceType.CUDA if device.type == "cuda" else torch.autograd.DeviceType.CPU
    spent = {
        event.key: (event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total) / 1e6
        for event in profile.key_averages() if event.device_type == wanted
    }  # fmt: skip
    total, wall = sum(spent.values()), sum(step["step_seconds"] for step in measured)
    shares: dict[str, float] = {kind: 0.0 for kind, _ in KERNELS}
    for key, seconds in spent.items():
        shares[next(kind for kind, pattern in KERNELS if re.search(pattern, key, re.IGNORECASE))] += seconds / total
    longest = sorted(spent, key=lambda key: -spent[key])[:30]
    return {
        "busy": total / wall, "step_seconds": wall / len(measured), "variant": variant.name, "shares": shares,
        "longest": [{"kernel": key[:160], "share": spent[key] / total} for key in longest],
    }  # fmt: skip


def measure_loader(place: Place) -> dict[str, Any]:
    """Images and rows per second of the loader alone, by its number of worker processes."""
    chosen, sizes = place.sizes.training, place.sizes
    tokenizer = Tokenizer(chosen.model.tokenizer)
    found = []
    for workers in sizes.loader_workers:
        data = replace(chosen.data, shards=(str(place.shards),), num_workers=workers)
        source = RowSource(data, chosen.model, chosen.row_length, chosen.seed, tokenizer=tokenizer)
        loader = RowLoader(source, rank=0, world_size=1, batch_rows=sizes.loader_rows)
        loader.take(max(data.num_lanes, 4 * workers))  # workers start, and every lane fills its window
        started = time.perf_counter()
        rows = loader.take(sizes.loader_rows)
        seconds = time.perf_counter() - started
        images = sum(len(row.images) for row in rows)
        found.append({"workers": workers, "images_per_second": images / seconds, "rows_per_second": len(rows) / seconds})
        log.info("%d workers: %.0f images/s", workers, found[-1]["images_per_second"])
    best = max(found, key=lambda one: one["images_per_second"])
    return {"most_images_per_second": best["images_per_second"], "with_workers": best["workers"], "by_workers": found}


def train_on_noise(place: Place) -> dict[str, Any]:
    """Loss of a training run from the shards, which goes on from its last checkpoint when this job is started again.

    The words are drawn at random, each as often, so a model that trains as it should comes down to their entropy, the logarithm of how
    many there are, and below it only by learning the documents by heart. SystemExit where the run was told to end before its last step.
    """
    data = replace(place.sizes.training.data, shards=(str(place.shards),), num_workers=place.sizes.workers)
    chosen = replace(place.sizes.training, data=data, output=str(place.folder / "training"))
    with process_group(threads=1) as ranks:
        train(chosen, ranks)
    if not read_json(Path(chosen.output) / "status.json")["finished"]:
        sys.exit(0)
    lines = read_metrics(Path(chosen.output) / "metrics.jsonl")
    num_words = len(one_token_words(Tokenizer(chosen.model.tokenizer)))
    return {
        "first_text_nats": lines[0]["train/text_nats"], "last_text_nats": median(line["train/text_nats"] for line in lines[-10:]),
        "entropy_of_words_nats": math.log(num_words), "steps": chosen.steps, "tokens_per_second": median(line["train/tokens_per_second"] for line in lines),
        "text_nats": [[line["step"], line["train/text_nats"]] for line in lines[:: max(1, len(lines) // 50)]],
    }  # fmt: skip


def run_flagship(place: Place) -> dict[str, Any]:
    """Seconds of each stage of the flagship chain, which goes on with what is left when this job is started again."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the chain is told, and saves
    output = place.folder.resolve() / "flagship"
    execute([sys.executable, "downstream/flagship.py", *place.chain, "--output", output, "--scale", "toy" if place.sizes.toy else "full"])
    seconds = {path.stem: read_json(path)["seconds"] for path in sorted((output / "stages").glob("*.json"))}
    return {"minutes": sum(seconds.values()) / 60, "seconds": seconds}


if __name__ == "__main__":
    run_command(GpuConfig, main, description=__doc__.splitlines()[0])
