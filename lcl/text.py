"""Causal language models over packed rows: the published one, and those of `transformers` by config."""

from typing import Annotated, Any, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lcl.attention import AttentionPlan, document_attention, plan_attention
from lcl.core.config import config
from lcl.rows import Batch

Positive = Annotated[int, Field(ge=1)]


@config
class TextConfig:
    kind: Literal["clip", "llama", "qwen3"] = "clip"
    """clip: the published decoder (learned absolute positions, LayerNorm, GELU). llama, qwen3: that of transformers (RoPE, RMSNorm, SwiGLU)."""
    context_length: Positive = 2048
    width: Positive = 512
    layers: Positive = 12
    heads: Positive = 8
    key_heads: Annotated[int, Field(ge=0)] = 0
    """llama, qwen3: heads of keys and values; 0: as many as `heads`."""
    head_width: Annotated[int, Field(ge=0)] = 0
    """llama, qwen3: width of a head; 0: width / heads."""
    mlp_width: Annotated[int, Field(ge=0)] = 0
    """Width inside the MLP; 0: 4 x width (clip), 8/3 x width rounded up to a multiple of 16 (llama, qwen3; Touvron et al. 2023)."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    """llama, qwen3: base of the rotary frequencies."""
    norm_epsilon: Annotated[float, Field(gt=0)] = 1e-6
    """llama, qwen3: the number that RMSNorm adds to the mean square (transformers' default; Llama 2 and 3 have 1e-5)."""
    embedding_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of token embeddings at the start (open_clip: 0.02); clip's positions have half of it."""

    def check(self) -> None:
        """Raises ValueError for sizes that do not fit together."""
        if self.width % self.heads:
            raise ValueError(f"model.text.width is no multiple of model.text.heads ({self.width} and {self.heads})")
        if self.heads % self.num_key_heads:
            raise ValueError(f"model.text.heads is no multiple of model.text.key_heads ({self.heads} and {self.num_key_heads})")
        if self.kind == "clip" and (self.key_heads or self.head_width or self.mlp_width):
            raise ValueError("model.text.key_heads, head_width and mlp_width are for --model.text.kind llama or qwen3; the clip decoder has none of them")

    @property
    def num_key_heads(self) -> int:
        return self.key_heads or self.heads

    @property
    def inner_width(self) -> int:
        """The MLP's width in force."""
        if self.mlp_width:
            return self.mlp_width
        return 4 * self.width if self.kind == "clip" else -(-8 * self.width // 3 // 16) * 16


class Read(NamedTuple):
    """What the language model makes of rows: its last hidden state, and the context vectors at the batch's `contexts`."""

    hidden: Float[Tensor, "rows length width"]
    contexts: Float[Tensor, "contexts embed"]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Float[Tensor, "rows length width"], plan: AttentionPlan) -> Float[Tensor, "rows length width"]:
        projected = functional.linear(hidden, self.in_proj_weight, self.in_proj_bias)
        query, key, value = rearrange(projected, "rows length (three heads w) -> three rows heads length w", three=3, heads=self.heads)
        attended = document_attention(query, key, value, plan=plan)
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

    def forward(self, hidden: Float[Tensor, "rows length width"], plan: AttentionPlan) -> Float[Tensor, "rows length width"]:
        hidden = hidden + self.attn(self.ln_1(hidden), plan)
        return hidden + self.mlp(self.ln_2(hidden))


class Blocks(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, hidden: Float[Tensor, "rows length width"], plan: AttentionPlan) -> Float[Tensor, "rows length width"]:
        for block in self.resblocks:
            hidden = block(hidden, plan)
        return hidden


class ClipText(nn.Module):
    """The published decoder: embeddings, causal blocks, and the head of the context vector (final norm, then text projection)."""

    def __init__(self, settings: TextConfig, vocab_size: int, embed_width: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, settings.width)
        self.positional_embedding = nn.Parameter(torch.empty(settings.context_length, settings.width))
        self.transformer = Blocks(settings.width, settings.layers, settings.heads)
        self.ln_final = nn.LayerNorm(settings.width)
        self.text_projection = nn.Parameter(torch.empty(settings.width, embed_width))
        self._initialise(settings)

    @torch.no_grad()
    def _initialise(self, settings: TextConfig) -> None:
        """CLIP's initialisation (Radford et al. 2021; open_clip's TextTransformer)."""
        width, layers = settings.width, settings.layers
        nn.init.normal_(self.token_embedding.weight, std=settings.embedding_std)
        nn.init.normal_(self.positional_embedding, std=settings.embedding_std / 2)
        nn.init.normal_(self.text_projection, std=width**-0.5)
        for block in self.transformer.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=(2 * layers * width) ** -0.5)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=(2 * layers * width) ** -0.5)
            for linear in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                nn.init.zeros_(linear.bias)

    @property
    def blocks_of_layers(self) -> nn.ModuleList:
        return self.transformer.resblocks

    def forward(self, batch: Batch, latents: Float[Tensor, "latents width"]) -> Read:
        """Reads rows whose image slots hold `latents`, in the order of `batch.slots`."""
        embeddings = fill_slots(self.token_embedding(batch.ids), latents, batch.slots) + self.positional_embedding[batch.positions]
        hidden = self.transformer(embeddings, plan_attention(batch.document_ids, batch.document_lengths))
        return Read(hidden, self.ln_final(at_places(hidden, batch.contexts)) @ self.text_projection)


class HuggingFaceText(nn.Module):
    """A decoder of `transformers`, made from its sizes; attention goes through ours, so documents in a row do not meet."""

    def __init__(self, settings: TextConfig, vocab_size: int, embed_width: int) -> None:
        super().__init__()
        self.body = _transformers_model(settings, vocab_size)
        self.ln_final = nn.LayerNorm(settings.width)
        self.text_projection = nn.Parameter(torch.empty(settings.width, embed_width))
        with torch.no_grad():
            nn.init.normal_(self.text_projection, std=settings.width**-0.5)
            nn.init.normal_(self.body.embed_tokens.weight, std=settings.embedding_std)

    @property
    def blocks_of_layers(self) -> nn.ModuleList:
        return self.body.layers

    def forward(self, batch: Batch, latents: Float[Tensor, "latents width"]) -> Read:
        """Reads rows whose image slots hold `latents`, in the order of `batch.slots`."""
        embeddings = fill_slots(self.body.embed_tokens(batch.ids), latents, batch.slots)
        plan = plan_attention(batch.document_ids, batch.document_lengths)
        hidden = self.body(inputs_embeds=embeddings, position_ids=batch.positions, use_cache=False, document_plan=plan).last_hidden_state
        return Read(hidden, self.ln_final(at_places(hidden, batch.contexts)) @ self.text_projection)


def _transformers_model(settings: TextConfig, vocab_size: int) -> nn.Module:
    from transformers import AttentionInterface, AutoConfig, AutoModel  # here, because importing it takes seconds

    AttentionInterface.register("lcl_documents", _attend_documents)
    sizes = AutoConfig.for_model(
        settings.kind, vocab_size=vocab_size, hidden_size=settings.width, num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
        num_key_value_heads=settings.num_key_heads, head_dim=settings.head_width or settings.width // settings.heads, intermediate_size=settings.inner_width,
        max_position_embeddings=settings.context_length, rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
        rms_norm_eps=settings.norm_epsilon,
        attn_implementation="lcl_documents", pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )
    return AutoModel.from_config(sizes)


def _attend_documents(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *, document_plan: AttentionPlan, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """`transformers`' interface to `document_attention`; it hands over its other options too, which do not concern us."""
    attended = document_attention(query, key, value, plan=document_plan, scale=scaling)
    return rearrange(attended, "rows heads length w -> rows length heads w"), None


def build_text(settings: TextConfig, vocab_size: int, embed_width: int) -> ClipText | HuggingFaceText:
    """The language model with random weights. Raises ValueError as `TextConfig.check` does."""
    settings.check()
    return (ClipText if settings.kind == "clip" else HuggingFaceText)(settings, vocab_size, embed_width)


def build_head(settings: TextConfig, vocab_size: int) -> nn.Module:
    """Hidden states to logits: a norm of its own before the matrix in the published model; the others end with a norm."""
    head = nn.Linear(settings.width, vocab_size, bias=False)
    nn.init.normal_(head.weight, std=0.02)
    return nn.Sequential(nn.LayerNorm(settings.width), head) if settings.kind == "clip" else head


def fill_slots(
    embeddings: Float[Tensor, "rows length width"], latents: Float[Tensor, "latents width"], slots: Int[Tensor, " latents"]
) -> Float[Tensor, "rows length width"]:
    """Embeddings with `latents` at the flat places `slots`."""
    flat = rearrange(embeddings, "rows length width -> (rows length) width")
    return flat.index_copy(0, slots, latents.to(flat.dtype)).view_as(embeddings)


def at_places(hidden: Float[Tensor, "rows length width"], places: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
    """The states at flat places (row * length + column)."""
    return rearrange(hidden, "rows length width -> (rows length) width")[places]
