"""Entry point: what the trained models make of photographs of yours, on one page to look at.

    photographs --encoder--> what is near to what, where it looks
                --codec, and JPEG of as many bytes--> side by side
                --each task's damage, its restorer--> before and after
    density model --> samples                                             OUTPUT/index.html, which holds all of it, and a picture of each part

    python downstream/gallery.py --photographs photos --output outputs/gallery
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field

from downstream.codec.classic import CLASSIC
from downstream.codec.image_codec import decode, encode
from downstream.codec.measuring import psnr_db
from downstream.codec.model_file import load_codec
from downstream.density.model_file import load_density
from downstream.density.sampling import ancestral, as_grid
from downstream.folders import check_writable
from downstream.origin_marks import Mark
from downstream.photographs import list_photographs, middle, read_photograph, to_bytes, to_tensor
from downstream.restore.cases import Pixels, cases_of
from downstream.restore.degradations import DegradationConfig
from downstream.restore.model_file import load_restorer
from downstream.restore.restoring import restore
from downstream.sheet import CELL_PX, Row, draw_sheet
from lcl.core.config import config, run_command
from lcl.core.files import open_aside
from lcl.core.html_page import data_url, page_at, page_template
from lcl.core.logs import progress_bar, set_up_logging
from lcl.core.shipped import CODEC, DENSITY, ENCODER, or_shipped, shipped_restorers
from lcl.features import load_encoder
from lcl.use.attention_page import attention_maps, heat_over, read_input
from lcl.use.image_features import pooled_latents

log = logging.getLogger(__name__)

NEIGHBOURS = 5
SAMPLES, SAMPLE_STEPS = 12, 128


@config
class GalleryConfig:
    photographs: str
    """Folder of photographs; of models that were trained on them it shows more than they can."""
    output: str = "outputs/gallery"
    """Folder for the page and its pictures."""
    num: Annotated[int, Field(ge=1)] = 6
    """Photographs that are shown, evenly spread over the folder; neighbours are looked for among all."""
    crop_px: Annotated[int, Field(ge=64)] = CELL_PX
    """The middle of each photograph, which is compressed and restored."""
    level: Annotated[float, Field(ge=0)] = 1.0
    """Of the codec: 0 makes the smallest files."""
    encoder: str = ""
    """A run, checkpoint or export; empty, as those below: what comes with lcl."""
    codec: str = ""
    restorers: tuple[str, ...] = ()
    density: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True)
class Part:
    """A sheet of pictures, and what is said above it."""

    name: str
    title: str
    says: str
    rows: Sequence[Row]
    mark: Mark | None = None


def main(settings: GalleryConfig) -> None:
    set_up_logging()
    torch.set_num_threads(settings.threads)
    output = Path(settings.output)
    check(settings, output)
    files = readable(list_photographs(Path(settings.photographs)))
    shown = [files[place] for place in np.linspace(0, len(files) - 1, min(settings.num, len(files))).round().astype(int)]
    parts: list[Callable[[], list[Part]]] = [lambda: seen_by_the_encoder(files, shown, settings), lambda: [compressed(shown, settings)], lambda: [restored(shown, settings)], lambda: [sampled(settings)]]
    with progress_bar("painting", total=len(parts)) as bar:
        made = []
        for part in parts:
            made += part()
            bar.advance()
    output.mkdir(parents=True, exist_ok=True)
    cards = []
    for part in made:
        path = output / f"{part.name}.jpg"
        draw_sheet(part.rows, path, part.mark)
        cards.append({"title": part.title, "says": part.says, "data": data_url("image/jpeg", path.read_bytes())})
    page = page_template(Path(__file__).with_name("gallery.html")).render(cards=cards, num_photographs=len(files))
    with open_aside(output / "index.html") as file:
        file.write(page.encode())
    log.info("open %s", output / "index.html")


def check(settings: GalleryConfig, output: Path) -> None:
    """Raises ValueError for an output that holds what is no gallery, or lies among the photographs, before anything is drawn."""
    if output.resolve().is_relative_to(Path(settings.photographs).resolve()):
        raise ValueError(f"--output {output} lies in --photographs {settings.photographs}: its pictures would be taken for photographs; give a folder elsewhere")
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file: give a folder")
    check_writable(output)
    if not page_at(output / "index.html").exists() and output.exists() and any(output.iterdir()):
        raise ValueError(f"--output {output} is not empty and holds no gallery: give another folder")


def readable(files: Sequence[Path]) -> list[Path]:
    """Those that can be read; of others a line each. Raises ValueError if none can."""
    found = []
    for path in files:
        try:
            read_photograph(path)
            found.append(path)
        except ValueError as error:
            log.warning("left out: %s", error)
    if not found:
        raise ValueError("no photograph can be read; their messages are above")
    return found


def seen_by_the_encoder(files: Sequence[Path], shown: Sequence[Path], settings: GalleryConfig) -> list[Part]:
    """The nearest of all photographs by the cosine of pooled features, and the attention of the query that pools them."""
    encoder = load_encoder(or_shipped(settings.encoder, ENCODER))
    inputs = [read_input(path, encoder) for path in files]
    pooled = pooled_latents(encoder, inputs)
    pooled = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    near, looked = [], []
    for place in (files.index(path) for path in shown):
        alike = pooled @ pooled[place]
        others = [other for other in np.argsort(-alike, kind="stable") if other != place][:NEIGHBOURS]
        near.append([("asked for", _whole(files[place])), *((f"cosine {alike[other]:.3f}", _whole(files[other])) for other in others)])
        (found,) = attention_maps(encoder, [inputs[place]])
        heads = [("mean of all heads", found.weights.mean(axis=0)), *((f"head {number}", one) for number, one in enumerate(found.weights))][:NEIGHBOURS]
        looked.append([("what it sees", _enlarged(found.pixels)), *((name, np.asarray(heat_over(found.pixels, weights, size=(CELL_PX, CELL_PX)))) for name, weights in heads)])
    attention = Part("attention", "Where the encoder looks", "What it sees of a photograph, and how much of each patch its pooling query takes.", looked)
    if len(files) == 1:
        return [attention]
    return [Part("neighbours", "What is near to what", f"Each row: a photograph, and the nearest of the {len(files) - 1} others by its pooled features.", near), attention]


def compressed(shown: Sequence[Path], settings: GalleryConfig) -> Part:
    """Ours beside the best JPEG that is no larger, or the smallest that there is."""
    trained = load_codec(or_shipped(settings.codec, CODEC))
    jpeg, rows = CLASSIC["JPEG"], []
    for path in shown:
        pixels = middle(read_photograph(path), settings.crop_px)
        data = encode(trained, pixels, level=settings.level).data
        qualities = [quality for quality in range(1, 96) if len(jpeg.compress(pixels, quality)) <= len(data)]
        other = jpeg.compress(pixels, max(qualities, default=1))
        ours, theirs = decode(trained, data), jpeg.expand(other)
        rows.append([("the photograph", pixels), (f"ours: {_size(data)}, {psnr_db(pixels, ours):.1f} dB", ours), (f"JPEG: {_size(other)}, {psnr_db(pixels, theirs):.1f} dB", theirs)])
    return Part("compressed", "Compressed", "The learned codec, and the best JPEG that is no larger (or the smallest that there is).", rows)


def restored(shown: Sequence[Path], settings: GalleryConfig) -> Part:
    """Each task on a photograph of its own, as far as there are enough."""
    models = [load_restorer(Path(path)) for path in settings.restorers or shipped_restorers().values()]
    tasks = {task: trained for trained in reversed(models) for task in trained.tasks}
    rows: list[Row] = []
    for number, (task, trained) in enumerate(sorted(tasks.items())):
        (case,) = cases_of([shown[number % len(shown)]], DegradationConfig(tasks=(task,)), seed=settings.seed, crop_px=settings.crop_px)
        found: Pixels = to_bytes(restore(trained, to_tensor(case.degraded), seed=settings.seed))
        rows.append([(f"{task}: {psnr_db(case.clean, case.degraded):.1f} dB", case.degraded), (f"restored: {psnr_db(case.clean, found):.1f} dB", found), ("the photograph", case.clean)])
    mark = Mark("algorithmicallyEnhanced", " ".join(dict.fromkeys(trained.sha256 for trained in models)), settings="sheet of comparisons")
    return Part("restored", "Restored", "Damage that was made, one step of the restorer for it, and the photograph.", rows, mark)


def sampled(settings: GalleryConfig) -> Part:
    """Squares that no camera took."""
    trained = load_density(or_shipped(settings.density, DENSITY))
    side = trained.settings.size_px
    u = ancestral(trained, SAMPLES, torch.Generator().manual_seed(settings.seed), num_steps=SAMPLE_STEPS, height=side, width=side)
    pictures = [("", _enlarged(as_grid(one[None], levels=trained.settings.levels, columns=1).numpy())) for one in u]
    columns = NEIGHBOURS + 1
    mark = Mark("trainedAlgorithmicMedia", trained.sha256, settings=f"{SAMPLES} samples, ancestral, {SAMPLE_STEPS} evaluations, seed {settings.seed}")
    return Part("samples", "Drawn", f"Squares of {side} px from the density model, in {SAMPLE_STEPS} steps: no camera took them.", [pictures[place : place + columns] for place in range(0, SAMPLES, columns)], mark)


def _whole(path: Path) -> Pixels:
    """At the size of a cell."""
    image = Image.fromarray(read_photograph(path))
    image.thumbnail((CELL_PX, CELL_PX))
    return np.asarray(image)


def _enlarged(pixels: UInt8[np.ndarray, "height width channels"]) -> Pixels:
    """Each pixel as a block, so that a cell is full."""
    blocks = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    zoom = max(1, CELL_PX // max(pixels.shape[:2]))
    return blocks.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _size(data: bytes) -> str:
    return f"{len(data) / 1000:.1f} kB"


if __name__ == "__main__":
    run_command(GalleryConfig, main, description=__doc__.splitlines()[0])
