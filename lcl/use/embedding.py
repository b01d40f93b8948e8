"""Images to files of features by a trained encoder, unit by unit, in this process or on Ray.

    folder or shards --> units --> bytes --decoded and cut as in evaluation--> encoder --> features-000000.parquet, whole when it is there
    all units --> features.json, written last
"""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from lcl.core.config import claim_folder, config, to_dict, versions
from lcl.core.document import sha256_hex
from lcl.core.files import locked_folder
from lcl.core.images import probe_image
from lcl.core.logs import progress_bar
from lcl.core.rejected import Rejected
from lcl.core.shipped import ENCODER, or_shipped
from lcl.features import Encoder, Weights, find_encoder, load_encoder
from lcl.rows import ImageInput
from lcl.scorers import Device
from lcl.use.embedded import Format, Reject, commit_features, part_account, part_path, write_part
from lcl.use.image_features import pooled_latents
from lcl.use.image_sources import FileUnit, ShardUnit, open_source
from lcl.use.ray_tasks import Executor, run_tasks
from lcl.vision import PIXEL_MEAN, PIXEL_STD

FREE_SETTINGS = ("encoder", "input", "output", "executor", "max_rejected")  # that decide no byte beside the fingerprints
BATCH = 256  # images that are decoded and encoded together; it decides the last digits


@config
class EmbedConfig:
    input: Annotated[tuple[str, ...], Field(min_length=1)]
    """One folder of images (all below it), or folders of shards and selections of them."""
    output: str
    """Folder for the features; a run that was interrupted continues there."""
    encoder: str = ""
    """A run folder (its newest checkpoint), one checkpoint (step-N), a folder of `lcl export`, or a file of published weights; empty: the encoder that comes with lcl."""
    format: Format = "parquet"
    """Where the features go: a column of the parquet files, or safetensors files beside them."""
    weights: Weights = "model"
    """Weights of the last step, or their moving average."""
    device: Device = "cpu"
    executor: Executor = "here"
    """here: in this process. ray: as many units at a time as the cluster that RAY_ADDRESS names (else this machine) has CPUs, or GPUs with --device cuda."""
    files_per_unit: Annotated[int, Field(ge=1)] = 2048
    """Files of a folder that are done together; of shards, one is done at a time."""
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.05
    """The run stops when more than this fraction of all images cannot be decoded."""


def embed(settings: EmbedConfig) -> dict[str, Any]:
    """Writes the features of all images and returns the record.

    Raises ValueError if the output holds something else, for too many rejects, and as `load_encoder` and `open_source` do.
    """
    folder = find_encoder(or_shipped(settings.encoder, ENCODER))
    if settings.device == "cuda" and settings.executor == "here" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no such device here; leave it out, or install a PyTorch for this machine's")
    encoder = _encoder(str(folder), settings.weights, "cpu")
    vision, fingerprint = encoder.settings.vision, encoder.fingerprint
    source = open_source(settings.input)
    output = Path(settings.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    rejects: list[Reject] = []
    num_embedded = 0
    with locked_folder(output), progress_bar("images", total=source.num_images) as bar:
        claim_folder(output, settings, free=FREE_SETTINGS, what="features", source=source.fingerprint, encoder=fingerprint)
        units = source.units(settings.files_per_unit)
        parts = [part_path(output, number) for number in range(len(units))]
        common = (str(folder), settings.weights, settings.device, settings.format)
        waiting = {part.name: (unit, part, *common) for part, unit in zip(parts, units, strict=True) if not part.exists()}
        done = [part.name for part in parts if part.name not in waiting]
        results = run_tasks(embed_unit, waiting, executor=settings.executor, num_gpus=int(settings.device == "cuda")) if waiting else iter(())
        for name in (*done, *(name for name, _ in results)):
            number, left_out = part_account(output / name)
            num_embedded += number
            rejects += left_out
            _check_rejects(rejects, settings, num_images=source.num_images)
            bar.advance(number + len(left_out))
        assert num_embedded + len(rejects) == source.num_images
        record = {
            "encoder": fingerprint, "weights": settings.weights, "preprocessing": to_dict(vision) | {"mean": PIXEL_MEAN, "std": PIXEL_STD},
            "source": source.fingerprint, "input": [str(Path(item).resolve()) for item in settings.input], "checkpoint": str(folder.resolve()),
            "found": source.num_images, "embedded": num_embedded, "rejected": _counts(rejects), "files_passed_over": source.num_passed_over,
            "rejects": sorted(rejects, key=lambda item: (item["source"], item["id"])),
            "versions": versions(("lcl", "torch", "numpy", "pillow", "open_clip_torch", "timm")),
        }  # fmt: skip
        return commit_features(output, parts, record)


def _counts(rejects: list[Reject]) -> dict[str, int]:
    return dict(sorted(Counter(item["reason"] for item in rejects).items()))


def _check_rejects(rejects: list[Reject], settings: EmbedConfig, *, num_images: int) -> None:
    """Raises ValueError as soon as there are more than allowed, whatever the images that are not done yet."""
    if len(rejects) > settings.max_rejected * num_images:
        reasons = ", ".join(f"{count} {reason}" for reason, count in _counts(rejects).items())
        first = f"{rejects[0]['source']}/{rejects[0]['id']}"
        raise ValueError(
            f"of {num_images} images, {len(rejects)} could not be decoded ({reasons}; such as {first}), more than --max-rejected {settings.max_rejected:g} allows: "
            "mend or remove them and give another --output, or raise it and run again"
        )


def embed_unit(unit: FileUnit | ShardUnit, part: Path, checkpoint: str, weights: Weights, device: Device, format: Format) -> None:
    """Writes the features of one unit. They depend on the unit and the encoder alone: batches do not reach beyond it."""
    torch.set_num_threads(1)  # sums in the same order on every machine; more units at a time use more processors
    encoder = _encoder(checkpoint, weights, device)
    vision = encoder.settings.vision
    rows: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    together: list[ImageInput] = []
    pooled = [np.zeros((0, encoder.embed_width), np.float32)]
    for item in unit:
        try:
            width, height = probe_image(item.data).size
            together.append(vision.evaluation_input(item.data))
        except Rejected as rejected:
            rejects.append({"id": item.id, "source": item.source, "reason": str(rejected.reason), "detail": rejected.detail})
            continue
        rows.append({"id": item.id, "source": item.source, "width": width, "height": height, "sha256": sha256_hex(item.data)})
        if len(together) == BATCH:
            pooled.append(pooled_latents(encoder, together))
            together = []
    if together:
        pooled.append(pooled_latents(encoder, together))
    values = np.concatenate(pooled)
    if not np.isfinite(values).all():
        row = rows[int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])]
        raise ValueError(f"{checkpoint} gives no finite features of {row['source']}/{row['id']}: its weights are of no use; take an earlier checkpoint")
    write_part(part, rows, values, rejects=rejects, format=format)


@cache
def _encoder(checkpoint: str, weights: Weights, device: Device) -> Encoder:
    """Loaded once in each process."""
    return load_encoder(checkpoint, weights=weights).to(device)
