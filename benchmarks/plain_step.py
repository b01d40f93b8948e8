"""A training step of the model by itself, for timing: forward, backward and AdamW's update, in one process and without DeepSpeed.

    batches --> text loss per target + weight x contrastive loss of each batch --backward--> gradients --AdamW--> weights
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lcl.contrastive import Twins, contrastive_loss
from lcl.core.tokenizer import Tokenizer
from lcl.model import LCL
from lcl.objectives import LossConfig
from lcl.parameter_groups import parameter_groups
from lcl.rows import Batch
from lcl.train_config import TrainConfig


@dataclass(frozen=True)
class PlainModel:
    """A model with random weights and its optimiser, whose learning rate is 0: every step costs the same and sees the same weights."""

    model: LCL
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, config: TrainConfig, tokenizer: Tokenizer, device: torch.device) -> "PlainModel":
        """In fp32 on a CPU and in bf16 on a GPU, the optimiser's state too."""
        torch.manual_seed(config.seed)
        model = LCL.for_tokenizer(config.model, tokenizer).to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
        groups = parameter_groups(model, weight_decay=config.optimizer.weight_decay, layer_decay=config.optimizer.layer_decay)
        return cls(model, torch.optim.AdamW(groups, lr=0.0, betas=(config.optimizer.beta1, config.optimizer.beta2), eps=config.optimizer.epsilon))

    def step(self, batches: Sequence[Batch]) -> float:
        """One update from the gradients of all `batches`, which are on the model's device; returns the text loss in nats per target."""
        generation, contrast, _ = LossConfig().weights
        targets = sum(len(batch.predictors) for batch in batches)
        text_nats = 0.0
        for batch in batches:
            outputs = self.model(batch)
            twins = Twins(batch.image_ids, batch.context_ids)
            share = outputs.nll_sum / targets
            (generation * share + contrast * contrastive_loss(outputs.pooled, outputs.contexts, outputs.logit_scale, twins=twins)).backward()
            text_nats += share.detach()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(text_nats)


def the_device() -> torch.device:
    """The GPU where there is one, else the CPU with one thread: ranks and tests of others share its cores."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(1)
    return torch.device("cpu")


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes: by the wall clock on a GPU, with everything it started there done; on a CPU those of the processor.

    Processor time is what an idle core would take, and leaves out the time in which others had it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started
