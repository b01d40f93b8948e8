"""The LCL model (Yang et al., NeurIPS 2024, arXiv:2406.07543): a vision encoder read by a causal language model.

    images --tower--> patch tokens --+--> learned query attends --> pooled latent ---------------------+
                                     +--> same value and output projections, per token --> latents     |  contrastive
    ids ----embedding--> latents put into the image slots --> causal transformer --+-- at <soi> --> context vector
                                                                                   +-- elsewhere --> next token
Parameter names of the `vit` tower and the `clip` decoder are those of the published checkpoints (open_clip's layout).
"""

import math
from typing import Annotated, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lcl.build_tower import build_tower
from lcl.core.config import config
from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.losses import text_nll_sum
from lcl.rows import Batch
from lcl.text import Read, TextConfig, at_places, build_head, build_text
from lcl.vision import Grids, VisionConfig, normalise, valid_patches

Positive = Annotated[int, Field(ge=1)]

MAX_LOGIT_SCALE = math.log(100)  # Radford et al. 2021


@config
class ModelConfig:
    embed_width: Positive = 512
    """Width of the contrastive space; the pooled latent has it, so it is also the width of the language model."""
    pool_heads: Positive = 8
    image_latents: Annotated[int, Field(ge=0)] = 0
    """Latents that an image gives to the language model: 0 for one per patch (published), n for n learned queries over them."""
    pool_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the pooling's projections at the start (published: 0.02, at width 768). Latents grow with its square and the width: narrow models need more for them to be as large as words."""
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()

    def check(self) -> None:
        """Raises ValueError for sizes that do not fit together."""
        self.vision.check()
        self.text.check()
        if self.embed_width % self.pool_heads:
            raise ValueError(f"model.embed_width is no multiple of model.pool_heads ({self.embed_width} and {self.pool_heads})")
        if self.embed_width != self.text.width:
            raise ValueError(f"model.embed_width ({self.embed_width}) must equal model.text.width ({self.text.width}): latents enter the language model")

    def slots_of(self, grid: tuple[int, int]) -> int:
        """Places that an image of this grid takes in a row."""
        return self.image_latents or grid[0] * grid[1]

    @property
    def most_slots(self) -> int:
        return self.image_latents or self.vision.most_patches


class Latents(NamedTuple):
    """What the encoder makes of images: one pooled latent each, and those that enter the language model."""

    pooled: Float[Tensor, "images embed"]
    tokens: Float[Tensor, "images slots embed"]


class CrossAttention(nn.Module):
    """Projections of the pooling; biases stand beside the weights as in the published checkpoints."""

    def __init__(self, input_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(input_width, width, bias=False) for _ in range(3))
        self.q_bias, self.k_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(3))
        self.proj = nn.Linear(width, width, bias=False)

    def forward(
        self, queries: Float[Tensor, "1 n width"], keys: Float[Tensor, "images patches width"], values: Float[Tensor, "images patches width"],
        valid: Bool[Tensor, "images patches"] | None,
    ) -> tuple[Float[Tensor, "images n embed"], Float[Tensor, "images patches embed"]]:
        """What each query attends to, and every value through the same two projections alone."""
        projected = self.v(values) + self.v_bias
        attended = functional.scaled_dot_product_attention(
            *(
                rearrange(tensor, "images n (heads w) -> images heads n w", heads=self.heads)
                for tensor in ((self.q(queries) + self.q_bias).expand(keys.shape[0], -1, -1), self.k(keys) + self.k_bias, projected)
            ),
            attn_mask=None if valid is None else rearrange(valid, "images patches -> images 1 1 patches"),
        )
        return self.proj(rearrange(attended, "images heads n w -> images n (heads w)")), self.proj(projected)


class Pooler(nn.Module):
    def __init__(self, input_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.norm1_q, self.norm1_k, self.norm1_v = (nn.LayerNorm(input_width) for _ in range(3))
        self.cross_attn = CrossAttention(input_width, width, heads)

    def forward(
        self, queries: Float[Tensor, "1 n width"], patches: Float[Tensor, "images patches width"], valid: Bool[Tensor, "images patches"] | None
    ) -> tuple[Float[Tensor, "images n embed"], Float[Tensor, "images patches embed"]]:
        return self.cross_attn(self.norm1_q(queries), self.norm1_k(patches), self.norm1_v(patches), valid)


class PoolProject(nn.Module):
    """A learned query over the patch tokens makes the pooled latent; the tokens go through its value and output projections.

    With `image_latents`, as many more queries make what enters the language model instead.
    """

    def __init__(self, input_width: int, width: int, heads: int, image_latents: int) -> None:
        super().__init__()
        self.query_token = nn.Parameter(torch.empty(1, 1, input_width))
        self.latent_queries = nn.Parameter(torch.empty(1, image_latents, input_width)) if image_latents else None
        self.pooler = Pooler(input_width, width, heads)

    @torch.no_grad()
    def initialise(self, std: float) -> None:
        """Queries of deviation 1, as published, and projections of deviation `std`."""
        for query in (self.query_token, self.latent_queries):
            if query is not None:
                nn.init.normal_(query, std=1.0)
        cross = self.pooler.cross_attn
        for linear in (cross.q, cross.k, cross.v, cross.proj):
            nn.init.trunc_normal_(linear.weight, std=std)

    def forward(self, patches: Float[Tensor, "images patches width"], valid: Bool[Tensor, "images patches"] | None) -> Latents:
        queries = self.query_token if self.latent_queries is None else torch.cat([self.query_token, self.latent_queries], dim=1)
        attended, tokens = self.pooler(queries, patches, valid)
        return Latents(pooled=attended[:, 0], tokens=tokens if self.latent_queries is None else attended[:, 1:])


class Outputs(NamedTuple):  # a tuple, for ZeRO 3 looks for tensors in what modules return
    """What training takes from one batch. Vectors are not normalised; `logit_scale` is the parameter as part of the graph."""

    nll_sum: Float[Tensor, ""]
    regression_sum: Float[Tensor, ""]
    pooled: Float[Tensor, "positives embed"]
    contexts: Float[Tensor, "positives embed"]
    logit_scale: Float[Tensor, ""]


class LCL(nn.Module):
    def __init__(self, settings: ModelConfig, *, vocab_size: int, regression: bool = False) -> None:
        """With `regression`, a head that predicts the next latent of an image. Raises ValueError if the sizes do not fit together."""
        super().__init__()
        settings.check()
        self.settings = settings
        self.visual = build_tower(settings.vision)
        self.pool_project = PoolProject(settings.vision.tower().width, settings.embed_width, settings.pool_heads, settings.image_latents)
        self.text = build_text(settings.text, vocab_size, settings.embed_width)
        self.lm_head = build_head(settings.text, vocab_size)
        self.regression_head = nn.Sequential(nn.LayerNorm(settings.text.width), nn.Linear(settings.text.width, settings.embed_width)) if regression else None
        self.logit_scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)]))  # one axis: DeepSpeed cannot broadcast a tensor without
        self.register_load_state_dict_pre_hook(_accept_published_scale)
        self.pool_project.initialise(settings.pool_std)

    @classmethod
    def for_tokenizer(cls, settings: ModelConfig, tokenizer: Tokenizer, *, regression: bool = False) -> "LCL":
        return cls(settings, vocab_size=tokenizer.vocab_size, regression=regression)

    def encode_images(self, images: Float[Tensor, "images ..."], grids: Grids) -> Latents:
        """Latents of normalised images of these grids."""
        patches = self.visual(images, grids)
        return self.pool_project(patches, valid_patches(grids, patches.shape[1], patches.device))

    def forward(self, batch: Batch) -> Outputs:
        """The sum of next-token losses of packed rows, with pooled latents and context vectors of their images."""
        read, latents = self.read_rows(batch, normalise(batch.images, dtype=self.logit_scale.dtype))
        return Outputs(
            nll_sum=text_nll_sum(read.hidden, batch.targets, batch.predictors, self.lm_head),
            regression_sum=self._regression(batch, read.hidden, latents),
            pooled=latents.pooled[batch.positives],
            contexts=read.contexts,
            logit_scale=self.temperature(),
        )

    def read_rows(self, batch: Batch, images: Float[Tensor, "images ..."]) -> tuple[Read, Latents]:
        """What the language model makes of rows whose image slots hold the latents of (normalised) `images`, and those latents."""
        if batch.grids:
            latents = self.encode_images(images, batch.grids)
            chosen = rearrange(latents.tokens, "images slots embed -> (images slots) embed")[batch.latent_index]
            return self.text(batch, chosen), latents
        # A dummy image, times zero: every parameter takes part on every rank, so collectives stay in step.
        pixels, grids = self.visual.dummy()
        dummy = self.encode_images(normalise(pixels.to(images.device), dtype=images.dtype), grids)
        read = self.text(batch, dummy.tokens[:0, 0])
        nothing = 0.0 * (dummy.tokens.sum() + dummy.pooled.sum())
        return Read(read.hidden + nothing, read.contexts), Latents(dummy.pooled[:0], dummy.tokens[:0])

    def read_text(self, batch: Batch) -> Float[Tensor, "contexts embed"]:
        """Context vectors at the batch's `contexts`, of rows without images."""
        return self.text(batch, self.logit_scale.new_zeros(0, self.settings.embed_width)).contexts

    def _regression(self, batch: Batch, hidden: Float[Tensor, "rows length width"], latents: Latents) -> Float[Tensor, ""]:
        """Sum over image slots of the mean squared error of the latent predicted from the place before (Emu, Sun et al. 2023).

        No gradient is stopped at the target, so a constant latent is optimal: the collapse that LCL avoids (arXiv:2406.07543, Table 1).
        """
        if self.regression_head is None:
            return hidden.new_zeros(())
        predicted = self.regression_head(at_places(hidden, batch.slots - 1)).float()
        wanted = rearrange(latents.tokens, "images slots embed -> (images slots) embed")[batch.latent_index].float()
        return (predicted - wanted).square().mean(dim=-1).sum() + 0.0 * self.regression_head(hidden[:1, 0]).sum()

    def temperature(self) -> Float[Tensor, ""]:
        """The logarithm of the temperature, at most ln 100 (Radford et al. 2021); its gradient is as if there were no ceiling.

        The ceiling is here, and in the gradient that the training step gives back, and not on the parameter: ZeRO and bf16 keep a
        second copy of that.
        """
        value = self.logit_scale.sum()
        return value + (value.clamp(max=MAX_LOGIT_SCALE) - value).detach()


def _accept_published_scale(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Published checkpoints hold the temperature as a scalar."""
    name = f"{prefix}logit_scale"
    if name in state and state[name].ndim == 0:
        state[name] = state[name].reshape(1)
