"""A restorer applied to pixels of any size.

    degraded --mirrored to whole places--> start --network, in tiles, at each step--> x_0, cut to size and to [0, 1]

    of the whole picture: + what its tones add, and with an encoder what the guide does; from the second step of a consistency model on, of its last estimate

The network is local, so each tile is computed with a margin as wide as it sees, and the tiles change nothing but the last digits of floats: no seams, and no
blending. The noise of a start is drawn for the whole picture.
"""

from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from downstream.restore.consistency import consistent, origin
from downstream.restore.guide import Added
from downstream.restore.model_file import Restorer
from downstream.restore.process import Images, Times
from downstream.restore.sampling import Method, consistency_steps, many_steps
from downstream.restore.tones import tones_of
from downstream.tiles import in_tiles, padded

STEPS = {"regression": 1, "ir_sde": 100, "ir_cm": 1}
"""Where none are asked for."""
Pixels = Float[Tensor, "3 height width"]


@torch.no_grad()
def restore(
    trained: Restorer, degraded: Pixels, *, num_steps: int = 0, times: Sequence[float] = (), seed: int = 0, tile_px: int = 0, method: Method = "posterior", noise_255: float = 0.0,
) -> Pixels:
    """The restored picture, of pixels in [0, 1]; equal for an equal seed on the same machine.

    `num_steps` 0: as many as its kind of training is made for. `times` of the later steps of a consistency model; none: those that it was trained for.
    `tile_px` 0: at once. `noise_255` is the deviation of the noise, for a denoising model; 0: estimated. Raises ValueError for a number of steps that the model does not take.
    """
    num_steps = num_steps or STEPS[trained.kind]
    if trained.kind == "regression" and num_steps != 1:
        raise ValueError(f"{num_steps} steps: this model was trained by regression and takes one")
    network, process = trained.network, trained.process
    stride = network.stride_px
    height, width = degraded.shape[-2:]
    given = padded(degraded[None].to(trained.device), stride)

    tones = None if network.toned is None else tones_of(degraded)[None].to(trained.device)
    added = network.added(given, tones, kept=torch.ones(1, dtype=torch.bool, device=given.device) if trained.guided else None)

    def said(x: Images, t: Times) -> Images:
        share = t / process.end

        def part(both: Float[Tensor, "images 6 _ _"], places: Float[Tensor, "images coarsest _ _"] | None = None) -> Images:
            return network(both[:, :3], both[:, 3:], share, None if added is None else Added(added.time, places))

        both, places = torch.cat([x, given], dim=1), None if added is None else added.places
        if not tile_px:
            return part(both, places)
        return in_tiles(part, both, side=-(-tile_px // stride), margin=network.margin_px // stride, scale=(stride, stride), beside=places)

    def estimate(x: Images, t: Times) -> Images:
        return origin(process, said(x, t), x, given, t, form=trained.settings.form)

    def read_again(x_0: Images) -> None:
        nonlocal added
        if trained.guided and trained.settings.guide.rereads:
            added = Added(added.time, network.guide.placed(x_0.clamp(0, 1), grid=network.grid(given)))

    if trained.kind == "regression":
        restored = estimate(given, torch.full((1,), process.end, device=given.device))
    else:
        deviation = None
        if process.settings.kind == "denoising":
            deviation = torch.tensor([(noise_255 or estimate_noise_255(degraded)) / 255], device=given.device)
            if not deviation:
                return degraded.clone()  # no noise: nothing to take off
        generator = torch.Generator().manual_seed(seed)
        if trained.kind == "ir_sde":
            restored = many_steps(process, estimate, given, generator, num_steps=num_steps, method=method, deviation=deviation)
        else:
            settings = trained.settings

            def f(x: Images, t: Times) -> Images:
                return consistent(process, estimate(x, t), x, given, t, boundary=settings.boundary, spread_255=settings.spread_255)

            restored = consistency_steps(
                process, f, given, generator, num_steps=num_steps, times=times or settings.times, renoise=settings.renoise, deviation=deviation, between=read_again
            )  # fmt: skip
    if not torch.isfinite(restored).all():
        raise ValueError("the restored picture is not finite: give fewer --steps, or train the model longer")
    return restored[0, :, :height, :width].clamp(0, 1).cpu()


def disagreement(samples: Iterable[Float[Tensor, "channels height width"]]) -> Float[Tensor, "height width"]:
    """Where samples differ: their deviation at each place, the mean over channels, of pixels in [0, 1]. Two pictures are held, however many come (Welford 1962)."""
    mean = squares = torch.zeros(())
    number = 0
    for number, sample in enumerate(samples, start=1):
        away = sample - mean
        mean = mean + away / number
        squares = squares + away * (sample - mean)
    return (squares / (number - 1)).sqrt().mean(dim=0)


def estimate_noise_255(x: Float[Tensor, "channels height width"]) -> float:
    """The deviation of Gaussian noise in a picture, in levels of 8 bits: median |d| / 0.6745 of the finest diagonal Haar coefficients (Donoho and Johnstone 1994)."""
    height, width = (side // 2 * 2 for side in x.shape[-2:])
    if not height or not width:
        return 0.0
    corners = rearrange(x[:, :height, :width], "channels (rows top) (columns left) -> (top left) (channels rows columns)", top=2, left=2)
    diagonal = (corners[0] - corners[1] - corners[2] + corners[3]) / 2
    return float(diagonal.abs().median()) / 0.6745 * 255
