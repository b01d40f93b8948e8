"""Parameter names of our square tower (open_clip's) and of timm's vision transformer; timm's own NaFlex tower has them already."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

# ours, timm's: parts of names, in the order in which they are replaced
NAMES = (
    ("conv1.", "patch_embed.proj."), ("class_embedding", "cls_token"), ("positional_embedding", "pos_embed"), ("transformer.resblocks.", "blocks."),
    ("ln_pre.", "norm_pre."), ("ln_post.", "norm."), ("ln_1.", "norm1."), ("ln_2.", "norm2."), ("attn.in_proj_", "attn.qkv."), ("attn.out_proj.", "attn.proj."),
    ("mlp.c_fc.", "mlp.fc1."), ("mlp.c_proj.", "mlp.fc2."),
)  # fmt: skip
LEADING_AXES = {"class_embedding": 2, "positional_embedding": 1}  # of length 1, that timm has in front

Kind = Literal["vit", "naflex"]


def to_timm(state: Mapping[str, Tensor], *, kind: Kind) -> dict[str, Tensor]:
    """The tower's state dict in timm's names and shapes."""
    if kind == "naflex":
        return dict(state)
    return {_renamed(name, forth=True): value[(None,) * LEADING_AXES.get(name, 0)] for name, value in state.items()}


def from_timm(state: Mapping[str, Tensor], *, kind: Kind) -> dict[str, Tensor]:
    """The inverse of `to_timm`."""
    if kind == "naflex":
        return dict(state)
    renamed = {_renamed(name, forth=False): value for name, value in state.items()}
    return {name: value[(0,) * LEADING_AXES.get(name, 0)] for name, value in renamed.items()}


def _renamed(name: str, *, forth: bool) -> str:
    for ours, theirs in NAMES:
        old, new = (ours, theirs) if forth else (theirs, ours)
        if name.startswith(old) or f".{old}" in name:
            name = name.replace(old, new, 1)
    return name
