"""What a pretraining run can be told, and named sets of it."""

from typing import Annotated, Literal

from pydantic import Field

from lcl.core.config import config
from lcl.core.tokenizer import TokenizerConfig
from lcl.loader import DataConfig
from lcl.model import ModelConfig, TextConfig, VisionConfig
from lcl.train_step import LossConfig

Positive = Annotated[int, Field(ge=1)]


@config
class OptimizerConfig:
    """AdamW with the values of the published code (params.py: betas, eps; its scripts: rate, decay, warm-up)."""

    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 2000
    weight_decay: Annotated[float, Field(ge=0)] = 0.2
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.98
    epsilon: Annotated[float, Field(gt=0)] = 1e-6
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this global norm; 0 leaves them."""


@config
class TrainConfig:
    output: str
    """Folder of the run; the same command again resumes it."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    row_length: Positive = 2048
    """Tokens in a packed row."""
    batch_rows: Positive = 256
    """Rows in a global batch."""
    micro_rows: Positive = 8
    """Rows that a rank holds at one time; the rest is accumulated, with the same gradient."""
    steps: Positive = 10_000
    """Optimiser steps of the whole run."""
    save_every: Positive = 500
    """Steps between checkpoints."""
    keep_checkpoints: Positive = 2
    """Newest checkpoints that are kept."""
    log_every: Positive = 10
    """Steps between lines for people; metrics.jsonl has every step."""
    precision: Literal["fp32", "bf16"] = "fp32"
    zero_stage: Literal[0, 1, 2] = 0
    """DeepSpeed ZeRO: what ranks share out (1 optimiser state, 2 gradients too)."""
    threads: Positive = 1
    """Threads of a rank on a CPU."""
    seed: Annotated[int, Field(ge=0)] = 0


# What may differ when a run is resumed: nothing here changes a number that training produces.
FREE_FIELDS = ("output", "data.shards", "data.num_workers", "save_every", "keep_checkpoints", "log_every", "threads", "micro_rows")

PRESETS: dict[str, TrainConfig] = {
    # Tests: seconds on one core.
    "toy": TrainConfig(
        output="outputs/toy",
        data=DataConfig(num_lanes=4, pack_window=4),
        model=ModelConfig(
            embed_width=32, pool_heads=2,
            vision=VisionConfig(image_px=32, patch_px=8, width=32, layers=1, head_width=16),
            text=TextConfig(context_length=192, width=32, layers=1, heads=2),
            tokenizer=TokenizerConfig(num_merges=500),
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
        row_length=192, batch_rows=4, micro_rows=2, steps=6, save_every=2, log_every=1,
    ),
    # The demo: minutes on two cores. Sizes were chosen by what the sample crawl's probe showed (docs/demo.md).
    "small": TrainConfig(
        output="outputs/small",
        data=DataConfig(num_lanes=16, pack_window=8),
        model=ModelConfig(
            embed_width=128, pool_heads=4,
            vision=VisionConfig(image_px=32, patch_px=8, width=128, layers=4, head_width=32),
            text=TextConfig(context_length=128, width=128, layers=2, heads=4, embedding_std=0.2),
            tokenizer=TokenizerConfig(num_merges=4000),
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50, weight_decay=0.1),
        row_length=128, batch_rows=16, micro_rows=8, steps=2000, save_every=250, log_every=50,
    ),
    # LCL_ViT-B-32_mmc4 of the published code: sizes from its model config, recipe from its script and params.py.
    "lcl_vit_b32_mmc4": TrainConfig(
        output="outputs/lcl_vit_b32_mmc4",
        model=ModelConfig(
            embed_width=512, pool_heads=8,
            vision=VisionConfig(image_px=224, patch_px=32, width=768, layers=12, head_width=64),
            text=TextConfig(context_length=2048, width=512, layers=12, heads=8),
        ),
        precision="bf16", zero_stage=1,
    ),
}
