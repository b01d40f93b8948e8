"""Zero-shot classification: images against class names in sentences, both in the contrastive space."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lcl.core.tokenizer import Tokenizer
from lcl.model import LCL
from lcl.rows import Part, Piece, Row, SpecialIds, collate


@torch.no_grad()
def text_features(model: LCL, tokenizer: Tokenizer, texts: Sequence[str]) -> Float[Tensor, "texts embed"]:
    """The context vector of each text, not normalised: the language model's output at a `<soi>` in the place of `<eot>`.

    A text that is longer than the context keeps its end, which stands next to the `<soi>`.
    """
    room = model.settings.text.context_length - 2
    pieces = [Piece((Part((tokenizer.sot, *tokenizer.encode(text)[-room:], tokenizer.soi)),), ()) for text in texts]
    length = max(map(len, pieces))
    batch = collate([Row((piece,), ()) for piece in pieces], row_length=length, special=SpecialIds.of(tokenizer))
    ends = torch.tensor([index * length + len(piece) - 1 for index, piece in enumerate(pieces)])
    return model.read_text(replace(batch, contexts=ends).to(model.logit_scale.device))


def class_weights(model: LCL, tokenizer: Tokenizer, classes: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "classes embed"]:
    """One unit vector per class: the normalised mean over templates of normalised text features (Radford et al. 2021). Each template has {}."""
    weights = []
    for name in classes:
        features = functional.normalize(text_features(model, tokenizer, [template.replace("{}", name) for template in templates]), dim=-1)
        weights.append(functional.normalize(features.mean(dim=0), dim=0))
    return torch.stack(weights)


def classify(pooled: Float[Tensor, "images embed"], weights: Float[Tensor, "classes embed"]) -> Float[Tensor, "images classes"]:
    """Cosine similarity of each image to each class."""
    return functional.normalize(pooled, dim=-1) @ weights.T
