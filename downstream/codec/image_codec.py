"""Pictures to compressed bytes and back.

    pixels --mirrored to whole places of z--> analysis, in tiles --> y, z (refined, if asked) --walk--> payload, under a header
    bytes --> header, payload --walk--> y_hat --synthesis, in tiles--> pixels, cut to size

A tile is computed with a margin as wide as its convolutions see, so that tiles bound memory and change nothing but the last digits of floats. What an adapter's encoder
sees is of the whole picture, tiles or not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from downstream.codec.coding import Latents, Profile, Reader, Writer, walk
from downstream.codec.container import LEVEL_ONE, STRIDE_PX, Header, is_too_large, pack, unpack
from downstream.codec.model import Codec, Latent
from downstream.codec.model_file import TrainedCodec
from downstream.photographs import to_levels, to_tensor
from downstream.tiles import in_tiles, padded

TILE_PX = 1024  # side of tiles by default
LATENT_PX = 16  # pixels of the input to one place of y, along each side
Refine = Callable[[Codec, Tensor, Float[Tensor, " images"] | None, Tensor], Latents]
"""(codec, padded pixels, level, 1 at pixels of the picture and 0 where it was filled up) -> latents that were fitted to them."""


@dataclass(frozen=True)
class Encoded:
    data: bytes
    estimated_bits: float
    """Of the latents under the model, before coding."""


@torch.no_grad()
def encode(trained: TrainedCodec, pixels: UInt8[np.ndarray, "height width channels"], *, level: float = 0.0, profile: Profile = "fast", refine: Refine | None = None, semantic: bool = False, tile_px: int = 0) -> Encoded:
    """The compressed picture, grey (one channel) or colour; levels are rounded to what the header holds. `semantic` says that `refine` fits to what an encoder sees.

    Raises ValueError for a level or profile that the model does not have, for an encoder that it lacks, and for a picture that is too large.
    """
    trained.check_sight()
    check_profile(trained, profile)
    level = round(level * LEVEL_ONE) / LEVEL_ONE
    codec, at = trained.codec, trained.level(level)
    height, width, channels = pixels.shape
    if is_too_large(width, height):
        raise ValueError(f"the picture is {width} x {height} px, with sides filled up to multiples of {STRIDE_PX} more than is coded: cut it into parts")
    x = padded(to_tensor(pixels).expand(3, -1, -1)[None], codec.stride_px)
    if refine is not None:
        with torch.enable_grad():
            inside = x.new_zeros(1, 1, *x.shape[-2:])
            inside[:, :, :height, :width] = 1
            latents = refine(codec, x, at, inside)
    else:
        latents = analyse_in_tiles(codec, x, at, tile_px=tile_px)
    writer = Writer()
    walk(codec, trained.tables, writer, tuple(latents.z.shape[-2:]), profile, latents)
    header = Header(profile, channels, trained.hash, width, height, level, writer.checksum, semantic)
    return Encoded(pack(header, writer.coder.bytes()), float(codec.code(latents.y, latents.z).bits.sum()))


def decode(trained: TrainedCodec, data: bytes, *, tile_px: int = 0) -> UInt8[np.ndarray, "height width channels"]:
    """The picture. Raises ValueError as `read_latents`."""
    header, y_hat = read_latents(trained, data)
    return pixels_of(trained, header, y_hat, tile_px=tile_px)


def pixels_of(trained: TrainedCodec, header: Header, y_hat: Latent, *, tile_px: int = 0) -> UInt8[np.ndarray, "height width channels"]:
    """What `read_latents` gave, as 8-bit pixels."""
    found = synthesise_in_tiles(trained.codec, y_hat, trained.level(header.level), grey=header.channels == 1, tile_px=tile_px, finish=to_levels)
    return rearrange(found[:, :, : header.height, : header.width], "1 channels height width -> height width channels").numpy()


@torch.no_grad()
def read_latents(trained: TrainedCodec, data: bytes) -> tuple[Header, Latent]:
    """The header, and y_hat. Raises ValueError for bytes that are damaged, of another model, or read by a machine whose floats choose other tables."""
    header, payload = unpack(data)
    if header.model != trained.hash:
        raise ValueError(f"the picture was compressed with another model ({header.model:016x}); this one is {trained.hash:016x}. Give --model the file that it names.")
    check_profile(trained, header.profile)
    trained.level(header.level)
    codec = trained.codec
    size = tuple(-(-side // codec.stride_px) for side in (header.height, header.width))
    reader = Reader(payload)
    try:
        y_hat = walk(codec, trained.tables, reader, size, header.profile)
    except ValueError as error:
        raise ValueError(f"{error}; {_ELSEWHERE}") from error
    if reader.checksum != header.checksum:
        raise ValueError(f"the symbols are not those that were written; {_ELSEWHERE}")
    return header, y_hat


def check_profile(trained: TrainedCodec, profile: Profile) -> None:
    """Raises ValueError for one that the model does not have."""
    if profile == "portable" and trained.tables.integers is None:
        raise ValueError("this model has no portable profile (its means need earlier groups of y); give --profile fast, or a model of kind mean_scale")


def tile_of(sides: Sequence[int], tile_px: int) -> int:
    """The side of tiles for a picture with these sides, in pixels: 0, none, for one that is a single tile."""
    return tile_px if max(sides) > tile_px else 0


_ELSEWHERE = "the file itself is whole, so this machine's float arithmetic differs from the writer's: decode it there, or write it with --profile portable"


@torch.no_grad()
def analyse_in_tiles(codec: Codec, x: Float[Tensor, "1 3 height width"], level: Float[Tensor, " images"] | None, *, tile_px: int) -> Latents:
    """y and z of the padded picture, its transform computed in tiles of `tile_px` (0: at once)."""
    if not tile_px:
        return Latents(*codec.analyse(x, level))
    side = tile_px // LATENT_PX
    y: Latent = in_tiles(codec.g_a, x, side=side, margin=codec.tile_margin, scale=(LATENT_PX, 1))
    if codec.adapter is not None:
        y = y + in_tiles(codec.adapter.added, codec.adapter.seen(x, y), side=side, margin=codec.adapter.margin, scale=(1, 1))
    return Latents(*codec.at_level(y, level))


@torch.no_grad()
def synthesise_in_tiles(
    codec: Codec, y_hat: Latent, level: Float[Tensor, " images"] | None, *, grey: bool = False, tile_px: int, finish: Callable[[Tensor], Tensor]
) -> Shaped[Tensor, "1 channels height width"]:
    """What `finish` makes of one padded picture's pixels, which may leave [0, 1]; of floats there are those of a tile at a time (0: of all)."""

    def pixels(part: Latent) -> Tensor:
        x_hat = codec.synthesise(part, level)
        return finish(x_hat.mean(dim=1, keepdim=True) if grey else x_hat)

    return in_tiles(pixels, y_hat, side=tile_px // LATENT_PX, margin=codec.tile_margin, scale=(1, LATENT_PX)) if tile_px else pixels(y_hat)
