"""Which parameters train, which of them decay, and how fast the layers of the vision tower learn."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

# Parameters with two axes or more that are no weights of a linear map, by the start of a part of their dotted name: open_clip's
# names, those of timm's NaFlex ViT, and ours.
UNDECAYED = re.compile(r"(^|\.)(positional|pos_embed|class_embedding|cls_token|reg_token|query_token|latent_queries|logit_scale)")

# The same two towers: what comes before the first block, the blocks, and what comes after the last.
VISION_INPUT = re.compile(r"visual\.(conv1|class_embedding|positional_embedding|ln_pre|embeds|norm_pre)(\.|$)")
VISION_BLOCK = re.compile(r"visual\.(?:transformer\.resblocks|blocks)\.(\d+)\.")
VISION_OUTPUT = re.compile(r"visual\.(ln_post|norm)(\.|$)")


def parameter_groups(model: nn.Module, *, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups for `torch.optim.AdamW` that hold each trainable parameter once: `params`, `weight_decay` and `rate_scale`.

    The trainer multiplies the learning rate of a group by its `rate_scale` = layer_decay ** (top - layer) in the vision tower, where
    layer 0 is its embeddings, layer K + 1 its block K and `top` the norm behind its last block; everything else, and all where
    `layer_decay` is 1, has rate_scale 1 (Clark et al. 2020, arXiv:2003.10555; Bao et al. 2021, arXiv:2106.08254).
    Matrices decay; vectors (biases, norms), embeddings by position, query, class and register tokens and the temperature do not
    (open_clip's rule). Groups come in the order of their first parameter, the decayed of a scale before the others; none is empty.
    What needs no gradient is in no group.

    Raises ValueError where `layer_decay` is not 1 and a parameter of the vision tower has no known layer.
    """
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    scales = _rate_scales([name for name, _ in model.named_parameters()], layer_decay)
    decays = {name: value.ndim >= 2 and not UNDECAYED.search(name) for name, value in trained.items()}
    groups = []
    for scale in dict.fromkeys(scales[name] for name in trained):
        for decayed in (True, False):
            params = [value for name, value in trained.items() if scales[name] == scale and decays[name] == decayed]
            if params:
                groups.append({"params": params, "weight_decay": weight_decay if decayed else 0.0, "rate_scale": scale})
    return groups


def freeze(model: nn.Module, frozen: Sequence[str]) -> int:
    """Lets the parameters under the module prefixes in `frozen` ("visual", "text.transformer") need no gradient; returns how many numbers they hold.

    Raises ValueError, before anything is changed, for a prefix without parameters and where nothing would be left to train.
    """
    names = _under(model, frozen)
    if all(name in names for name, _ in model.named_parameters()):
        raise ValueError(f"--frozen {' '.join(frozen)} leaves nothing to train; leave out a part of the model")
    stopped = [value for name, value in model.named_parameters() if name in names]
    for value in stopped:
        value.requires_grad_(False)
    return sum(value.numel() for value in stopped)


def _under(model: nn.Module, prefixes: Sequence[str]) -> set[str]:
    """Names of the parameters under any of the prefixes, which end where a part of a dotted name ends."""
    names = [name for name, _ in model.named_parameters()]
    found: set[str] = set()
    for prefix in prefixes:
        matched = {name for name in names if f"{name}.".startswith(f"{prefix}.")}
        if not matched:
            known = dict.fromkeys(".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2))
            near = difflib.get_close_matches(prefix, known, n=3) or dict.fromkeys(name.split(".")[0] for name in names)
            raise ValueError(f"--frozen {prefix!r}: no parameter of the model lies there; near names: {', '.join(near)}")
        found |= matched
    return found


def _rate_scales(names: Sequence[str], layer_decay: float) -> dict[str, float]:
    if layer_decay == 1.0:
        return dict.fromkeys(names, 1.0)
    blocks = {name: int(match[1]) for name in names if (match := VISION_BLOCK.match(name))}
    top = max(blocks.values(), default=-1) + 2
    scales = {}
    for name in names:
        if name in blocks:
            scales[name] = layer_decay ** (top - blocks[name] - 1)
        elif VISION_INPUT.match(name):
            scales[name] = layer_decay**top
        elif VISION_OUTPUT.match(name) or not name.startswith("visual."):
            scales[name] = 1.0
        else:
            raise ValueError(f"{name}: no layer of the vision tower is known for this parameter; set --optimizer.layer-decay 1")
    return scales
