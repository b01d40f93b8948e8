"""How fast this machine is at what training is made of; a training step is not among it.

    products of matrices, attention, memory, operators on next to nothing --timed one by one--> Calibration
    two processes with gloo (lcl/planning/all_reduce_rank.py) --timed--> its all-reduce rates

Seconds are of the processor, the fewest of several trials: what an idle core would take, whatever else the machine does (docs/benchmarks.md
has its steps in them, too). For one thread on a CPU; of a GPU the data sheet and an assumed utilisation are taken (lcl/planning/machines.py).
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from lcl.attention import plan_attention
from lcl.core.config import config
from lcl.core.files import read_json
from lcl.planning.operators import Counter, Work
from lcl.text import Blocks

TRIAL_SECONDS = 0.25  # of each quantity: longer trials do not lower the fewest
PRODUCT_SIDE, PRODUCT_ROWS = 256, 1024
CACHED, STREAMED = 1 << 16, 1 << 22  # numbers in fp32: of an L2 cache, and of none that we know
LATENCY_BYTES, RATE_BYTES = 1 << 10, 16 << 20  # of all-reduces
NUM_SMALL, NUM_LARGE = 200, 10  # of them
RANK_SECONDS = 300.0  # until the two processes have given their rates


@config
class Calibration:
    """Rates of one thread, and of two processes on this machine."""

    product_flops: float
    """FLOP/s of products of matrices in fp32."""
    attention_flops: float
    """FLOP/s of attention, forward and backward."""
    cached_bytes: float
    """Bytes per second of a sum of two tensors that a cache holds, its result counted."""
    streamed_bytes: float
    """The same of tensors that it does not hold."""
    rowwise_bytes: float
    """The same of what takes an exponential for each number: a softmax."""
    fresh_bytes: float
    """Bytes per second of writing memory that the process did not have before."""
    operator_seconds: float
    """Of an operator on next to nothing, with its part of the backward pass and of Python."""
    view_seconds: float
    """Of one that only changes a shape."""
    all_reduce_seconds: float
    """Of an all-reduce of `LATENCY_BYTES` between two processes."""
    all_reduce_bytes: float
    """Bytes of a tensor per second of an all-reduce between two processes."""

    def seconds_of(self, work: Work) -> float:
        """Seconds that one thread takes for the work: its operators one after another, each bound by what it does most of."""
        return (
            work.product_flops / self.product_flops + work.attention_flops / self.attention_flops + work.cached_bytes / self.cached_bytes
            + work.streamed_bytes / self.streamed_bytes + work.rowwise_bytes / self.rowwise_bytes + work.fresh_bytes / self.fresh_bytes
            + work.operators * self.operator_seconds + work.views * self.view_seconds
        )  # fmt: skip


def fewest_seconds(work: Callable[[], object], *, times: int = 1) -> float:
    """Processor seconds of one call of `work`, which is called `times` times in each trial; the fewest of all trials in `TRIAL_SECONDS`, and of three at least."""
    work()
    found: list[float] = []
    while len(found) < 3 or sum(found) * times < TRIAL_SECONDS:
        started = time.process_time()
        for _ in range(times):
            work()
        found.append((time.process_time() - started) / times)
    return min(found)


def calibrate() -> Calibration:
    """The rates of this machine, in some ten seconds. Raises ValueError if two processes cannot talk to each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    try:
        rows, square = draw(PRODUCT_ROWS, PRODUCT_SIDE), draw(PRODUCT_SIDE, PRODUCT_SIDE)
        few, one, other, result = draw(CACHED), draw(STREAMED), draw(STREAMED), torch.empty(STREAMED)
        streamed_seconds = fewest_seconds(lambda: torch.add(one, other, out=result))
        fresh_seconds = fewest_seconds(lambda: torch.zeros(4, STREAMED).add_(1.0)) - 4 * streamed_seconds  # 64 MB
        view = fewest_seconds(lambda: few.view(-1, 64), times=1000)
        all_reduce_seconds, all_reduce_bytes = _all_reduce_rates()
        return Calibration(
            product_flops=2 * rows.numel() * PRODUCT_SIDE / fewest_seconds(lambda: rows @ square),
            attention_flops=_attention_rate(draw),
            cached_bytes=12 * CACHED / fewest_seconds(lambda: few + few, times=10),
            streamed_bytes=12 * STREAMED / streamed_seconds,
            rowwise_bytes=8 * CACHED / fewest_seconds(lambda: functional.log_softmax(few.view(-1, 256), dim=1), times=10),
            fresh_bytes=16 * STREAMED / max(fresh_seconds, 1e-9),
            operator_seconds=_operator_seconds(view, draw),
            view_seconds=view, all_reduce_seconds=all_reduce_seconds, all_reduce_bytes=all_reduce_bytes,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)


def _attention_rate(draw: Callable[..., torch.Tensor]) -> float:
    """FLOP/s of attention over 128 places in 4 heads of 32, forward and backward, as `work_of` counts them."""
    query = draw(1, 4, 128, 32).requires_grad_()

    def work() -> None:
        functional.scaled_dot_product_attention(query, query, query, is_causal=True).sum().backward()

    with Counter() as counter:
        work()
    return counter.work.attention_flops / fewest_seconds(work, times=20)


def _operator_seconds(view_seconds: float, draw: Callable[..., torch.Tensor]) -> float:
    """Of a decoder's blocks so narrow that their arithmetic takes no time."""
    blocks = Blocks(width=8, layers=4, heads=2)
    for parameter in blocks.parameters():
        nn.init.normal_(parameter, std=0.1)
    hidden, plan = draw(1, 4, 8), plan_attention(torch.ones(1, 4, dtype=torch.int64), ((4,),))

    def work() -> None:
        blocks(hidden, plan).sum().backward()

    with Counter() as counter:
        work()
    return (fewest_seconds(work, times=5) - counter.work.views * view_seconds) / counter.work.operators


def _all_reduce_rates() -> tuple[float, float]:
    """Processor seconds of an all-reduce of next to nothing, and bytes per second of a large one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "rates.json"
        shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "lcl.planning.all_reduce_rank", str(answer), *map(str, (LATENCY_BYTES, NUM_SMALL, RATE_BYTES, NUM_LARGE))]
        ranks = [
            subprocess.Popen(command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for rank in range(2)
        ]
        try:
            said = [process.communicate(timeout=RANK_SECONDS)[1] for process in ranks]
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"two processes on this machine did not reduce a tensor together within {RANK_SECONDS:.0f} s; `lcl doctor` says more") from error
        finally:
            for process in ranks:
                process.kill()
        if not answer.exists():
            raise ValueError(f"two processes on this machine cannot reduce a tensor together; `lcl doctor` says more. {said[0].strip()[-500:]}")
        small, large = read_json(answer)
    return small, RATE_BYTES / max(large - small, 1e-9)

