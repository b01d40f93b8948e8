"""Entry point: compresses pictures with a trained codec.

    python downstream/codec_encode.py photo.png photo.lclc --model codec.safetensors --level 3
    python downstream/codec_encode.py photos compressed --model codec.safetensors --refine 500 --psnr 36
    python downstream/codec_encode.py photo.png --model codec.safetensors --bytes 20000
    python downstream/codec_encode.py photos compressed --model codec.safetensors --refine 500 --semantic 2 --encoder run
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from pydantic import Field

from downstream.codec.coding import Latents, Profile
from downstream.codec.image_codec import Encoded, decode, encode
from downstream.codec.measuring import psnr_db
from downstream.codec.model import Codec
from downstream.codec.model_file import TrainedCodec, load_codec
from downstream.codec.refine import RefineConfig, Semantic, refine, refine_in_tiles
from downstream.codec.rounding import RoundingConfig
from downstream.codec.searching import highest_level, lowest_level
from downstream.folders import Made, convert, pairs_of
from downstream.photographs import read_photograph, to_tensor
from downstream.sight import Sight, SightConfig
from downstream.tiles import padded
from lcl.core.config import config, run_command
from lcl.core.images import ENDINGS, is_transparent, probe_image
from lcl.core.logs import set_up_logging
from lcl.features import load_encoder

LEVEL_STEP = 0.25  # down, where a refined picture is larger than was asked for
LEAST_WEIGHT = 0.02  # of pixels that a mask shows black, so that nothing is free of error


@config
class EncodeConfig:
    input: tyro.conf.Positional[str]
    """A picture, or a folder of them."""
    output: tyro.conf.Positional[str] = ""
    """File or folder for the compressed pictures (.lclc); beside the input by default."""
    model: str
    """The codec, as train_codec.py wrote it."""
    level: Annotated[float, Field(ge=0)] = 0.0
    """Of the model's rates; between two is possible (2.5)."""
    bytes: Annotated[int, Field(ge=0)] = 0
    """At most so many: the highest level that fits is chosen."""
    psnr: Annotated[float, Field(ge=0)] = 0.0
    """At least so many decibels: the lowest level that has them is chosen."""
    refine: Annotated[int, Field(ge=0)] = 0
    """Iterations that fit the latents to each picture (SGA+); 100 to 2000 make the files smaller, and take time."""
    lmbda: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared error in the refinement; 0: what the level was trained for. Another one moves along the curve."""
    mask: str = ""
    """A grey picture of the input's size: where it is bright the refinement keeps more detail."""
    refine_tile_px: Annotated[int, Field(ge=0, multiple_of=64)] = 512
    """Side of the tiles in which larger pictures are refined, to bound memory; 0: at once."""
    semantic: Annotated[float, Field(ge=0)] = 0.0
    """Weight in the refinement of what an encoder sees: bits per pixel that 1 - cos of its tokens is worth. Trades PSNR for what a classifier sees."""
    encoder: str = ""
    """The encoder (checkpoint, run or export) of --semantic, and of a model with an adapter, which takes no other. Decoding never needs it."""
    sight: SightConfig = SightConfig()
    """How the encoder of --semantic looks."""
    rounding: RoundingConfig = RoundingConfig()
    profile: Profile = "fast"
    """portable: can be decoded on any machine, to the bit."""
    tile_px: Annotated[int, Field(ge=0, multiple_of=64)] = 1024
    """Side of the tiles in which large pictures are computed, to bound memory; 0: at once."""
    threads: Annotated[int, Field(ge=1)] = 1


def main(settings: EncodeConfig) -> None:
    set_up_logging()
    torch.set_num_threads(settings.threads)
    if settings.bytes and settings.psnr:
        raise ValueError("--bytes and --psnr both choose the level; give one of them")
    if (settings.mask or settings.lmbda) and not settings.refine:
        raise ValueError("--mask and --lmbda are of the refinement; give --refine 500 with them")
    if settings.semantic and not (settings.refine and settings.encoder):
        raise ValueError("--semantic is a part of the refinement, by what an encoder sees; give --refine 500 and --encoder with it")
    encoder = load_encoder(Path(settings.encoder)) if settings.encoder else None
    trained = load_codec(Path(settings.model), encoder=encoder)
    trained.check_sight()
    if encoder is not None and trained.encoder is None and not settings.semantic:
        raise ValueError("--encoder is for models with an adapter, which this one has not, and for --semantic: give --semantic 2 --refine 500 with it, or leave it out")
    pairs = pairs_of(Path(settings.input), Path(settings.output) if settings.output else None, endings=ENDINGS, ending=".lclc")
    if settings.mask and len(pairs) > 1:
        raise ValueError("--mask is for one picture; give one")
    semantic = Semantic(Sight(encoder, settings.sight), settings.semantic) if encoder is not None and settings.semantic else None
    convert(pairs, partial(compress, trained=trained, settings=settings, semantic=semantic), title="encoding")


def compress(path: Path, *, trained: TrainedCodec, settings: EncodeConfig, semantic: Semantic | None) -> Made:
    """The compressed picture, and what to say of it."""
    pixels = read_photograph(path)
    if (pixels == pixels[:, :, :1]).all():
        pixels = pixels[:, :, :1]

    def at(level: float, *, refined: bool = False) -> Encoded:
        refining = partial(refine_latents, level_value=level, trained=trained, settings=settings, semantic=semantic) if refined else None
        return encode(trained, pixels, level=level, profile=settings.profile, refine=refining, tile_px=settings.tile_px if max(pixels.shape) > settings.tile_px else 0)

    level, top = settings.level, len(trained.lmbdas) - 1
    if settings.bytes:
        found = highest_level(lambda one: len(at(one).data) <= settings.bytes, top)
        if found is None:
            raise ValueError(f"even level 0 takes {len(at(0.0).data)} bytes, more than --bytes {settings.bytes}; allow more, or take a model of lower rates")
        level = found
    elif settings.psnr:
        found = lowest_level(lambda one: psnr_db(pixels, decode(trained, at(one).data)) >= settings.psnr, top)
        if found is None:
            best = psnr_db(pixels, decode(trained, at(float(top)).data))
            raise ValueError(f"even the highest level has {best:.2f} dB, less than --psnr {settings.psnr:g}; ask for less, or take a model of higher rates")
        level = found
    data = at(level, refined=settings.refine > 0).data
    while settings.bytes and len(data) > settings.bytes:  # refined latents may take more than the plain ones that the level was chosen by
        level, plain = max(0.0, level - LEVEL_STEP), level == 0
        data = at(level, refined=not plain).data
    quality = psnr_db(pixels, decode(trained, data))
    height, width, _ = pixels.shape
    return Made(data, f"{len(data):,} bytes, {8 * len(data) / (height * width):.3f} bits per pixel, {quality:.2f} dB, level {level:g}{', transparency laid on white' * is_transparent(probe_image(path.read_bytes()))}")


def refine_latents(
    codec: Codec, x: torch.Tensor, level: torch.Tensor | None, *, level_value: float, trained: TrainedCodec, settings: EncodeConfig, semantic: Semantic | None
) -> Latents:
    weights = weights_of(settings.mask, x, stride_px=codec.stride_px) if settings.mask else None
    options = {"lmbda": settings.lmbda or trained.lmbda(level_value), "level": level, "weights": weights, "semantic": semantic}
    fitting = RefineConfig(iterations=settings.refine, rounding=settings.rounding)
    if settings.refine_tile_px and max(x.shape) > settings.refine_tile_px:
        return refine_in_tiles(codec, x, fitting, side_px=settings.refine_tile_px, **options)
    return refine(codec, x, fitting, **options).latents


def weights_of(mask: str, x: torch.Tensor, *, stride_px: int) -> torch.Tensor:
    """Of the padded picture's pixels, with a mean of 1. Raises ValueError for a mask of another size."""
    values = to_tensor(read_photograph(Path(mask))).mean(dim=0, keepdim=True)[None]
    weights = padded(values, stride_px)
    if weights.shape[-2:] != x.shape[-2:]:
        raise ValueError(f"--mask has another size ({values.shape[-1]} x {values.shape[-2]}) than the picture: scale it to that")
    weights = weights + LEAST_WEIGHT
    return weights / weights.mean()


if __name__ == "__main__":
    run_command(EncodeConfig, main, description=__doc__.splitlines()[0])
