"""Entry point: compresses pictures with a trained codec.

    python downstream/codec_encode.py photo.png
    python downstream/codec_encode.py photo.png photo.lclc --model codec.safetensors --level 3
    python downstream/codec_encode.py photos compressed --model codec.safetensors --refine 500 --psnr 36
    python downstream/codec_encode.py photo.png --model codec.safetensors --bytes 20000
    python downstream/codec_encode.py photos compressed --model codec.safetensors --refine 500 --semantic 2 --encoder run
"""

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from pydantic import Field

from downstream.codec.coding import Latents, Profile
from downstream.codec.container import MAGIC
from downstream.codec.image_codec import TILE_PX, decode, encode, tile_of
from downstream.codec.measuring import psnr_db
from downstream.codec.model import Codec
from downstream.codec.model_file import TrainedCodec, load_codec
from downstream.codec.refine import LEARNING_RATE, REFINE_TILE_PX, RefineConfig, Semantic, refine_picture
from downstream.codec.rounding import RoundingConfig
from downstream.codec.searching import highest_level, lowest_level
from downstream.folders import Made, convert, pairs_of
from downstream.photographs import read_photograph, to_tensor
from downstream.sight import Sight, SightConfig
from downstream.tiles import padded
from lcl.core.config import config, run_command
from lcl.core.images import ENDINGS, is_transparent, probe_image
from lcl.core.logs import set_up_logging
from lcl.core.shipped import CODEC, or_shipped
from lcl.features import load_encoder

log = logging.getLogger(__name__)

STEPS_AWAY = (0.0, 0.25, 0.5, 1.0, 2.0)  # of the level, where a refined picture does not meet the wish that the plain one did
WEIGHT_RANGE, WEIGHT_ROUNDS = 16.0, 6
SAY_EVERY = 100  # iterations
LEAST_WEIGHT = 0.02  # of pixels that a mask shows black, so that nothing is free of error


@config
class EncodeConfig:
    input: tyro.conf.Positional[str]
    """A picture, or a folder of them."""
    output: tyro.conf.Positional[str] = ""
    """File for the compressed picture (.lclc), beside the input by default; for a folder of pictures the folder of theirs."""
    model: str = ""
    """The codec, as train_codec.py wrote it; empty: the one that comes with lcl."""
    level: Annotated[float, Field(ge=0)] | None = None
    """Of the model's rates, from 0, the smallest files; between two is possible (2.5). By default the middle one."""
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
    learning_rate: Annotated[float, Field(gt=0)] = LEARNING_RATE
    """Of the refinement."""
    refine_tile_px: Annotated[int, Field(ge=0, multiple_of=64)] = REFINE_TILE_PX
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
    tile_px: Annotated[int, Field(ge=0, multiple_of=64)] = TILE_PX
    """Side of the tiles in which large pictures are computed, to bound memory; 0: at once."""
    threads: Annotated[int, Field(ge=1)] = 1


def main(settings: EncodeConfig) -> None:
    set_up_logging()
    torch.set_num_threads(settings.threads)
    if settings.bytes and settings.psnr:
        raise ValueError("--bytes and --psnr both choose the level; give one of them")
    if settings.level is not None and (settings.bytes or settings.psnr):
        raise ValueError("--bytes and --psnr choose the level; leave out --level")
    changed = {"--mask": settings.mask, "--lmbda": settings.lmbda, "--learning-rate": settings.learning_rate != LEARNING_RATE, "--rounding": settings.rounding != RoundingConfig()}
    if not settings.refine and (given := [name for name, value in changed.items() if value]):
        raise ValueError(f"{', '.join(given)}: of the refinement; give --refine 500 too")
    if settings.mask and not Path(settings.mask).is_file():
        raise ValueError(f"--mask {settings.mask}: no such file")
    if settings.semantic and not (settings.refine and settings.encoder):
        raise ValueError("--semantic is a part of the refinement, by what an encoder sees; give --refine 500 and --encoder with it")
    encoder = load_encoder(Path(settings.encoder)) if settings.encoder else None
    trained = load_codec(or_shipped(settings.model, CODEC), encoder=encoder)
    trained.check_sight()
    if encoder is not None and trained.encoder is None and not settings.semantic:
        raise ValueError("--encoder is for models with an adapter, which this one has not, and for --semantic: give --semantic 2 --refine 500 with it, or leave it out")
    pairs = pairs_of(Path(settings.input), settings.output, endings=ENDINGS, ending=".lclc")
    if (output := pairs[0][1]).suffix.lower() in ENDINGS:
        raise ValueError(f"{output} would be a compressed picture with the name of a plain one: end it with .lclc")
    if settings.mask and len(pairs) > 1:
        raise ValueError("--mask is for one picture; give one")
    semantic = Semantic(Sight(encoder, settings.sight), settings.semantic) if encoder is not None and settings.semantic else None
    convert(pairs, partial(compress, trained=trained, settings=settings, semantic=semantic), title="encoding", may_replace=lambda there: there.startswith(MAGIC))


def compress(path: Path, *, trained: TrainedCodec, settings: EncodeConfig, semantic: Semantic | None) -> Made:
    """The compressed picture, and what to say of it."""
    pixels = read_photograph(path)
    if (pixels == pixels[:, :, :1]).all():
        pixels = pixels[:, :, :1]
    height, width, _ = pixels.shape
    tile_px, top = tile_of((height, width), settings.tile_px), float(len(trained.lmbdas) - 1)

    def at(level: float, *, lmbda: float = 0.0) -> bytes:
        """The file, refined with this weight of the error; 0: not refined."""
        refining = partial(refine_latents, lmbda=lmbda, settings=settings, semantic=semantic, size=(height, width), name=path.name) if lmbda else None
        return encode(trained, pixels, level=level, profile=settings.profile, refine=refining, semantic=semantic is not None, tile_px=tile_px).data

    def refined(level: float) -> bytes:
        return at(level, lmbda=settings.lmbda or trained.lmbda(level))

    def quality_of(data: bytes) -> float:
        return psnr_db(pixels, decode(trained, data, tile_px=tile_px))

    def meets(data: bytes) -> bool:
        return (not settings.bytes or len(data) <= settings.bytes) and (not settings.psnr or quality_of(data) >= settings.psnr)

    level = (top + 1) // 2 if settings.level is None else settings.level
    if not (settings.bytes or settings.psnr):
        data = refined(level) if settings.refine else at(level)
    elif settings.refine and trained.codec.gains is None:
        data = by_weight(settings, partial(at, level), meets, own=trained.lmbda(level))
    else:
        level, data = level_for(settings, at, meets, quality_of, top=top)
        if settings.refine:  # refined latents may take more bytes, or lose decibels, than the plain ones that the level was chosen by
            steps = (-step if settings.bytes else step for step in STEPS_AWAY)
            tried = ((one, refined(one)) for one in dict.fromkeys(min(max(level + step, 0.0), top) for step in steps))
            level, data = next((pair for pair in tried if meets(pair[1])), (level, data))
    said = f"{len(data):,} bytes, {8 * len(data) / (height * width):.3f} bits per pixel, {quality_of(data):.2f} dB, level {level:g}"
    return Made(data, f"{said}{', transparency laid on white' * is_transparent(probe_image(path.read_bytes()))}")


def level_for(settings: EncodeConfig, at: Callable[[float], bytes], meets: Callable[[bytes], bool], quality_of: Callable[[bytes], float], *, top: float) -> tuple[float, bytes]:
    """The level that meets the wish, and its plain file. Raises ValueError where no level does."""
    level = (highest_level if settings.bytes else lowest_level)(lambda one: meets(at(one)), int(top))
    if level is None and settings.bytes:
        raise ValueError(f"even level 0 takes {len(at(0.0))} bytes, more than --bytes {settings.bytes}; allow more, or take a model of lower rates")
    if level is None:
        raise ValueError(f"even the highest level has {quality_of(at(top)):.2f} dB, less than --psnr {settings.psnr:g}; ask for less, or take a model of higher rates")
    return level, at(level)


def by_weight(settings: EncodeConfig, at: Callable[..., bytes], meets: Callable[[bytes], bool], *, own: float) -> bytes:
    """The file of a model of one rate that meets the wish, by the weight of the error in its refinement: a bisection of its logarithm around the model's own.

    Raises ValueError if the wish is out of reach.
    """
    good, bad = (own / WEIGHT_RANGE, own * WEIGHT_RANGE)[:: 1 if settings.bytes else -1]
    best = at(lmbda=good)
    if not meets(best):
        wish = f"--bytes {settings.bytes}" if settings.bytes else f"--psnr {settings.psnr:g}"
        raise ValueError(f"this model has one rate, and its refinement does not come to {wish} (tried: --lmbda {good:g}): ask for less, or take a model for another rate")
    for _ in range(WEIGHT_ROUNDS):
        weight = math.sqrt(good * bad)
        if meets(data := at(lmbda=weight)):
            best, good = data, weight
        else:
            bad = weight
    return best


def refine_latents(
    codec: Codec, x: torch.Tensor, level: torch.Tensor | None, inside: torch.Tensor, *, lmbda: float, settings: EncodeConfig, semantic: Semantic | None, size: tuple[int, int], name: str
) -> Latents:
    def say(done: int) -> None:
        if done % SAY_EVERY == 0:
            log.info("%s: %d of %d iterations", name, done, settings.refine)

    weights = inside * weights_of(settings.mask, size, stride_px=codec.stride_px) if settings.mask else inside
    fitting = RefineConfig(iterations=settings.refine, rounding=settings.rounding, learning_rate=settings.learning_rate)
    return refine_picture(codec, x, fitting, tile_px=settings.refine_tile_px, lmbda=lmbda, level=level, weights=weights, semantic=semantic, progress=say)


def weights_of(mask: str, size: tuple[int, int], *, stride_px: int) -> torch.Tensor:
    """Of the padded picture's pixels, with a mean of 1 over the picture of this height and width. Raises ValueError for a mask of another size."""
    values = to_tensor(read_photograph(Path(mask))).mean(dim=0, keepdim=True)[None] + LEAST_WEIGHT
    if values.shape[-2:] != size:
        raise ValueError(f"--mask has another size ({values.shape[-1]} x {values.shape[-2]}) than the picture ({size[1]} x {size[0]}): scale it to that")
    return padded(values / values.mean(), stride_px)


if __name__ == "__main__":
    run_command(EncodeConfig, main, description=__doc__.splitlines()[0])
