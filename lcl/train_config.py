"""What a pretraining run can be told, and named sets of it."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from lcl.alarms import CollapseConfig, SpikeConfig
from lcl.core.config import config
from lcl.core.tokenizer import TokenizerConfig
from lcl.engine import EngineConfig
from lcl.layout import LayoutConfig
from lcl.loader import DataConfig
from lcl.model import ModelConfig
from lcl.objectives import LossConfig
from lcl.schedule import ScheduleConfig
from lcl.start import StartConfig
from lcl.text import TextConfig
from lcl.validation import ValidationConfig
from lcl.vision import VisionConfig

Positive = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(ge=0, lt=1)]


@config
class OptimizerConfig:
    """AdamW with the values of the published code (params.py: betas, eps; its scripts: rate, decay, warm-up)."""

    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    schedule: ScheduleConfig = ScheduleConfig()
    weight_decay: Annotated[float, Field(ge=0)] = 0.2
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate from each layer of the vision tower to the one below; 1: none."""
    beta1: Ratio = 0.9
    beta2: Ratio = 0.98
    epsilon: Annotated[float, Field(gt=0)] = 1e-6
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this global norm; 0 leaves them."""
    ema_decay: Ratio = 0.0
    """Decay per step of the moving average of weights (ema.safetensors); 0: none is kept."""
    ema_every: Positive = 10
    """Steps between updates of the moving average, each with decay ema_decay ** ema_every."""


@config
class TrainConfig:
    output: str
    """Folder of the run; the same command again resumes it."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    engine: EngineConfig = EngineConfig()
    start: StartConfig = StartConfig()
    validation: ValidationConfig = ValidationConfig()
    spikes: SpikeConfig = SpikeConfig()
    collapse: CollapseConfig = CollapseConfig()
    frozen: tuple[str, ...] = ()
    """Parts of the model that are not trained, by the start of their parameters' names (visual, text.transformer, ...)."""
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
    save_minutes: Annotated[float, Field(ge=0)] = 30.0
    """Minutes after which there is one in between, for jobs that end without a warning; 0: only by steps."""
    keep_checkpoints: Positive = 2
    """Newest checkpoints that are kept."""
    mirror: str = ""
    """Address of an object store (s3://bucket/run) where checkpoints are put too, meanwhile; another machine continues from there."""
    log_every: Positive = 10
    """Steps between lines for people; metrics.jsonl has every step."""
    recompute_every: Annotated[int, Field(ge=0)] = 0
    """Activation checkpointing: every n-th block of both towers is computed again in the backward pass; 0: none, 1: all."""
    compile: bool = False
    """Compile the blocks of both towers with torch.compile; on a CPU those of the vision tower."""
    wandb: str = ""
    """Project on Weights & Biases that metrics also go to (pip install wandb); empty: none."""
    scratch: str = ""
    """Folder on each machine where checkpoints are first written; empty: the system's for temporary files."""
    threads: Positive = 1
    """Threads of a rank on a CPU."""
    collective_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Seconds after which ranks give a collective up that one of them does not come to, and say which. More than the slowest validation and save take on one rank alone."""
    seed: Annotated[int, Field(ge=0)] = 0


# What may differ when a run is resumed: nothing here changes weights.
FREE_FIELDS = (
    "output", "data.shards", "data.cache", "data.num_workers", "save_every", "save_minutes", "keep_checkpoints", "mirror", "log_every", "threads", "micro_rows", "recompute_every", "wandb", "scratch", "collective_seconds",
    "model.tokenizer.file", "data.max_damaged", "validation.", "collapse.",  # a point at the end: all below it
    "engine.deepspeed", "engine.zero_stage", "engine.precision",  # the checkpoint refuses others of the last two, with the cure
)  # fmt: skip

LCL_VIT_B32_MMC4 = TrainConfig(  # LCL_ViT-B-32_mmc4 of the published code: sizes from its model config, recipe from its script and params.py
    output="outputs/lcl_vit_b32_mmc4",
    data=DataConfig(layout=LayoutConfig(max_images=6)),
    model=ModelConfig(
        embed_width=512, pool_heads=8,
        vision=VisionConfig(image_px=224, patch_px=32, width=768, layers=12, head_width=64),
        text=TextConfig(context_length=2048, width=512, layers=12, heads=8),
    ),
    engine=EngineConfig(precision="bf16", zero_stage=1),
)  # fmt: skip
LCL_VIT_B16_LAION = TrainConfig(  # LCL_ViT-B-16_laion, likewise; its rows hold 280 tokens, here several in a longer one
    output="outputs/lcl_vit_b16_laion",
    model=ModelConfig(
        embed_width=768, pool_heads=12,
        vision=VisionConfig(image_px=224, patch_px=16, width=768, layers=12, head_width=64),
        text=TextConfig(context_length=280, width=768, layers=12, heads=12),
    ),
    optimizer=OptimizerConfig(learning_rate=5e-4),
    engine=EngineConfig(precision="bf16", zero_stage=1),
)  # fmt: skip
LCL_VIT_L14 = TrainConfig(  # no config was published; sizes of open_clip's ViT-L-14 (both towers), the rest as for ViT-B/16
    output="outputs/lcl_vit_l14",
    model=ModelConfig(
        embed_width=768, pool_heads=12,
        vision=VisionConfig(open_clip="ViT-L-14"),
        text=TextConfig(context_length=2048, width=768, layers=12, heads=12),
    ),
    optimizer=OptimizerConfig(learning_rate=5e-4),
    engine=EngineConfig(precision="bf16", zero_stage=1),
    micro_rows=4, recompute_every=2,
)  # fmt: skip
MODERN = TrainConfig(
    # Parts of later work: NaFlex at 256 patches (SigLIP 2, arXiv:2502.14786), a Qwen3 decoder (arXiv:2505.09388: grouped queries,
    # norms of queries and keys), 64 learned latents an image (as many as Qwen-VL's 256 per 4 times the patches, arXiv:2308.12966),
    # WSD (arXiv:2404.06395), a moving average of weights. Not tried at scale.
    output="outputs/modern",
    model=ModelConfig(
        embed_width=768, pool_heads=12, image_latents=64,
        vision=VisionConfig(kind="naflex", patch_px=16, width=768, layers=12, head_width=64, max_patches=256),
        text=TextConfig(kind="qwen3", context_length=4096, width=768, layers=12, heads=12, key_heads=4, rope_theta=1_000_000.0),
    ),
    optimizer=OptimizerConfig(learning_rate=5e-4, beta2=0.95, schedule=ScheduleConfig(kind="wsd"), ema_decay=0.9998),
    engine=EngineConfig(precision="bf16", zero_stage=1),
    row_length=4096, micro_rows=4,
)  # fmt: skip


def toy_twin(full: TrainConfig, name: str) -> TrainConfig:
    """The same kinds of parts, objective and schedule at a size for tests: seconds on one core."""
    model, text, vision = full.model, full.model.text, full.model.vision
    layers = max(1, vision.tower().layers // 12)
    return replace(
        full,
        output=f"outputs/{name}",
        data=replace(full.data, num_lanes=4, pack_window=4),
        model=replace(
            model, embed_width=32, pool_heads=2, image_latents=model.image_latents and 6,
            vision=VisionConfig(kind=vision.kind, image_px=32, patch_px=8, width=32, layers=layers, head_width=16, max_patches=20),
            text=replace(text, context_length=min(192, text.context_length // 4), width=32, layers=layers, heads=2, key_heads=text.key_heads and 1),
            tokenizer=TokenizerConfig(num_merges=500),
        ),
        optimizer=replace(full.optimizer, learning_rate=1e-3, schedule=replace(full.optimizer.schedule, warmup_steps=2), ema_every=1),
        engine=replace(full.engine, precision="fp32", zero_stage=0),
        row_length=192, batch_rows=4, micro_rows=2, steps=6, save_every=2, log_every=1,
    )  # fmt: skip


PRESETS: dict[str, TrainConfig] = {
    "lcl_vit_b32_mmc4": LCL_VIT_B32_MMC4,
    "lcl_vit_b16_laion": LCL_VIT_B16_LAION,
    "lcl_vit_l14": LCL_VIT_L14,
    "modern": MODERN,
    # Minutes on two cores. Sizes were chosen by what the sample crawl's probe showed (docs/demo.md).
    "small": TrainConfig(
        output="outputs/small",
        data=DataConfig(num_lanes=16, pack_window=8),
        model=ModelConfig(
            embed_width=128, pool_heads=4,
            vision=VisionConfig(image_px=32, patch_px=8, width=128, layers=4, head_width=32),
            text=TextConfig(context_length=128, width=128, layers=2, heads=4, embedding_std=0.2),
            tokenizer=TokenizerConfig(num_merges=4000),
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule=ScheduleConfig(warmup_steps=50), weight_decay=0.1),
        row_length=128, batch_rows=16, micro_rows=8, steps=2000, save_every=250, log_every=50,
    ),
    # Half an hour on one core, on pages composed of labelled photographs (docs/results.md).
    "photo_pages": TrainConfig(
        output="outputs/photo_pages",
        data=DataConfig(num_lanes=16, pack_window=32, layout=LayoutConfig(crop_scale=(0.25, 1.0), flip=0.5)),
        model=ModelConfig(
            embed_width=64, pool_heads=2, image_latents=4, pool_std=0.12,
            vision=VisionConfig(image_px=32, patch_px=4, width=64, layers=2, head_width=32),
            text=TextConfig(kind="llama", context_length=512, width=64, layers=2, heads=2, embedding_std=0.2),
            tokenizer=TokenizerConfig(num_merges=1000),
        ),
        optimizer=OptimizerConfig(learning_rate=2e-3, schedule=ScheduleConfig(warmup_steps=50), weight_decay=0.1),
        row_length=512, batch_rows=4, micro_rows=4, steps=12_000, save_every=2000, log_every=100,
    ),
    "toy": toy_twin(LCL_VIT_B32_MMC4, "toy"),
    "lcl_vit_b16_laion_toy": toy_twin(LCL_VIT_B16_LAION, "lcl_vit_b16_laion_toy"),
    "lcl_vit_l14_toy": toy_twin(LCL_VIT_L14, "lcl_vit_l14_toy"),
    "modern_toy": toy_twin(MODERN, "modern_toy"),
}  # fmt: skip
