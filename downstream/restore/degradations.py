"""What spoils photographs: seeded generators whose parameters have units.

    clean pixels in [0, 1], as a file shows them (not linear light) --degrade(task, strength drawn by a generator)--> degraded pixels, rounded to 8 bits
    part of a photograph, with a margin of `reach_px` --degrade_window--> what it is in the degraded photograph

What is drawn for each pixel, noise and rain, is drawn for the part alone; JPEG's blocks begin at the part's corner, as they do at the corner of the pictures that a restorer gets.

kornia and torchvision have blurs, noise and JPEG too; their random parts draw from one global generator, and what is left of them is a convolution.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from downstream.photographs import Place, Window, to_bytes, to_tensor
from lcl.core.config import config

Picture = Float[Tensor, "3 height width"]
Part = Literal["rain", "noise", "shot_noise", "motion_blur", "defocus", "low_light", "jpeg", "haze", "downscale", "grain"]
Task = Literal[Part, "mixed"]
PARTS: tuple[Part, ...] = get_args(Part)
Range = tuple[float, float]
"""From and to; a strength is drawn evenly in between."""
EIGHTHS = 8  # of a factor of scale: the two grids of pixels meet again after that many small ones


@config
class DegradationConfig:
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)] = ("rain",)
    """What a restorer learns to undo; each picture gets one of them."""
    rain_streaks: Range = (100.0, 800.0)
    """Streaks in a square of 256 x 256 px."""
    rain_length_px: Range = (10.0, 40.0)
    rain_width_px: Range = (1.0, 2.0)
    rain_angle_degrees: Range = (-30.0, 30.0)
    """From the vertical."""
    rain_brightness: Range = (0.2, 0.6)
    noise_255: Range = (5.0, 50.0)
    """Deviation of Gaussian noise, in levels of 8 bits: of `noise`, drawn for each channel, and of `grain`, which all channels share."""
    shot_photons: Range = (20.0, 200.0)
    """Photons that white stands for, of Poisson noise."""
    motion_length_px: Range = (5.0, 21.0)
    motion_angle_degrees: Range = (0.0, 180.0)
    defocus_radius_px: Range = (1.0, 5.0)
    low_light_gain: Range = (0.1, 0.4)
    low_light_gamma: Range = (1.0, 2.0)
    low_light_noise_255: Range = (1.0, 4.0)
    jpeg_quality: Range = (10.0, 40.0)
    haze_depth: Range = (0.8, 2.5)
    """Optical depth of the farthest places: exp(-depth) of their light arrives."""
    haze_airlight: Range = (0.7, 0.95)
    downscale_factor: Range = (2.0, 4.0)
    """Taken to the nearest eighth."""
    mixed_parts: Annotated[tuple[Part, ...], Field(min_length=2)] = ("rain", "noise", "low_light", "jpeg")
    """What mixed chooses two of, done in this order."""

    def check(self) -> None:
        """Raises ValueError for a range that falls."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value[0], float) and value[0] > value[1]:
                raise ValueError(f"degradations.{field.name} goes from {value[0]:g} down to {value[1]:g}: give the lower end first")


PARAMETERS: dict[Part, tuple[str, ...]] = {
    "rain": ("rain_streaks", "rain_length_px", "rain_width_px", "rain_angle_degrees", "rain_brightness"), "noise": ("noise_255",), "shot_noise": ("shot_photons",),
    "motion_blur": ("motion_length_px", "motion_angle_degrees"), "defocus": ("defocus_radius_px",), "low_light": ("low_light_gain", "low_light_gamma", "low_light_noise_255"),
    "jpeg": ("jpeg_quality",), "haze": ("haze_depth", "haze_airlight"), "downscale": ("downscale_factor",), "grain": ("noise_255",),
}  # fmt: skip
"""The strengths of each."""


def parameters_of(task: Task, settings: DegradationConfig) -> dict[str, Range]:
    """The strengths that a task is done with; of `mixed` those of all its parts."""
    parts = settings.mixed_parts if task == "mixed" else (task,)
    return {name: getattr(settings, name) for part in parts for name in PARAMETERS[part]}


@dataclass(frozen=True)
class Degraded:
    pixels: Picture
    task: Task
    noise_255: float = 0.0
    """Deviation of the Gaussian noise that was added, where that was all; 0 otherwise."""
    kernel: Float[Tensor, "side side"] | None = None
    """What the picture was blurred with, where that was all."""
    around: Float[Tensor, "3 around_height around_width"] | None = None
    """Of a window's part: all of the window."""


def degrade_window(window: Window, settings: DegradationConfig, rng: np.random.Generator) -> Degraded:
    """The window's part, degraded as in its photograph; the window has a margin of `reach_px`."""
    made = degrade(to_tensor(window.pixels), settings, rng, place=window.place)
    return replace(made, pixels=made.pixels[:, window.rows, window.columns], around=made.pixels)


def reach_px(settings: DegradationConfig) -> int:
    """How far beyond a place these tasks look at most. Those that look at the place alone have 0: their parts need no margin."""

    def reach(part: Part) -> int:
        most = {name: high for name, (_, high) in parameters_of(part, settings).items()}
        if part == "motion_blur":
            return motion_kernel(most["motion_length_px"], 0.0).shape[0] // 2
        if part == "defocus":
            return defocus_kernel(most["defocus_radius_px"]).shape[0] // 2
        return 6 * math.ceil(most["downscale_factor"]) if part == "downscale" else 0  # both bicubic: two small pixels to each side, twice, and where small pixels begin

    return max(sum(map(reach, settings.mixed_parts)) if task == "mixed" else reach(task) for task in settings.tasks)


def degrade(x: Picture, settings: DegradationConfig, rng: np.random.Generator, *, place: Place | None = None) -> Degraded:
    """One of the tasks, at a strength, both drawn by `rng`; of a whole photograph, or of its pixels at a place."""
    place = place or _whole(x)
    task = settings.tasks[int(rng.integers(len(settings.tasks)))]
    if task == "mixed":
        parts = sorted(rng.choice(len(settings.mixed_parts), 2, replace=False))
        y = x
        for part in parts:
            y = _one(y, settings.mixed_parts[part], settings, rng, place).pixels
        return Degraded(_as_file(y), task)
    made = _one(x, task, settings, rng, place)
    return replace(made, pixels=_as_file(made.pixels))


def _one(x: Picture, task: Task, settings: DegradationConfig, rng: np.random.Generator, place: Place) -> Degraded:
    def drawn(name: str) -> float:
        return float(rng.uniform(*getattr(settings, name)))

    if task == "noise":
        deviation = drawn("noise_255")
        return Degraded(gaussian_noise(x, rng, deviation_255=deviation), task, noise_255=deviation)
    if task in ("motion_blur", "defocus"):
        kernel = defocus_kernel(drawn("defocus_radius_px")) if task == "defocus" else motion_kernel(drawn("motion_length_px"), drawn("motion_angle_degrees"))
        return Degraded(blur(x, kernel), task, kernel=kernel)
    made: dict[str, Callable[[], Picture]] = {
        "rain": lambda: rain(
            x, rng, streaks=drawn("rain_streaks"), length_px=drawn("rain_length_px"), width_px=drawn("rain_width_px"), angle_degrees=drawn("rain_angle_degrees"),
            brightness=drawn("rain_brightness"),
        ),
        "shot_noise": lambda: shot_noise(x, rng, photons=drawn("shot_photons")),
        "low_light": lambda: low_light(x, rng, gain=drawn("low_light_gain"), gamma=drawn("low_light_gamma"), noise_255=drawn("low_light_noise_255")),
        "jpeg": lambda: jpeg(x, quality=round(drawn("jpeg_quality"))),
        "haze": lambda: haze(x, rng, depth=drawn("haze_depth"), airlight=drawn("haze_airlight"), place=place),
        "downscale": lambda: downscale(x, factor=round(EIGHTHS * drawn("downscale_factor")) / EIGHTHS, corner=place.corner),
        "grain": lambda: grain(x, rng, deviation_255=drawn("noise_255")),
    }  # fmt: skip
    return Degraded(made[task](), task)


def _whole(x: Picture) -> Place:
    return Place((0, 0), (x.shape[-2], x.shape[-1]))


def _as_file(x: Picture) -> Picture:
    return to_tensor(to_bytes(x))


def gaussian_noise(x: Picture, rng: np.random.Generator, *, deviation_255: float) -> Picture:
    """x + n, n ~ N(0, (deviation_255 / 255)^2), not cut to [0, 1]."""
    return x + deviation_255 / 255 * _normal(x, rng)


def grain(x: Picture, rng: np.random.Generator, *, deviation_255: float) -> Picture:
    """x + n, n as of `gaussian_noise` but the same in all channels: what noise is in a grey picture, and much of what is left of it behind a camera's or a video's coding of colours."""
    return x + deviation_255 / 255 * _normal(x[:1], rng)


def shot_noise(x: Picture, rng: np.random.Generator, *, photons: float) -> Picture:
    """Poisson counts of x * photons, over photons: their variance is x / photons."""
    return torch.from_numpy(rng.poisson(x.clamp(0, 1).numpy() * photons) / photons).float()


def rain(x: Picture, rng: np.random.Generator, *, streaks: float, length_px: float, width_px: float, angle_degrees: float, brightness: float) -> Picture:
    """1 - (1 - x)(1 - r): light r laid over the picture as by a second exposure, of lines at places drawn by `rng`, each of its own strength."""
    line = _line(length_px, angle_degrees + 90, width_px)
    reach = line.shape[0] // 2  # streaks begin outside of the picture too
    height, width = (length + 2 * reach for length in x.shape[-2:])
    number = rng.poisson(streaks * height * width / 256**2)
    drops = np.zeros((height, width), dtype=np.float32)
    np.add.at(drops, (rng.integers(height, size=number), rng.integers(width, size=number)), rng.uniform(0.3, 1, size=number).astype(np.float32))
    light = _convolve(torch.from_numpy(drops)[None], line / line.max())[:, reach : height - reach, reach : width - reach] * brightness
    return 1 - (1 - x) * (1 - light.clamp(0, 1))


def blur(x: Picture, kernel: Float[Tensor, "side side"]) -> Picture:
    """The mean of each place's surroundings, weighted by the kernel."""
    return _convolve(x, kernel)


def motion_kernel(length_px: float, angle_degrees: float) -> Float[Tensor, "side side"]:
    """Of the mean along a line, its angle counted from the horizontal, counter-clockwise."""
    return _normed(_line(length_px, angle_degrees, 1.0))


def defocus_kernel(radius_px: float) -> Float[Tensor, "side side"]:
    """Of the mean over a disc."""
    reach = math.ceil(radius_px)
    rows, columns = torch.meshgrid(torch.arange(-reach, reach + 1.0), torch.arange(-reach, reach + 1.0), indexing="ij")
    return _normed((radius_px + 0.5 - (rows.square() + columns.square()).sqrt()).clamp(0, 1))


def low_light(x: Picture, rng: np.random.Generator, *, gain: float, gamma: float, noise_255: float) -> Picture:
    """gain x^gamma + noise."""
    return gain * x.clamp(0, 1) ** gamma + noise_255 / 255 * _normal(x, rng)


def jpeg(x: Picture, *, quality: int) -> Picture:
    """Written as JPEG of this quality (libjpeg's scale, colours at half the sides) and read again."""
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(x)).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return to_tensor(np.asarray(Image.open(buffer)))


def haze(x: Picture, rng: np.random.Generator, *, depth: float, airlight: float, place: Place | None = None) -> Picture:
    """x t + A (1 - t) with t = exp(-depth d), d from 0 to 1 over the photograph (Koschmieder's law).

    d is smooth noise, nearer towards the lower edge, for the depth of a photograph is not known.
    """
    place = place or _whole(x)
    (top, left), (height, width) = place.corner, place.photograph
    coarse = torch.from_numpy(rng.random((1, 1, 4, 4), dtype=np.float32))
    smooth = functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
    near = smooth + torch.linspace(1, 0, height)[None, :, None]
    least, most = near.min(), near.max()
    t = torch.exp(-depth * ((near - least) / (most - least) if most > least else near * 0))[:, top : top + x.shape[-2], left : left + x.shape[-1]]
    return x * t + airlight * (1 - t)


def downscale(x: Picture, *, factor: float, corner: tuple[int, int] = (0, 0)) -> Picture:
    """Made smaller by the factor, in whole eighths, and enlarged again; both bicubic, the first with antialiasing. In 64 bits, so that parts equal the whole.

    A picture is continued by its last pixels, before its `corner` in a photograph and behind its end, to where pixels of both sizes begin together.
    """
    period = round(EIGHTHS * factor)
    before = [start % period for start in corner]
    wide = [before[1], -(before[1] + x.shape[-1]) % period, before[0], -(before[0] + x.shape[-2]) % period]
    whole = functional.pad(x[None].double(), wide, mode="replicate")
    small = functional.interpolate(whole, [EIGHTHS * side // period for side in whole.shape[-2:]], mode="bicubic", antialias=True, align_corners=False)
    again = functional.interpolate(small, whole.shape[-2:], mode="bicubic", align_corners=False)[0].float()
    return again[:, before[0] : before[0] + x.shape[-2], before[1] : before[1] + x.shape[-1]]


def _normal(like: Float[Tensor, "channels height width"], rng: np.random.Generator) -> Float[Tensor, "channels height width"]:
    return torch.from_numpy(rng.standard_normal(like.shape, dtype=np.float32))


def _line(length_px: float, angle_degrees: float, width_px: float) -> Float[Tensor, "side side"]:
    """A smooth-edged line through the centre."""
    reach = math.ceil(length_px / 2) + math.ceil(width_px)
    rows, columns = torch.meshgrid(torch.arange(-reach, reach + 1.0), torch.arange(-reach, reach + 1.0), indexing="ij")
    angle = math.radians(angle_degrees)
    along, across = columns * math.cos(angle) - rows * math.sin(angle), columns * math.sin(angle) + rows * math.cos(angle)
    return ((length_px + 1) / 2 - along.abs()).clamp(0, 1) * ((width_px + 1) / 2 - across.abs()).clamp(0, 1)


def _normed(kernel: Float[Tensor, "side side"]) -> Float[Tensor, "side side"]:
    return kernel / kernel.sum()


def _convolve(x: Float[Tensor, "channels height width"], kernel: Float[Tensor, "side side"]) -> Float[Tensor, "channels height width"]:
    """Each channel with the kernel, through its Fourier transform, in 64 bits, so that parts equal the whole; edges repeat their last pixels."""
    reach = kernel.shape[0] // 2
    padded = functional.pad(x[None].double(), (reach, reach, reach, reach), mode="replicate")[0]
    size = [length + kernel.shape[0] - 1 for length in padded.shape[-2:]]
    product = torch.fft.rfft2(padded, size) * torch.fft.rfft2(kernel.double(), size)
    whole = torch.fft.irfft2(product, size).float()
    height, width = x.shape[-2:]
    return whole[:, 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]
