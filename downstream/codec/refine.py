"""Latents fitted to pictures: SGA+ on y and z together, the networks as they are (arXiv:2401.17789, section 3).

    y, z of the analysis --Adam on lmbda 255^2 MSE + bits per pixel, of relaxed rounding--> y, z whose rounded form has the least true loss seen

The true loss is that of what is coded: z rounded, then y around the means that this z gives. Pictures of a batch are fitted each for itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from downstream.codec.coding import Latents
from downstream.codec.image_codec import LATENT_PX
from downstream.codec.model import Codec, Latent, Level, Reconstruction
from downstream.codec.rounding import RoundingConfig, relaxing, rounded
from downstream.sight import Sight
from downstream.tiles import in_tiles
from lcl.core.config import config

REFINE_TILE_PX = 512  # by default
LEARNING_RATE = 0.02  # with ssl and T_max 1 the best of four at three of four decays, by the best look (docs/results/refinement); 0.005 is published
Pixels = Float[Tensor, "images 3 height width"]
PerImage = Float[Tensor, " images"]
Weights = Float[Tensor, "images 1 height width"] | None
"""Of the squared error at each pixel: 0 where a picture was filled up, and with a mean of 1 over the rest losses stay comparable."""


@config
class RefineConfig:
    iterations: Annotated[int, Field(ge=0)] = 500
    rounding: RoundingConfig = RoundingConfig()
    learning_rate: Annotated[float, Field(gt=0)] = LEARNING_RATE
    check_every: Annotated[int, Field(ge=1)] = 25
    """Iterations between looks at the true loss; the best look is kept, the start among them."""
    seed: Annotated[int, Field(ge=0)] = 0


class Semantic(NamedTuple):
    """What an encoder sees, as a part of the loss: `weight` times 1 - cos, as in training with gamma."""

    sight: Sight
    weight: float
    """Bits per pixel that 1 - cos is worth."""


@dataclass(frozen=True)
class Refined:
    latents: Latents
    losses: dict[int, PerImage]
    """True loss by iteration; 0 is the start."""
    bpp: PerImage
    """Of the latents, as estimated."""
    squared_error: PerImage
    """255^2 times the mean squared error, unweighted."""


def refine(
    codec: Codec, x: Pixels, settings: RefineConfig, *, lmbda: float, level: Level = None, weights: Weights = None, semantic: Semantic | None = None,
    progress: Callable[[int], None] | None = None,
) -> Refined:
    """The best latents seen for padded pictures at this trade-off, which need not be the one the codec was trained for."""
    rng = torch.Generator(device=x.device).manual_seed(settings.seed)
    with torch.no_grad():
        y, z = codec.analyse(x, level)
        wanted = None if semantic is None else semantic.sight.tokens(x)

    def loss_of(found: Reconstruction) -> PerImage:
        loss = lmbda * squared_error(x, found.x_hat, weights) + found.coded.bits / (x.shape[-1] * x.shape[-2])
        return loss if semantic is None else loss + semantic.weight * semantic.sight.distance(wanted, found.x_hat)

    @torch.no_grad()
    def true_loss() -> PerImage:
        return loss_of(reconstruct(codec, y, z, level))

    y, z = y.requires_grad_(), z.requires_grad_()
    optimizer = torch.optim.Adam([y, z], lr=settings.learning_rate)
    best, losses = Latents(y.detach().clone(), z.detach().clone()), {0: true_loss()}
    least = losses[0]
    with _frozen(codec):
        for iteration in range(settings.iterations):
            optimizer.zero_grad()
            coded = codec.code(y, z, relaxing(settings.rounding, iteration=iteration, rng=rng))
            loss = loss_of(Reconstruction(codec.synthesise(coded.y_hat, level), coded)).sum()
            if not torch.isfinite(loss):
                raise ValueError(f"the loss of iteration {iteration} is not finite: lower the refinement's learning rate")
            loss.backward()
            optimizer.step()
            done = iteration + 1
            if done % settings.check_every == 0 or done == settings.iterations:
                losses[done] = true_loss()
                better = losses[done] < least
                least = torch.minimum(least, losses[done])
                best = Latents(*(torch.where(better[:, None, None, None], found.detach(), kept) for found, kept in zip((y, z), best, strict=True)))
            if progress is not None:
                progress(done)
    with torch.no_grad():
        final = reconstruct(codec, *best, level)
    return Refined(best, losses, final.coded.bits / (x.shape[-1] * x.shape[-2]), squared_error(x, final.x_hat))


def refine_picture(
    codec: Codec, x: Float[Tensor, "1 3 height width"], settings: RefineConfig, *, tile_px: int, lmbda: float, level: Level = None, weights: Weights = None, semantic: Semantic | None = None,
    progress: Callable[[int], None] | None = None,
) -> Latents:
    """The latents of `refine`, in tiles of `tile_px` (0: at once) where the picture is larger."""
    if tile_px and max(x.shape) > tile_px:
        return refine_in_tiles(codec, x, settings, side_px=tile_px, lmbda=lmbda, level=level, weights=weights, semantic=semantic, progress=progress)
    return refine(codec, x, settings, lmbda=lmbda, level=level, weights=weights, semantic=semantic, progress=progress).latents


def refine_in_tiles(
    codec: Codec, x: Float[Tensor, "1 3 height width"], settings: RefineConfig, *, side_px: int, lmbda: float, level: Level = None, weights: Weights = None,
    semantic: Semantic | None = None, progress: Callable[[int], None] | None = None,
) -> Latents:
    """`refine` of a large picture tile by tile, in the memory of one: each is fitted with the margin that its transforms see, and keeps its inner part.

    Sides of `side_px`, which the codec's stride divides. Where tiles meet, each was fitted to a margin that the other has changed since: what is lost is not zero,
    and small. An encoder, the adapter's too, sees each tile by itself. Raises ValueError for a codec that sees the whole picture.
    """
    places = codec.stride_px // LATENT_PX  # of y along each side of a place of z
    margin = None if codec.tile_margin is None else -(-codec.tile_margin // places)
    inputs = x if weights is None else torch.cat([x, weights], dim=1)

    def fitted(part: Tensor) -> Tensor:
        found = refine(codec, part[:, :3], settings, lmbda=lmbda, level=level, weights=None if weights is None else part[:, 3:], semantic=semantic, progress=progress).latents
        return torch.cat([pixel_unshuffle(found.y, places), found.z], dim=1)  # on one grid

    joined = in_tiles(fitted, inputs, side=side_px // codec.stride_px, margin=margin, scale=(codec.stride_px, 1))
    y, z = joined.split([places**2 * sum(codec.group_sizes), codec.z_entropy_bottleneck.num_channels], dim=1)
    return Latents(pixel_shuffle(y, places), z)


def squared_error(x: Pixels, x_hat: Pixels, weights: Weights = None) -> PerImage:
    """255^2 times the mean squared error of pixels in [0, 1], of each picture."""
    error = (x - x_hat).square()
    return 255**2 * (error if weights is None else weights * error).flatten(1).mean(dim=1)


def reconstruct(codec: Codec, y: Latent, z: Latent, level: Level = None) -> Reconstruction:
    """What the decoder makes of latents, and their bits."""
    coded = codec.code(y, z, rounded)
    return Reconstruction(codec.synthesise(coded.y_hat, level), coded)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
