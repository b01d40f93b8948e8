"""Entry point: one mean-scale hyperprior in CompressAI and here, the same weights: pixels, bytes, and seconds in pairs.

    python benchmarks/compressai_peer.py --model codec.safetensors --photographs photos --environment FOLDER --output peer.json

    weights at one level --names of theirs--> their process, in an environment of its own --+
                         +--------------------> ours -----------------------------------------+--> equal? how fast?
    photographs, padded, one after the other to both, the first by turns

Both are given padded pictures in memory and give bytes, and both use one thread. Ours also writes its header and its checksums.
"""

import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from peer_environment import make_environment
from pydantic import Field
from torch import Tensor

from downstream.codec.container import HEADER_BYTES
from downstream.codec.image_codec import decode, encode
from downstream.codec.mean_scale import MeanScale
from downstream.codec.model_file import CodecConfig, TrainedCodec, finish, load_codec
from downstream.codec.published import learned
from downstream.photographs import list_photographs, read_photograph, to_bytes, to_tensor
from downstream.tiles import padded
from lcl.core.config import config, run_command
from lcl.core.logs import progress_bar, set_up_logging
from lcl.measured import write_result

log = logging.getLogger(__name__)

PEER = "compressai==1.2.8"
AGREE, MORE_BYTES = 1e-5, 1e-3  # largest difference of pixels in [0, 1]; share of bytes that ours may have more (fewer are no fault: the estimated bits are the same)


@config
class PeerConfig:
    model: str
    """A codec of kind mean_scale."""
    photographs: str
    environment: str
    """Folder of the peer's virtual environment; made with pip, of some GB, if it is not there."""
    output: str
    """JSON file for the numbers."""
    level: Annotated[float, Field(ge=0)] = 0.0
    """Of the model's rates, whose gains become part of the weights."""
    max_photographs: Annotated[int, Field(ge=0)] = 0
    """The first so many, by name; 0: all."""
    rounds: Annotated[int, Field(ge=1)] = 3
    """Times that each picture is coded by both; the median counts."""


def main(settings: PeerConfig) -> None:
    set_up_logging()
    torch.set_num_threads(1)
    trained = at_one_level(load_codec(Path(settings.model)), settings.level)
    files = list_photographs(Path(settings.photographs))
    files = files[: settings.max_photographs] if settings.max_photographs else files
    python = make_environment(Path(settings.environment), [PEER, f"torch=={torch.__version__.split('+')[0]}"])
    with TemporaryDirectory() as scratch, progress_bar("coding", total=len(files)) as bar, peer(python, trained, Path(scratch)) as ask:
        found = []
        for path in files:
            found.append({"picture": path.name, **compare(trained, path, ask, Path(scratch), rounds=settings.rounds)})
            bar.advance()
    sums = {f"{who}_{what}": sum(one[who][what] for one in found) for who in ("ours", "peer") for what in ("bytes", "encode_seconds", "decode_seconds")}
    ratio = (sums["ours_encode_seconds"] + sums["ours_decode_seconds"]) / (sums["peer_encode_seconds"] + sums["peer_decode_seconds"])
    measured = {
        "pictures": found, **sums, "largest_pixel_difference": max(one["pixel_difference"] for one in found), "bits_difference": max(abs(one["bits_difference"]) for one in found),
        "bytes_difference": (sums["ours_bytes"] - sums["peer_bytes"]) / sums["peer_bytes"], "seconds_ratio": ratio, "seconds_ratio_median": median(one["seconds_ratio"] for one in found),
        "peer_version": PEER,
    }  # fmt: skip
    write_result(Path(settings.output), settings, measured)
    log.info(
        "%d pictures: pixels differ by %.1e, bytes by %+.3f %% (without our header of %d), encoding and decoding takes %.2f of the peer's time: %s",
        len(found), measured["largest_pixel_difference"], 100 * measured["bytes_difference"], HEADER_BYTES, ratio, settings.output,
    )  # fmt: skip
    if measured["largest_pixel_difference"] > AGREE or measured["bytes_difference"] > MORE_BYTES:
        raise ValueError(f"CompressAI and this codec differ: see {settings.output}")


def at_one_level(trained: TrainedCodec, level: float) -> TrainedCodec:
    """The codec with the gains of a level in its weights. Raises ValueError for one of another kind."""
    if not isinstance(trained.codec, MeanScale):
        raise ValueError("--model is no codec of kind mean_scale, the one that both have")
    at = trained.level(level)
    plain = CodecConfig(kind="mean_scale", mean_scale=trained.settings.mean_scale)
    codec = plain.build()
    codec.load_state_dict({name: value for name, value in trained.codec.state_dict().items() if not name.startswith("gains.")})
    gains = trained.codec.gains
    if gains is not None and at is not None:
        before, after = (gains.at(table, at).detach().flatten() for table in (gains.before, gains.after))
        with torch.no_grad():
            codec.g_a[-1].weight.mul_(before[:, None, None, None])
            codec.g_a[-1].bias.mul_(before)
            codec.g_s[0].weight.mul_(after[:, None, None, None])
    return finish(codec, plain, (trained.lmbda(level),), trained.about, [torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))])


@contextmanager
def peer(python: Path, trained: TrainedCodec, scratch: Path) -> Iterator[Any]:
    """A function from a picture's file to the peer's answer. Raises ValueError if its process ends."""
    state = {name.replace("z_entropy_bottleneck.", "entropy_bottleneck."): value.numpy() for name, value in learned(trained.codec.state_dict()).items()}
    np.savez(scratch / "weights.npz", **state)
    sizes = trained.settings.mean_scale
    words = [python, Path(__file__).with_name("compressai_side.py"), scratch / "weights.npz", sizes.width, sizes.latent_width]
    with (scratch / "errors.txt").open("w+") as errors, subprocess.Popen(
        [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None

        def answer() -> dict[str, Any]:
            line = process.stdout.readline()
            if not line:
                errors.seek(0)
                raise ValueError(f"CompressAI's process ended: {next(iter(errors.read().strip().splitlines()[-1:]), '')}")
            return json.loads(line)

        def ask(path: Path) -> dict[str, Any]:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            return answer()

        answer()  # it is ready
        yield ask
        process.stdin.close()


def compare(trained: TrainedCodec, path: Path, ask: Any, scratch: Path, *, rounds: int) -> dict[str, Any]:
    """One picture by both: sizes, medians of seconds, and how far apart pixels and estimated bits are."""
    x = padded(to_tensor(read_photograph(path))[None], trained.codec.stride_px)
    file = scratch / "picture.npy"
    np.save(file, to_tensor(to_bytes(x[0])).numpy())
    ours, theirs = [], []
    for number in range(rounds):
        for who in (ours, theirs)[:: 1 if number % 2 else -1]:
            who.append(ask(file) if who is theirs else code(trained, x))
    with torch.no_grad():
        passed = trained.codec(to_tensor(to_bytes(x[0]))[None])
    answer = np.load(f"{file}.answer.npz")
    sums = {name: {what: median(one[what] for one in who) for what in who[0]} for name, who in (("ours", ours), ("peer", theirs))}
    seconds = {name: one["encode_seconds"] + one["decode_seconds"] for name, one in sums.items()}
    return {
        **sums, "pixel_difference": float((passed.x_hat - torch.from_numpy(answer["x_hat"])).abs().max()),
        "bits_difference": float(passed.coded.bits[0]) / float(answer["bits"]) - 1, "seconds_ratio": seconds["ours"] / seconds["peer"],
    }  # fmt: skip


def code(trained: TrainedCodec, x: Float[Tensor, "1 3 height width"]) -> Mapping[str, float]:
    pixels = to_bytes(x[0])
    started = time.perf_counter()
    encoded = encode(trained, pixels)
    between = time.perf_counter()
    decode(trained, encoded.data)
    ended = time.perf_counter()
    return {"bytes": len(encoded.data) - HEADER_BYTES, "encode_seconds": between - started, "decode_seconds": ended - between}


if __name__ == "__main__":
    run_command(PeerConfig, main, description=__doc__.splitlines()[0])
