"""A small causal decoder that describes images from frozen tokens.

    tokens --standardised--> linear --> prefix | <sot> caption <eot>  --Llama of transformers--> next token
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from lcl.core.config import config
from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.rows import IGNORED

Count = Annotated[int, Field(ge=1)]


@config
class DecoderConfig:
    tokenizer: TokenizerConfig = TokenizerConfig(num_merges=4000)
    width: Count = 128
    layers: Count = 2
    heads: Count = 4
    max_tokens: Count = 48
    """Of a caption; longer ones are cut."""

    def check(self) -> None:
        """Raises ValueError for a width that its heads do not divide into even parts (RoPE turns pairs)."""
        if self.width % (2 * self.heads):
            raise ValueError(f"--captioning.decoder.width {self.width} is no multiple of twice --captioning.decoder.heads ({self.heads})")


class Captioner(nn.Module):
    def __init__(self, settings: DecoderConfig, tokenizer: Tokenizer, mean: Float[Tensor, " width"], deviation: Float[Tensor, " width"]) -> None:
        """`mean` and `deviation` are those of all training tokens. Raises ValueError as `DecoderConfig.check`."""
        super().__init__()
        settings.check()
        self.settings, self.tokenizer = settings, tokenizer
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.project = nn.Linear(len(mean), settings.width)
        self.decoder = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=tokenizer.vocab_size, hidden_size=settings.width, intermediate_size=4 * settings.width, num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads, num_key_value_heads=settings.heads, tie_word_embeddings=True, bos_token_id=tokenizer.sot,
                eos_token_id=tokenizer.eot, pad_token_id=tokenizer.eot,
            )  # fmt: skip
        )

    def ids_of(self, captions: Sequence[str]) -> Int[Tensor, "captions length"]:
        """`<sot>` caption `<eot>` of each, IGNORED behind its end."""
        rows = [torch.tensor([self.tokenizer.sot, *self.tokenizer.encode(text)[: self.settings.max_tokens], self.tokenizer.eot]) for text in captions]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)

    def forward(
        self, tokens: Float[Tensor, "captions patches width"], valid: Bool[Tensor, "captions patches"], ids: Int[Tensor, "captions length"]
    ) -> Float[Tensor, "captions predictions vocabulary"]:
        """Scores of the id behind each of `ids` but the last, after the image."""
        given = ids[:, :-1]
        embedded = torch.cat([self._prefix(tokens), self.decoder.get_input_embeddings()(given.clamp(min=0))], dim=1)
        mask = torch.cat([valid, given != IGNORED], dim=1)
        hidden = self.decoder.model(inputs_embeds=embedded, attention_mask=mask.long(), position_ids=_positions(mask), use_cache=False).last_hidden_state
        return self.decoder.lm_head(hidden[:, tokens.shape[1] :])

    @torch.no_grad()
    def describe(self, tokens: Float[Tensor, "images patches width"], valid: Bool[Tensor, "images patches"]) -> list[str]:
        """A caption of each image: the likeliest id at every step, until `<eot>`."""
        start = torch.full((len(tokens), 1), self.tokenizer.sot, device=tokens.device)
        embedded = torch.cat([self._prefix(tokens), self.decoder.get_input_embeddings()(start)], dim=1)
        mask = torch.cat([valid, torch.ones_like(start, dtype=torch.bool)], dim=1).long()
        found = self.decoder.generate(inputs_embeds=embedded, attention_mask=mask, max_new_tokens=self.settings.max_tokens, do_sample=False)
        return [self.tokenizer.decode(_until(row, self.tokenizer.eot)) for row in found.tolist()]

    def _prefix(self, tokens: Float[Tensor, "images patches width"]) -> Float[Tensor, "images patches embed"]:
        return self.project((tokens - self.mean) / self.deviation)


def token_nats(scores: Float[Tensor, "captions predictions vocabulary"], ids: Int[Tensor, "captions length"]) -> Float[Tensor, "captions predictions"]:
    """-log p of each next id; 0 where there is none."""
    return functional.cross_entropy(scores.float().transpose(1, 2), ids[:, 1:], ignore_index=IGNORED, reduction="none")


def _positions(mask: Bool[Tensor, "rows length"]) -> Int[Tensor, "rows length"]:
    """Places counted over what is there, as `generate` counts them."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def _until(ids: Sequence[int], end: int) -> Sequence[int]:
    return ids[: ids.index(end)] if end in ids else ids
