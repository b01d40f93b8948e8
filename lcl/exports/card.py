"""The model card that an export writes: what the encoder is, what it was trained on, what was measured, what it is not for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcl.core.config import commit, from_dict, versions
from lcl.core.files import read_json
from lcl.evals.intervals import EXACT
from lcl.evals.results import read_result, shown
from lcl.exports.folder import RECORD, Target, read_record
from lcl.features import Encoder
from lcl.objectives import LossConfig

UNKNOWN = "not known: its checkpoint has no run.json beside it"

USE: dict[Target, str] = {
    "timm": '''import timm, torch

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)   # for RGB images of PIL
print(model(torch.rand(1, 3, SIDE, SIDE)).shape, model.forward_features(torch.rand(1, 3, SIDE, SIDE)).shape)''',
    "hf": '''from PIL import Image
from transformers import AutoImageProcessor, AutoModel

model, processor = AutoModel.from_pretrained("FOLDER"), AutoImageProcessor.from_pretrained("FOLDER")
print(model(**processor(Image.new("RGB", (SIDE, SIDE)))).pooler_output.shape)''',
    "open_clip": '''import open_clip
from lcl.exports.open_clip_tower import register_tower

register_tower("FOLDER")
model, preprocess = open_clip.create_model_from_pretrained("local-dir:FOLDER")
print(model.encode_text(open_clip.get_tokenizer("local-dir:FOLDER")(["a photo of a dog"])).shape)''',
    "onnx": '''import numpy, onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
pooled, tokens = session.run(["pooled", "tokens"], {"images": numpy.random.rand(2, 3, SIDE, SIDE).astype("float32")})
print(pooled.shape, tokens.shape)''',
}  # fmt: skip
SIZES: dict[Target, str] = {
    **dict.fromkeys(("timm", "hf", "open_clip"), "Other sizes than SIDE px are resized by the preprocessing above, or taken by `lcl.features.load_encoder` with resized positions; they were not trained."),
    "onnx": "The graph takes images of SIDE px and no others.",
}  # fmt: skip
GIVES: dict[Target, str] = {
    "timm": "`model(images)` is the mean of the patch tokens (LCL leaves the class token out; a square tower's is the first of `model.forward_features(images)`, its patches are `[:, 1:]`); `lcl.features.load_encoder` on this folder gives LCL's own pooled latent too.",
    "hf": "`pooler_output` is the mean of the patch tokens (LCL leaves the class token out; a square tower's is the first of `last_hidden_state`, its patches are `[:, 1:]`); `lcl.features.load_encoder` on this folder gives LCL's own pooled latent too.",
    "open_clip": "Image features are LCL's pooled latents, text features the language model's at `<soi>`; open_clip needs this package for the image tower.",
    "onnx": "Images are float in [0, 1] and square; `pooled` is LCL's pooled latent, `tokens` the patch tokens. The normalisation is in the graph.",
}


@dataclass(frozen=True)
class CardFacts:
    """What the card says beside what the encoder itself tells. `difference` is the self-check's."""

    target: Target
    checkpoint: Path
    licence: str
    results: Sequence[Path]
    difference: float


def model_card(encoder: Encoder, facts: CardFacts, *, folder_name: str) -> str:
    """The card in Markdown, with the header that model hubs read. Raises ValueError as `read_result` does."""
    header = ["---", "library_name: " + {"hf": "transformers"}.get(facts.target, facts.target), *([f"license: {facts.licence}"] if facts.licence else [])]
    header += ["pipeline_tag: image-feature-extraction", "tags: [latent-compression-learning, vision]", "---"]
    use = USE[facts.target].replace("FOLDER", folder_name).replace("SIDE", str(encoder.image_px))
    lines = [
        *header, f"# {folder_name}: an LCL vision encoder", "",
        "A vision encoder trained with Latent Compression Learning ([Yang et al., NeurIPS 2024](https://arxiv.org/abs/2406.07543)).", "",
        "## Use", "```python", use, "```", GIVES[facts.target], "",
        "## What it is", *_table({
            "tower": f"{encoder.settings.vision.kind}, {encoder.num_layers} blocks, width {encoder.width}, patches of {encoder.patch_px} px, trained at {encoder.image_px} px",
            "pooled latent": f"width {encoder.embed_width}, {encoder.settings.pool_heads} heads",
            "parameters": f"{sum(value.numel() for value in encoder.state_dict().values()):,} (tower and pooling)",
            "fingerprint of the weights": f"`{encoder.fingerprint}`",
            "licence": facts.licence or "not stated by who exported it",
        }), "",
        "## Training", *_table(training_of(facts.checkpoint)), "",
        "## Results", *_results(facts.results), "",
        "## Limits",
        "- It shows what its data showed it, with their errors, biases and languages. It was not tested for any use that concerns people: not for identification, nor for decisions about them.",
        f"- {SIZES[facts.target].replace('SIDE', str(encoder.image_px))}",
        "- Results hold for the sets and protocols named with them, and for nothing else." if facts.results else "- Nothing was measured for this card: evaluate it before you rely on it.",
        "",
        "## Export",
        f"To {facts.target}, with lcl at commit `{commit()}` and {', '.join(f'{name} {number}' for name, number in versions().items())}. "
        f"Its features were compared with lcl's own on random images: the largest difference was {facts.difference:.1e}, as a share of the largest value or of 1.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _run_record(checkpoint: Path) -> Mapping[str, Any]:
    """The `run.json` of a run, of the run that a checkpoint (step-N) lies in, or of an imported checkpoint; {} where there is none."""
    places = [checkpoint / "run.json"] + [checkpoint.parent / "run.json"] * checkpoint.name.startswith("step-")
    found = next((path for path in places if path.is_file()), None)
    return {} if found is None else read_json(found)


def training_of(checkpoint: Path) -> Mapping[str, str]:
    """What an encoder was trained on and how, by what stands beside its weights: a run's record, or what an export says of the run that it was made of."""
    if (checkpoint / RECORD).exists():
        return read_record(checkpoint).get("training", {"run": UNKNOWN})
    run = _run_record(checkpoint)
    if not run:
        return {"run": UNKNOWN}
    config = run["config"]
    said = {"commit": f"`{run.get('commit', 'unknown')}`", "started": run.get("started", "unknown")}
    if "weights" in config and "model_config" in config:
        return {"imported": f"{Path(config['weights']).name} as {config['model_config']}"} | said
    data = config["data"]["shards"]
    shards = ", ".join(Path(str(item["path"] if isinstance(item, dict) else item)).name for item in ([data] if isinstance(data, str) else data))
    sizes = {"steps": f"{config['steps']:,}", "rows in a batch": str(config["batch_rows"]), "tokens in a row": str(config["row_length"]), "seed": str(config["seed"])}
    loss = from_dict(LossConfig, config["loss"], origin="run.json")
    weights = ", ".join(f"{part} {weight:g}" for part, weight in zip(("generation", "contrastive", "regression"), loss.weights, strict=True))
    return {"data": f"{shards}, fingerprint `{run.get('shards', 'unknown')}`"} | sizes | {"objective": f"{loss.objective}; weights: {weights}"} | said


def _results(paths: Sequence[Path]) -> list[str]:
    if not paths:
        return ["None were given."]
    lines = ["| task | data | model | metric | value | 95 % interval | n |", "|---|---|---|---|---|---|---|"]
    for record in map(read_result, paths):
        for row in record["rows"]:
            value, low, high = (shown(row[name], row.get("unit", "share")) for name in ("value", "low", "high"))
            interval = "" if row["interval"] == EXACT else f"{low} to {high}"
            lines.append(f"| {record['task']} | {record['dataset']['name']} | {row['model']} | {row['metric']} | {value} | {interval} | {row['n']} |")
    return lines


def _table(values: Mapping[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())]
