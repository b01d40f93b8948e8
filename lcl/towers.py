"""The two vision transformers: open_clip's on squares, timm's NaFlex on images of their own aspect."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer
from timm.layers import resample_abs_pos_embed
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from torch import Tensor, nn

from lcl.vision import Grids, Tower, VisionConfig

Layered = tuple[Float[Tensor, "images patches features"], tuple[Float[Tensor, "images patches features"], ...]]


def _through(blocks: Iterable[nn.Module], hidden: Tensor, layers: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What the last block puts out, and what those of `layers` (from 0) do."""
    outputs = {}
    for number, block in enumerate(blocks):
        hidden = block(hidden)
        if number in layers:
            outputs[number] = hidden
    return hidden, tuple(outputs[number] for number in layers)


def _options(tower: Tower) -> dict[str, Any]:
    """The tower's options as open_clip's constructor takes them."""
    options = dict(tower.options)
    options["act_layer"] = partial(QuickGELU if options.pop("quick_gelu", False) else nn.GELU, **options.pop("act_kwargs", {}))
    options["norm_layer"] = partial(LayerNorm, **options.pop("norm_kwargs", {}))
    return options


class SquareTower(VisionTransformer):
    """open_clip's vision transformer; its class token is read by nobody but the other tokens, as in the published model."""

    def __init__(self, tower: Tower) -> None:
        super().__init__(
            image_size=tower.image_px, patch_size=tower.patch_px, width=tower.width, layers=tower.layers, heads=tower.width // tower.head_width,
            mlp_ratio=tower.mlp_ratio, output_tokens=True, **_options(tower),
        )
        self.proj = None

    @property
    def blocks_of_layers(self) -> nn.ModuleList:
        return self.transformer.resblocks

    def forward(self, images: Float[Tensor, "images 3 height width"], grids: Grids) -> Float[Tensor, "images patches features"]:
        """Patch tokens, row by row over the grid."""
        return self.ln_post(self.transformer(self._embeds(images)))[:, 1:]

    def with_layers(self, images: Float[Tensor, "images 3 height width"], layers: Sequence[int]) -> Layered:
        """Patch tokens of images of one size, any whole number of patches, and what the blocks of these numbers put out."""
        hidden, outputs = _through(self.transformer.resblocks, self._embeds(images), layers)
        return self.ln_post(hidden)[:, 1:], tuple(output[:, 1:] for output in outputs)

    def _embeds(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images tokens features"]:
        """The class token and the patches with their positions, which are resized where the images are not of the tower's own size."""
        patches = self.conv1(images)
        tokens = rearrange(patches, "images width rows columns -> images (rows columns) width")
        grid, positions = tuple(patches.shape[-2:]), self.positional_embedding
        if grid != self.grid_size:
            positions = resample_abs_pos_embed(positions[None], list(grid), old_size=list(self.grid_size))[0]
        class_token = self.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        return self.ln_pre(torch.cat([class_token, tokens], dim=1) + positions.to(tokens.dtype))

    def dummy(self) -> tuple[UInt8[Tensor, "1 3 height width"], Grids]:
        """One black image."""
        return torch.zeros(1, 3, *self.image_size, dtype=torch.uint8), (self.grid_size,)


class FlexibleTower(NaFlexVit):
    """timm's NaFlex ViT. Its blocks see sequences in which images of different sizes are packed, each attending to itself."""

    def __init__(self, settings: VisionConfig) -> None:
        grid = max(1, round(settings.max_patches**0.5))
        super().__init__(
            NaFlexVitCfg(
                patch_size=settings.patch_px, embed_dim=settings.width, depth=settings.layers, num_heads=settings.width // settings.head_width,
                mlp_ratio=settings.mlp_ratio, pos_embed="learned", pos_embed_grid_size=(grid, grid), global_pool="",
            ),
            num_classes=0,
        )
        self.max_patches, self.patch_px = settings.max_patches, settings.patch_px

    @property
    def blocks_of_layers(self) -> nn.Sequential:
        return self.blocks

    def forward(self, patches: Float[Tensor, "images patches values"], grids: Grids) -> Float[Tensor, "images patches features"]:
        """Patch tokens, row by row over each grid, zeros behind an image's last patch."""
        device, counts = patches.device, [rows * columns for rows, columns in grids]
        length = patches.shape[1]
        places = torch.arange(length)
        coordinates = torch.stack([torch.stack([(places // columns).clamp(max=rows - 1), places % columns], dim=-1) for rows, columns in grids]).to(device)
        valid = (places < torch.tensor(counts)[:, None]).to(device)
        embedded = self.norm_pre(self.embeds(patches, patch_coord=coordinates, patch_valid=valid)[0])
        target, image_ids = packing(counts, self.max_patches)
        target, image_ids = target.to(device), image_ids.to(device)
        kept = torch.cat([torch.arange(count) + index * length for index, count in enumerate(counts)]).to(device)
        flat = rearrange(embedded, "images patches width -> (images patches) width")
        sequences = flat.new_zeros(image_ids.numel(), flat.shape[1]).index_copy(0, target, flat[kept])
        hidden = rearrange(sequences, "(sequences length) width -> sequences length width", length=self.max_patches)
        mask = rearrange(image_ids, "s n -> s 1 n 1") == rearrange(image_ids, "s n -> s 1 1 n")
        for block in self.blocks:
            hidden = block(hidden, attn_mask=mask)
        tokens = rearrange(self.norm(hidden), "sequences length width -> (sequences length) width")[target]
        unpacked = torch.zeros_like(flat).index_copy(0, kept, tokens.to(flat.dtype))
        return rearrange(unpacked, "(images patches) width -> images patches width", patches=length)

    def with_layers(self, images: Float[Tensor, "images 3 height width"], layers: Sequence[int]) -> Layered:
        """As the square tower's. Images of one size need no packing, so there may be more patches than `max_patches`."""
        hidden, outputs = _through(self.blocks, self.norm_pre(self.embeds(images)[0]), layers)
        return self.norm(hidden), outputs

    def dummy(self) -> tuple[UInt8[Tensor, "1 1 values"], Grids]:
        """One black patch."""
        return torch.zeros(1, 1, 3 * self.patch_px**2, dtype=torch.uint8), ((1, 1),)


def packing(counts: list[int], budget: int) -> tuple[Int[Tensor, " tokens"], Int[Tensor, "sequences budget"]]:
    """Images side by side in sequences of `budget` tokens: the flat place of each token, and which image holds each place (0: none).

    First fit, the longest first, so that sequences are full; each image lies whole in one.
    """
    free: list[int] = []
    places: dict[int, int] = {}
    for index in sorted(range(len(counts)), key=lambda index: -counts[index]):
        sequence = next((number for number, room in enumerate(free) if room >= counts[index]), len(free))
        if sequence == len(free):
            free.append(budget)
        places[index] = sequence * budget + budget - free[sequence]
        free[sequence] -= counts[index]
    image_ids = torch.zeros(len(free) * budget, dtype=torch.int64)
    for index, start in places.items():
        image_ids[start : start + counts[index]] = index + 1
    target = torch.cat([torch.arange(counts[index]) + places[index] for index in range(len(counts))])
    return target, rearrange(image_ids, "(sequences budget) -> sequences budget", budget=budget)
