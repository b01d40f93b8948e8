"""The LCL model (Yang et al., NeurIPS 2024, arXiv:2406.07543): a vision encoder read by a causal language model.

    images --ViT--> patch tokens --+--> learned query attends --> pooled latent ---------------------+
                                   +--> same value and output projections, per token --> latents     |  contrastive
    ids ----embedding--> latents put into the image slots --> causal transformer --+-- at <soi> --> context vector
                                                                                   +-- elsewhere --> next token
Parameter names are those of the published checkpoints (open_clip's layout).
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from open_clip.transformer import VisionTransformer
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lcl.attention import document_attention
from lcl.core.config import config
from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.losses import text_nll_sum
from lcl.rows import IGNORED, Batch, SpecialIds, next_token_targets

Positive = Annotated[int, Field(ge=1)]

# CLIP's pixel statistics (Radford et al. 2021), as open_clip's OPENAI_DATASET_MEAN and _STD
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_LOGIT_SCALE = math.log(100)


@config
class VisionConfig:
    """open_clip's vision transformer."""

    image_px: Positive = 224
    patch_px: Positive = 16
    width: Positive = 768
    layers: Positive = 12
    head_width: Positive = 64

    @property
    def num_patches(self) -> int:
        return (self.image_px // self.patch_px) ** 2


@config
class TextConfig:
    """The causal language model, trained from scratch with learned absolute positions."""

    context_length: Positive = 2048
    width: Positive = 512
    layers: Positive = 12
    heads: Positive = 8
    embedding_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of token embeddings at the start (open_clip: 0.02); those of positions have half of it."""


@config
class ModelConfig:
    embed_width: Positive = 512
    """Width of the contrastive space; the pooled latent has it, so it is also the width of the language model."""
    pool_heads: Positive = 8
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()

    def check(self) -> None:
        """Raises ValueError for sizes that do not fit together."""
        for name, whole, part in (
            ("vision.image_px is no multiple of vision.patch_px", self.vision.image_px, self.vision.patch_px),
            ("vision.width is no multiple of vision.head_width", self.vision.width, self.vision.head_width),
            ("text.width is no multiple of text.heads", self.text.width, self.text.heads),
            ("embed_width is no multiple of pool_heads", self.embed_width, self.pool_heads),
        ):
            if whole % part:
                raise ValueError(f"model: {name} ({whole} and {part})")
        if self.embed_width != self.text.width:
            raise ValueError(f"model: embed_width ({self.embed_width}) must equal text.width ({self.text.width}): latents enter the language model")


@dataclass(frozen=True)
class Latents:
    """What the encoder makes of images: one pooled latent each, and one latent per patch."""

    pooled: Float[Tensor, "images embed"]
    tokens: Float[Tensor, "images patches embed"]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Float[Tensor, "rows length width"], batch: Batch) -> Float[Tensor, "rows length width"]:
        projected = functional.linear(hidden, self.in_proj_weight, self.in_proj_bias)
        query, key, value = rearrange(projected, "rows length (three heads w) -> three rows heads length w", three=3, heads=self.heads)
        attended = document_attention(query, key, value, document_ids=batch.document_ids, document_lengths=batch.document_lengths)
        return self.out_proj(rearrange(attended, "rows heads length w -> rows length (heads w)"))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, hidden: Float[Tensor, "rows length width"]) -> Float[Tensor, "rows length width"]:
        return self.c_proj(functional.gelu(self.c_fc(hidden)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, hidden: Float[Tensor, "rows length width"], batch: Batch) -> Float[Tensor, "rows length width"]:
        hidden = hidden + self.attn(self.ln_1(hidden), batch)
        return hidden + self.mlp(self.ln_2(hidden))


class Blocks(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, hidden: Float[Tensor, "rows length width"], batch: Batch) -> Float[Tensor, "rows length width"]:
        for block in self.resblocks:
            hidden = block(hidden, batch)
        return hidden


class LanguageModel(nn.Module):
    """Embeddings, causal blocks, and the head of the context vector (final norm, then text projection)."""

    def __init__(self, settings: TextConfig, vocab_size: int, embed_width: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, settings.width)
        self.positional_embedding = nn.Parameter(torch.empty(settings.context_length, settings.width))
        self.transformer = Blocks(settings.width, settings.layers, settings.heads)
        self.ln_final = nn.LayerNorm(settings.width)
        self.text_projection = nn.Parameter(torch.empty(settings.width, embed_width))

    def project(self, hidden: Float[Tensor, "n width"]) -> Float[Tensor, "n embed"]:
        return self.ln_final(hidden) @ self.text_projection


class CrossAttention(nn.Module):
    """Projections of the pooling; biases stand beside the weights as in the published checkpoints."""

    def __init__(self, input_width: int, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(input_width, width, bias=False) for _ in range(3))
        self.q_bias, self.k_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(3))
        self.proj = nn.Linear(width, width, bias=False)


class Pooler(nn.Module):
    def __init__(self, input_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1_q, self.norm1_k, self.norm1_v = (nn.LayerNorm(input_width) for _ in range(3))
        self.cross_attn = CrossAttention(input_width, width)

    def values(self, patches: Float[Tensor, "images patches width"]) -> Float[Tensor, "images patches embed"]:
        attn = self.cross_attn
        return functional.linear(self.norm1_v(patches), attn.v.weight, attn.v_bias)

    def forward(self, query: Float[Tensor, "1 1 width"], patches: Float[Tensor, "images patches width"]) -> Latents:
        attn = self.cross_attn
        values = self.values(patches)
        queries = functional.linear(self.norm1_q(query), attn.q.weight, attn.q_bias).expand(len(patches), -1, -1)
        keys = functional.linear(self.norm1_k(patches), attn.k.weight, attn.k_bias)
        split = [rearrange(tensor, "images n (heads w) -> images heads n w", heads=self.heads) for tensor in (queries, keys, values)]
        pooled = rearrange(functional.scaled_dot_product_attention(*split), "images heads 1 w -> images (heads w)")
        return Latents(pooled=attn.proj(pooled), tokens=attn.proj(values))


class PoolProject(nn.Module):
    """One learned query over the patch tokens; the tokens themselves go through its value and output projections."""

    def __init__(self, input_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.query_token = nn.Parameter(torch.empty(1, 1, input_width))
        self.pooler = Pooler(input_width, width, heads)

    def forward(self, patches: Float[Tensor, "images patches width"]) -> Latents:
        return self.pooler(self.query_token, patches)


@dataclass(frozen=True)
class Outputs:
    """What training takes from one batch. Vectors are not normalised; `logit_scale` is the parameter as part of the graph."""

    nll_sum: Float[Tensor, ""]
    num_targets: Int[Tensor, ""]
    pooled: Float[Tensor, "images embed"]
    contexts: Float[Tensor, "images embed"]
    logit_scale: Float[Tensor, ""]


class LCL(nn.Module):
    def __init__(self, settings: ModelConfig, *, vocab_size: int, special: SpecialIds) -> None:
        """Raises ValueError if the sizes in `settings` do not fit together."""
        super().__init__()
        settings.check()
        self.settings, self.special = settings, special
        vision = settings.vision
        self.visual = VisionTransformer(
            image_size=vision.image_px, patch_size=vision.patch_px, width=vision.width, layers=vision.layers,
            heads=vision.width // vision.head_width, mlp_ratio=4.0, output_dim=settings.embed_width, output_tokens=True,
        )
        self.visual.proj = None  # the class token and its projection are not used (lcl_model.py of the published code)
        self.pool_project = PoolProject(vision.width, settings.embed_width, settings.pool_heads)
        self.text = LanguageModel(settings.text, vocab_size, settings.embed_width)
        self.lm_head = nn.Sequential(nn.LayerNorm(settings.text.width), nn.Linear(settings.text.width, vocab_size, bias=False))
        self.logit_scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)]))  # one axis: DeepSpeed cannot broadcast a tensor without
        self.register_load_state_dict_pre_hook(_accept_published_scale)
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(1, 3, 1, 1), persistent=False)
        self._initialise()

    @classmethod
    def for_tokenizer(cls, settings: ModelConfig, tokenizer: Tokenizer) -> "LCL":
        return cls(settings, vocab_size=tokenizer.vocab_size, special=SpecialIds(image=tokenizer.image, eoi=tokenizer.eoi))

    @torch.no_grad()
    def _initialise(self) -> None:
        """CLIP's initialisation of the language model (Radford et al. 2021; open_clip's TextTransformer), the rest as published."""
        text, width, layers = self.text, self.settings.text.width, self.settings.text.layers
        nn.init.normal_(text.token_embedding.weight, std=self.settings.text.embedding_std)
        nn.init.normal_(text.positional_embedding, std=self.settings.text.embedding_std / 2)
        nn.init.normal_(text.text_projection, std=width**-0.5)
        for block in text.transformer.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=(2 * layers * width) ** -0.5)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=(2 * layers * width) ** -0.5)
            for linear in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                nn.init.zeros_(linear.bias)
        nn.init.normal_(self.lm_head[1].weight, std=0.02)
        nn.init.normal_(self.pool_project.query_token, std=1.0)
        cross = self.pool_project.pooler.cross_attn
        for linear in (cross.q, cross.k, cross.v, cross.proj):
            nn.init.trunc_normal_(linear.weight, std=0.02)

    def normalise(self, pixels: UInt8[Tensor, "images 3 height width"]) -> Float[Tensor, "images 3 height width"]:
        """Pixels of files (uint8) as the encoder's input, zero mean and unit variance over CLIP's data."""
        return (pixels.to(self.pixel_mean.dtype) / 255 - self.pixel_mean) / self.pixel_std

    def encode_images(self, images: Float[Tensor, "images 3 height width"]) -> Latents:
        """Latents of normalised images."""
        _, patches = self.visual(images)
        return self.pool_project(patches)

    def forward(self, batch: Batch) -> Outputs:
        """The sum of next-token losses of packed rows, with pooled latents and context vectors of their images."""
        hidden, latents = self.read_rows(batch, self.normalise(batch.pixels))
        targets = next_token_targets(batch, self.special)
        return Outputs(
            nll_sum=text_nll_sum(hidden, targets, self.lm_head),
            num_targets=(targets != IGNORED).sum(),
            pooled=latents.pooled,
            contexts=self.context_vectors(hidden, batch.image_starts),
            logit_scale=self.temperature(),
        )

    def read_rows(
        self, batch: Batch, images: Float[Tensor, "images 3 side side"]
    ) -> tuple[Float[Tensor, "rows length width"], Latents]:
        """The language model's last hidden state over rows whose image slots hold the latents of (normalised) `images`."""
        embeddings = self.text.token_embedding(batch.ids)
        if len(images) == 0:  # a dummy image, times zero: every parameter takes part on every rank, so collectives stay in step
            size = self.settings.vision.image_px
            dummy = self.encode_images(images.new_zeros(1, 3, size, size))
            embeddings = embeddings + 0.0 * (dummy.tokens.sum() + dummy.pooled.sum())
            latents = Latents(dummy.pooled[:0], dummy.tokens[:0])
        else:
            latents = self.encode_images(images)
            embeddings = self._fill_slots(embeddings, latents.tokens, batch.image_starts)
        hidden = self.text.transformer(embeddings + self.text.positional_embedding[batch.positions], batch)
        return hidden, latents

    def temperature(self) -> Float[Tensor, ""]:
        """The logarithm of the temperature, at most ln 100 (Radford et al. 2021); its gradient is as if there were no ceiling.

        The ceiling is here, and in the gradient that the training step gives back, and not on the parameter: ZeRO and bf16 keep a
        second copy of that.
        """
        value = self.logit_scale.sum()
        return value + (value.clamp(max=MAX_LOGIT_SCALE) - value).detach()

    def context_vectors(self, hidden: Float[Tensor, "rows length width"], places: Int[Tensor, " n"]) -> Float[Tensor, "n embed"]:
        """The contrastive head's output at flat indices `places` (row * length + column), where `<soi>` stands."""
        return self.text.project(rearrange(hidden, "rows length width -> (rows length) width")[places])

    @staticmethod
    def _fill_slots(
        embeddings: Float[Tensor, "rows length width"], tokens: Float[Tensor, "images patches width"], starts: Int[Tensor, " images"]
    ) -> Float[Tensor, "rows length width"]:
        slots = starts[:, None] + 1 + torch.arange(tokens.shape[1], device=starts.device)
        flat = rearrange(embeddings, "rows length width -> (rows length) width")
        filled = flat.index_copy(0, slots.flatten(), rearrange(tokens, "images patches width -> (images patches) width").to(flat.dtype))
        return filled.view_as(embeddings)


def _accept_published_scale(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Published checkpoints hold the temperature as a scalar."""
    name = f"{prefix}logit_scale"
    if name in state and state[name].ndim == 0:
        state[name] = state[name].reshape(1)
