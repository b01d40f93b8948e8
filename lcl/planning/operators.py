"""The operators of a training step, counted and not computed.

    config, a typical document --> micro-batch on fake tensors --forward, losses, backward, update--> Work of each part

Fake tensors have shapes and no numbers, so a model of any size is counted on a laptop, in seconds and without its memory. What is counted is
what a CPU would run: attention document by document. Sums of an operator's arithmetic and traffic are the two axes of the roofline
model (Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lcl.contrastive import Twins, contrastive_gradients
from lcl.estimate import Reading, activation_bytes
from lcl.model import LCL
from lcl.parameter_groups import parameter_groups
from lcl.rows import Batch
from lcl.train_config import TrainConfig

# By the start of an operator's name.
VIEWS = (
    "view", "_unsafe_view", "t", "transpose", "slice", "select", "split", "split_with_sizes", "unbind", "permute", "expand", "unsqueeze", "squeeze", "alias",
    "diagonal", "unfold", "as_strided", "lift_fresh",
)  # fmt: skip
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")
ATTENTION = "_scaled_dot_product"
NOT_RUN = ("prim", "detach")  # of fake tensors alone, or without work
ROWWISE = (  # each element takes an exponential, an error function or a mean over its row
    "gelu", "gelu_backward", "silu", "silu_backward", "exp", "log", "_log_softmax", "_log_softmax_backward_data", "_softmax", "_softmax_backward_data",
    "native_layer_norm", "native_layer_norm_backward", "sum", "pow", "rsqrt", "norm", "linalg_vector_norm", "mean",
)  # fmt: skip
LOOKUPS = ("embedding", "index", "index_select", "gather")  # read what they give, and not the whole table
CACHED_BYTES = 4 << 20  # an operator on less finds it in a cache


@dataclass(frozen=True)
class Work:
    """Sums over operators: how many run and how many only change a tensor's shape, floating-point operations of products and of attention, and bytes read and
    written by the rest. `fresh_bytes` are of memory that the process did not have before."""

    operators: float = 0.0
    views: float = 0.0
    product_flops: float = 0.0
    attention_flops: float = 0.0
    cached_bytes: float = 0.0
    streamed_bytes: float = 0.0
    rowwise_bytes: float = 0.0
    fresh_bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Work)))

    def times(self, factor: float) -> "Work":
        return Work(*(factor * getattr(self, field.name) for field in fields(Work)))


@dataclass(frozen=True)
class StepWork:
    """Parts of a step of one rank. Where a step has one micro-batch, its forward pass runs once, else once more for the features (lcl/train_step.py)."""

    forward: Work
    """Of one micro-batch."""
    backward: Work
    """Of one micro-batch."""
    losses: Work
    """The contrastive loss with its gradients, over the images of all micro-batches and ranks."""
    update: Work
    """AdamW over all parameters, with the norm of their gradients."""

    def of_step(self, accumulation: int) -> Work:
        return self.forward.times(accumulation + (accumulation if accumulation > 1 else 0)) + self.backward.times(accumulation) + self.losses + self.update


class Counter(TorchDispatchMode):
    """While it is entered, adds up the operators that PyTorch runs, those of the backward pass among them."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.name().partition("::")[2].partition(".")[0]
        if not function.name().startswith("prim") and name not in NOT_RUN:
            self.work = self.work + work_of(name, [*args], result)
        return result

    def take(self) -> Work:
        """What was counted since the last call."""
        work, self.work = self.work, Work()
        return work


def work_of(name: str, arguments: list[Any], result: Any) -> Work:
    """The work of one operator, from the shapes of its tensors."""
    if name in VIEWS:
        return Work(views=1)
    given, made = ([value for value in tree_leaves(values) if isinstance(value, Tensor)] for values in (arguments, result))
    written = sum(value.nbytes for value in made)
    if name in PRODUCTS:
        return Work(operators=1, product_flops=_product_flops(name, arguments, made))
    if name.startswith(ATTENTION):
        backward = "backward" in name
        query, key = given[1 if backward else 0], given[2 if backward else 1]
        # Two products forward and five backward, which makes the similarities again; an upper triangle is passed over only by whole blocks.
        return Work(operators=1, attention_flops=(10 if backward else 4) * query.numel() * key.shape[-2])
    read = written if name in LOOKUPS else sum(value.nbytes for value in given)
    touched = read + written
    if name in ROWWISE:
        return Work(operators=1, rowwise_bytes=touched)
    largest = max((value.nbytes for value in [*given, *made]), default=0) if name not in LOOKUPS else written
    return Work(operators=1, cached_bytes=touched) if largest < CACHED_BYTES else Work(operators=1, streamed_bytes=touched)


def _product_flops(name: str, arguments: list[Any], made: list[Tensor]) -> float:
    """A multiply-add is two."""
    if name.startswith("convolution"):
        # Patches do not overlap: each number of the output takes one product with the whole kernel. Backward: gradients of weights, and of pixels nobody asks.
        output = arguments[0] if name.endswith("backward") else made[0]
        weight = arguments[2] if name.endswith("backward") else arguments[1]
        return 2 * output.numel() * math.prod(weight.shape[1:])
    first, second = (arguments[1], arguments[2]) if name in ("addmm", "baddbmm") else (arguments[0], arguments[1])
    return 2 * first.numel() * second.shape[-1]


def count_step(config: TrainConfig, vocab_size: int, reading: Reading, *, documents: float, image_grid: tuple[int, int], ranks: int, accumulation: int) -> StepWork:
    """The work of one rank whose micro-batches hold `documents` documents each, all read as `reading`, with images of this grid."""
    with torch.device("meta"):
        model = LCL(config.model, vocab_size=vocab_size, regression=config.loss.regresses)
    with _fake_tensors():
        model.to_empty(device="cpu")
        batch = typical_batch(config, reading, documents=documents, image_grid=image_grid)
        counter = Counter()
        with counter:
            outputs = model(batch)
            forward = counter.take() + Work(fresh_bytes=_kept_bytes(config, vocab_size, batch))
            (outputs.nll_sum + outputs.regression_sum + outputs.pooled.sum() + outputs.contexts.sum() + outputs.logit_scale).backward()
            backward = counter.take()
            losses = _count_losses(counter, config, images=len(batch.positives) * accumulation, ranks=ranks)
            groups = parameter_groups(model, weight_decay=config.optimizer.weight_decay, layer_decay=config.optimizer.layer_decay)
            optimizer = torch.optim.AdamW(groups, lr=1.0)
            optimizer.step()  # makes the averages
            counter.take()
            if config.optimizer.clip_norm:
                torch.nn.utils.get_total_norm(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
            optimizer.step()
            update = counter.take()
    return StepWork(forward, backward, losses, update)


def _kept_bytes(config: TrainConfig, vocab_size: int, batch: Batch) -> float:
    """Bytes that the forward pass keeps for the backward one. The C library gives them back to the system between steps (mallopt(3), M_TRIM_THRESHOLD), so they are fresh in each."""
    vision_tokens = sum(rows * columns + (config.model.vision.kind == "vit") for rows, columns in batch.grids)
    return activation_bytes(config, vocab_size, text_tokens=batch.ids.numel(), vision_tokens=vision_tokens, targets=len(batch.predictors))


def _count_losses(counter: Counter, config: TrainConfig, *, images: int, ranks: int) -> Work:
    """Similarities of this rank's images with those of all, as `contrastive_gradients` takes them of one rank whose columns are as many times more."""
    width = config.model.embed_width
    features, identities = torch.zeros(images, width), torch.zeros(images, dtype=torch.int64)
    contrastive_gradients(features, features, torch.zeros(()), twins=Twins(identities, identities) if config.loss.mask_twins else None)
    work = counter.take()
    return Work(
        operators=work.operators, views=work.views, product_flops=ranks * work.product_flops, cached_bytes=ranks * work.cached_bytes,
        streamed_bytes=ranks * work.streamed_bytes, rowwise_bytes=ranks * work.rowwise_bytes,
    )  # fmt: skip


@contextmanager
def _fake_tensors() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def typical_batch(config: TrainConfig, reading: Reading, *, documents: float, image_grid: tuple[int, int]) -> Batch:
    """A micro-batch as `lcl.rows.collate` makes them, of `documents` documents laid out over its rows one after another; every number is 0."""
    model, rows = config.model, config.micro_rows
    parts = [length for _ in range(math.ceil(documents)) for length in reading.lengths][: max(1, round(documents * len(reading.lengths)))]
    lengths: list[list[int]] = [[] for _ in range(rows)]
    for part in sorted(parts, reverse=True):
        emptiest = min(lengths, key=sum)
        emptiest.append(min(part, config.row_length - sum(emptiest)))
    share = len(parts) / len(reading.lengths)
    images, slots, targets = (round(share * count) for count in (reading.images, reading.slots, reading.targets))
    height, width = image_grid
    patch_px = model.vision.tower().patch_px
    shape = (images, 3, height * patch_px, width * patch_px) if model.vision.kind == "vit" else (images, height * width, 3 * patch_px**2)

    def zeros(*size: int) -> Tensor:
        return torch.zeros(*size, dtype=torch.int64)

    return Batch(
        ids=zeros(rows, config.row_length), document_ids=zeros(rows, config.row_length), positions=zeros(rows, config.row_length),
        targets=zeros(rows, config.row_length), predictors=zeros(targets), images=torch.zeros(shape, dtype=torch.uint8), slots=zeros(slots), latent_index=zeros(slots),
        positives=zeros(images), contexts=zeros(images), image_ids=zeros(images), context_ids=zeros(images), grids=(image_grid,) * images,
        document_lengths=tuple(tuple(row) for row in lengths),
    )  # fmt: skip
