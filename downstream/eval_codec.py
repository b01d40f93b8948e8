"""Entry point: rate and quality of a codec on photographs, beside JPEG, WebP, AVIF, JPEG 2000 and JPEG XL in the same run.

    python downstream/eval_codec.py --model codec.safetensors --photographs photos --output outputs/rd
    python downstream/eval_codec.py --model codec.safetensors --photographs photos --output outputs/rd_refined --refine 500

    pictures x settings --> OUTPUT/rd.json (all of them), rd.csv (means), rd.svg and rd.png
"""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib
import torch
from pydantic import Field
from rich.table import Table

from downstream.codec.classic import CLASSIC, check_available
from downstream.codec.coding import Latents, Profile
from downstream.codec.complexity import complexity_of
from downstream.codec.image_codec import Refine, check_profile
from downstream.codec.measuring import MEANS, Point, bd_rates, curve_of, measure_classic, measure_ours
from downstream.codec.model import Codec
from downstream.codec.model_file import TrainedCodec, load_codec
from downstream.codec.refine import LEARNING_RATE, REFINE_TILE_PX, RefineConfig, refine_picture
from downstream.codec.rounding import RoundingConfig
from downstream.perceptual_distance import LPIPS
from downstream.photographs import list_photographs
from lcl.core.config import config, run_command
from lcl.core.files import open_aside
from lcl.core.logs import progress_bar, set_up_logging
from lcl.core.shipped import CODEC, or_shipped
from lcl.evals.results import console
from lcl.features import load_encoder
from lcl.measured import write_result

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (the backend is chosen first)

log = logging.getLogger(__name__)

ClassicName = Literal["JPEG", "WebP", "AVIF", "JPEG 2000", "JPEG XL"]
# Published curves on Kodak (24 pictures): VTM-9.1 from CompressAI's results/image/kodak, CCA from RD_data.json of its code, the hyperprior that SGA refines and SGA
# from the results of mandt-lab's code. Other pictures than those measured here, so for orientation alone.
PUBLISHED = {
    "VTM-9.1, Kodak (published)": [(0.0482, 26.14), (0.1125, 28.49), (0.2458, 31.20), (0.4905, 34.26), (0.8748, 37.42), (1.4308, 40.42)],
    "CCA, Kodak (published)": [(0.169, 30.43), (0.298, 32.67), (0.399, 33.92), (0.514, 35.19), (0.630, 36.29), (0.740, 37.20)],
    "hyperprior, Kodak (published)": [(0.0830, 26.47), (0.1630, 28.63), (0.2613, 30.45), (0.4050, 32.33), (0.6034, 34.23), (0.8492, 36.33), (1.1611, 38.33)],
    "the same with SGA, Kodak (published)": [(0.0947, 27.46), (0.1848, 29.84), (0.2903, 31.64), (0.4324, 33.42), (0.6218, 35.21), (0.8824, 37.36), (1.1741, 39.20)],
}


@config
class EvalCodecConfig:
    photographs: str
    """Folder of photographs that it was not trained on."""
    output: str
    """Folder for the report."""
    model: str = ""
    """The codec, as train_codec.py wrote it; empty: the one that comes with lcl."""
    encoder: str = ""
    """The encoder (checkpoint, run or export) of a model with an adapter."""
    max_photographs: Annotated[int, Field(ge=0)] = 0
    """The first so many, by name; 0: all."""
    crop_px: Annotated[int, Field(ge=0)] = 0
    """The middle of each photograph, at most so wide and high; 0: all of it. Headers weigh more in small files, those of JPEG most."""
    refine: Annotated[int, Field(ge=0)] = 0
    """Iterations of SGA+ on each picture, in a curve of its own beside the plain one."""
    rounding: RoundingConfig = RoundingConfig()
    learning_rate: Annotated[float, Field(gt=0)] = LEARNING_RATE
    """Of the refinement."""
    profiles: tuple[Profile, ...] = ("fast",)
    """portable also: what whole numbers cost in rate."""
    classic: tuple[ClassicName, ...] = ("JPEG", "WebP", "AVIF", "JPEG 2000")
    """JPEG XL also, where imagecodecs is (pip install 'lcl[peers]')."""
    lpips: Literal["none", "alex", "vgg", "squeeze"] = "none"
    """LPIPS of this backbone, where PyTorch's cache has its weights."""
    anchor: str = "JPEG"
    """The curve that BD-rates are against."""
    threads: Annotated[int, Field(ge=1)] = 1


def main(settings: EvalCodecConfig) -> None:
    set_up_logging()
    torch.set_num_threads(settings.threads)
    trained = load_codec(or_shipped(settings.model, CODEC), encoder=load_encoder(Path(settings.encoder)) if settings.encoder else None)
    trained.check_sight()
    if settings.encoder and trained.encoder is None:
        raise ValueError("--encoder is for models with an adapter, which this one has not: leave it out")
    check_available(settings.classic)
    lpips = None if settings.lpips == "none" else LPIPS(settings.lpips)
    for profile in settings.profiles:
        check_profile(trained, profile)
    refined = f"this codec, refined {settings.refine} times ({settings.rounding.method})"
    names = [*settings.classic, *(f"this codec, {profile}" for profile in settings.profiles), *([refined] if settings.refine else [])]
    if settings.anchor not in names:
        raise ValueError(f"--anchor {settings.anchor!r} is not measured; there are {', '.join(names)}")
    files = list_photographs(Path(settings.photographs))[: settings.max_photographs or None]
    levels = [float(level) for level in range(len(trained.lmbdas))]
    num_ours = (len(settings.profiles) + (settings.refine > 0)) * len(levels)
    curves: dict[str, list[Point]] = {}
    with progress_bar("measuring", total=len(files) * (num_ours + sum(len(CLASSIC[name].qualities) for name in settings.classic))) as bar:
        common: dict[str, Any] = {"crop_px": settings.crop_px, "lpips": lpips}
        for name in settings.classic:
            curves[name] = curve_of(CLASSIC[name].qualities, lambda quality, path, name=name: measure_classic(name, path, quality=quality, **common), files, bar.advance)
        for profile in settings.profiles:
            curves[f"this codec, {profile}"] = curve_of(levels, lambda level, path, profile=profile: measure_ours(trained, path, level=level, profile=profile, **common), files, bar.advance)
        if settings.refine:
            curves[refined] = curve_of(levels, lambda level, path: measure_ours(trained, path, level=level, refine=refining(settings, trained, level), **common), files, bar.advance)
    report(curves, settings, trained)


def refining(settings: EvalCodecConfig, trained: TrainedCodec, level: float) -> Refine:
    fitting = RefineConfig(iterations=settings.refine, rounding=settings.rounding, learning_rate=settings.learning_rate)

    def apply(codec: Codec, x: torch.Tensor, at: torch.Tensor | None, inside: torch.Tensor) -> Latents:
        return refine_picture(codec, x, fitting, tile_px=REFINE_TILE_PX, lmbda=trained.lmbda(level), level=at, weights=inside)

    return apply


def report(curves: Mapping[str, Sequence[Point]], settings: EvalCodecConfig, trained: TrainedCodec) -> None:
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    differences = bd_rates(curves, settings.anchor)
    measured = {
        "curves": {name: [vars(point) for point in points] for name, points in curves.items()}, "bd_rates": {"anchor": settings.anchor, **differences},
        "model": {"hash": f"{trained.hash:016x}", "lmbdas": list(trained.lmbdas), "about": dict(trained.about), "kmac_per_pixel": complexity_of(trained)._asdict()},
    }  # fmt: skip
    write_result(output / "rd.json", settings, measured)
    with open_aside(output / "rd.csv") as file:
        file.write(as_csv(curves).encode())
    draw(curves, output)
    table = Table(title=f"BD-rate (PSNR) against {settings.anchor}; negative needs fewer bits", title_justify="left")
    for column in ("codec", "pchip", "cubic", "akima"):
        table.add_column(column)
    for name, found in differences.items():
        table.add_row(name, *(f"{value:+.1f} %" if isinstance(value, float) else value for value in found.values()))
    console().print(table)
    log.info("%s: rd.json, rd.csv, rd.svg, rd.png", output)


def as_csv(curves: Mapping[str, Sequence[Point]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["codec", "setting", *MEANS])
    for name, points in curves.items():
        for point in points:
            values = (getattr(point, column) for column in MEANS)
            writer.writerow([name, f"{point.setting:g}", *("" if value is None else f"{value:.5f}" for value in values)])
    return text.getvalue()


def draw(curves: Mapping[str, Sequence[Point]], output: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7.5, 5), layout="constrained")
    for name, points in curves.items():
        axes.plot([point.bpp for point in points], [point.psnr_db for point in points], marker="o", markersize=3, label=name, linewidth=2 if name.startswith("this") else 1)
    for name, published in PUBLISHED.items():
        axes.plot(*zip(*published, strict=True), linestyle=":", linewidth=1, label=name)
    axes.set(xlabel="bits per pixel", ylabel="PSNR of 8-bit RGB, dB", title="Rate and distortion, means over pictures", xlim=(0, 2))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    for ending in ("svg", "png"):
        with open_aside(output / f"rd.{ending}") as file:
            figure.savefig(file, format=ending, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    run_command(EvalCodecConfig, main, description=__doc__.splitlines()[0])
