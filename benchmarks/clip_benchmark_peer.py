"""Entry point: one checkpoint, scored by CLIP_benchmark through its open_clip export and by us: zero-shot and retrieval on the same images.

    python benchmarks/clip_benchmark_peer.py --checkpoint RUN --data LABELLED --environment FOLDER --output peer.json

    checkpoint --lcl export--> open_clip folder ---+
    labelled images --WebDataset (png, captions)---+--CLIP_benchmark, in an environment of its own--> accuracy, recall --+
                    +--our features, from the same images-------------------------------------------> accuracy, recall --+--> equal?

Images are cut as in our evaluation and stored without loss, so that what is compared is models, texts and scores. With `--original` the files
themselves are stored too: the peer then decodes and resizes them its own way, and the difference that this makes is measured.
"""

import json
import logging
import sys
import tarfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from peer_environment import make_environment, run_peer
from PIL import Image
from pydantic import Field
from torch.nn.functional import normalize

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.evals.image_sets import open_image_set
from lcl.evals.zero_shot import class_weights, classify, text_features
from lcl.features import Encoder, load_model
from lcl.measured import write_result

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
PEER = ("clip-benchmark==1.6.2", "requests")  # it imports requests and does not ask for it
RECALL_AT = (1, 5, 10)
BATCH = 64
AGREE = 1e-6  # shares of the same counts, in float32 there and float64 here
# The peer's command, once timm knows the tower (its first argument is the export).
LAUNCH = "import sys; from lcl.exports.open_clip_tower import register_tower; register_tower(sys.argv.pop(1)); from clip_benchmark.cli import main; main()"


@config
class PeerConfig:
    checkpoint: str
    """A run, or one checkpoint (step-N), with a clip decoder."""
    data: str
    """Labelled images: train/<class>/ and test/<class>/, with classes.json."""
    environment: str
    """Folder of the peer's virtual environment; made with pip, of some GB, if it is not there."""
    output: str
    """JSON file for the numbers."""
    captions: Annotated[int, Field(ge=1)] = 2
    """Captions an image for retrieval: its class in templates, each such sentence for one image only."""
    original: bool = False
    """Score the files as they are as well, prepared by the peer."""


def main(settings: PeerConfig) -> None:
    set_up_logging()
    torch.set_num_threads(1)
    images, python = open_image_set(Path(settings.data)), make_environment(Path(settings.environment), ["-c", ROOT / "constraints.txt", *PEER, ROOT])
    test = images.split("test")
    labels = images.labels[test]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run_peer([sys.executable, "-m", "lcl.export", "--checkpoint", settings.checkpoint, "--to", "open_clip", "--output", folder / "exported"])
        model, tokenizer = load_model(Path(settings.checkpoint))
        encoder = Encoder(model)
        pixels = np.stack([images.read(place, model.settings.vision.evaluation_input).values for place in test.tolist()])
        pngs = [encode_png(image) for image in pixels]
        chosen, captions = unique_captions(labels, images.classes, images.templates, per_image=settings.captions)
        write_classification(folder / "zeroshot", pngs, labels, images.classes, images.templates)
        write_shards(folder / "retrieval", [{"png": pngs[index], "txt": "\n".join(texts).encode()} for index, texts in zip(chosen, captions, strict=True)])
        (folder / "retrieval" / "dataset_type.txt").write_text("retrieval")
        peer = {task: score(python, folder, task) for task in ("zeroshot", "retrieval")}

        pooled = pooled_of(encoder, pixels)
        predicted = classify(pooled, class_weights(model, tokenizer, images.classes, images.templates)).argmax(dim=1).numpy()
        texts = normalize(text_features(model, tokenizer, [text for of_image in captions for text in of_image]), dim=-1)
        image_of_text = np.repeat(np.arange(len(chosen)), [len(of_image) for of_image in captions])
        ours = {"zeroshot": {"acc1": float((predicted == labels).mean())}, "retrieval": recalls(texts @ normalize(pooled[chosen], dim=-1).T, image_of_text)}
        measured = {"images": len(test), "retrieval_images": len(chosen), "captions": len(texts), "ours": ours, "peer": peer, "peer_version": PEER[0]}
        if settings.original:
            ending = Path(images.ids[test[0]]).suffix.removeprefix(".").lower()
            write_classification(folder / "original", [images.readers[place]() for place in test.tolist()], labels, images.classes, images.templates, ending=ending)
            measured["peer_on_original_files"] = score(python, folder, "original")
    measured["largest_difference"] = max(abs(ours[task][name] - peer[task][name]) for task in ours for name in ours[task])
    write_result(Path(settings.output), settings, measured)
    for task, values in ours.items():
        for name, value in values.items():
            log.info("%s %s: ours %.4f, CLIP_benchmark %.4f", task, name, value, peer[task][name])
    log.info("largest difference %.1e: %s", measured["largest_difference"], settings.output)
    if measured["largest_difference"] > AGREE:
        raise ValueError(f"CLIP_benchmark and our own numbers differ by {measured['largest_difference']:.1e}: see {settings.output}")


def score(python: Path, folder: Path, task: str) -> dict[str, float]:
    """What CLIP_benchmark measures on FOLDER/TASK. It is told the task, works on the CPU and asks no network."""
    output = folder / f"{task}.json"
    kind = "zeroshot_retrieval" if task == "retrieval" else "zeroshot_classification"
    run_peer(
        [
            python, "-c", LAUNCH, folder / "exported", "eval", "--model", f"local-dir:{folder / 'exported'}", "--pretrained", "none", "--dataset", f"wds/{task}",
            "--dataset_root", folder / task, "--task", kind, "--recall_k", *RECALL_AT, "--num_workers", 0, "--no_amp", "--batch_size", BATCH, "--output", output,
        ],
        HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    metrics: Mapping[str, float] = json.loads(output.read_text())["metrics"]
    return {name: value for name, value in metrics.items() if value == value}  # acc5 of fewer than 5 classes is NaN


def encode_png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_shards(folder: Path, members: Sequence[Mapping[str, bytes]]) -> None:
    """One shard of a WebDataset, with the count of shards that the peer asks for."""
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "nshards.txt").write_text("1")
    with tarfile.open(folder / "test" / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, parts in enumerate(members):
            for ending, data in parts.items():
                entry = tarfile.TarInfo(f"{number:06d}.{ending}")
                entry.size = len(data)
                tar.addfile(entry, BytesIO(data))


def write_classification(folder: Path, images: Sequence[bytes], labels: Int[np.ndarray, " n"], classes: Sequence[str], templates: Sequence[str], *, ending: str = "png") -> None:
    write_shards(folder, [{ending: image, "cls": str(label).encode()} for image, label in zip(images, labels, strict=True)])
    (folder / "classnames.txt").write_text("\n".join(classes))
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(template.replace("{}", "{c}") for template in templates))


def unique_captions(labels: Int[np.ndarray, " n"], classes: Sequence[str], templates: Sequence[str], *, per_image: int) -> tuple[list[int], list[list[str]]]:
    """Test images and their captions, no sentence twice: as many images of a class as it has templates for."""
    used = [0] * len(classes)
    chosen, captions = [], []
    for index, label in enumerate(labels.tolist()):
        own = templates[used[label] : used[label] + per_image]
        if len(own) == per_image:
            used[label] += per_image
            chosen.append(index)
            captions.append([template.replace("{}", classes[label]) for template in own])
    return chosen, captions


@torch.no_grad()
def pooled_of(encoder: Encoder, pixels: np.ndarray) -> Float[torch.Tensor, "images embed"]:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return torch.cat([encoder(part.float() / 255).pooled for part in images.split(BATCH)])


def recalls(scores: Float[torch.Tensor, "texts images"], image_of_text: np.ndarray) -> dict[str, float]:
    """R@K both ways, by ranks: the share of texts whose image, and of images one of whose texts, is among the K most similar; the peer's names."""
    values = scores.double().numpy()
    belongs = image_of_text[:, None] == np.arange(values.shape[1])
    found = {}
    for name, similarity, right in (("image", values, belongs), ("text", values.T, belongs.T)):
        best = np.where(right, similarity, -np.inf).max(axis=1)
        ranks = (similarity > best[:, None]).sum(axis=1)
        found |= {f"{name}_retrieval_recall@{k}": float((ranks < k).mean()) for k in RECALL_AT}
    return found


if __name__ == "__main__":
    run_command(PeerConfig, main, description=__doc__.splitlines()[0])
