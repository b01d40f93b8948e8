"""Both towers for open_clip and what is built on it (CLIP_benchmark): zero-shot classification and retrieval.

    open_clip_config.json, open_clip_model.safetensors    the image tower is ours, under a name that lcl/exports/open_clip_tower.py registers
    tokenizer.json, tokenizer_config.json                 lcl/exports/open_clip_text.py
"""

from pathlib import Path

import open_clip
import torch
from safetensors.torch import save

from lcl.core.files import open_aside, write_json
from lcl.core.tokenizer import Tokenizer
from lcl.evals.zero_shot import text_features
from lcl.exports.check import picture, random_images, require_equal
from lcl.exports.folder import OPEN_CLIP_WEIGHTS, TRUNK
from lcl.exports.open_clip_text import text_config, text_weights, write_tokenizer
from lcl.exports.open_clip_tower import register_tower, tower_name
from lcl.features import Encoder, load_encoder
from lcl.model import LCL
from lcl.vision import PIXEL_MEAN, PIXEL_STD, normalise

TEXTS = (  # for the check: cases, accents, digits, marks of ours as text, one too long for any context. open_clip mends quotes and entities before it reads
    "a photo of a dog", "A PHOTO of the Café's harbour – 1,024 boats!", "x", "ελληνικά 東京 \U0001f30a", "<eot> <soi> it's", "a red boat and a blue house, " * 400 + "end",
)  # fmt: skip


def check_exportable(model: LCL) -> None:
    """Raises ValueError for a language model that open_clip's text tower is not."""
    if model.settings.text.kind != "clip":
        raise ValueError(
            f"the language model is a {model.settings.text.kind}, and open_clip's text tower only --model.text.kind clip: export the image side with --to timm, hf or onnx"
        )


def write_open_clip(folder: Path, model: LCL, tokenizer: Tokenizer, *, context_length: int) -> None:
    """Writes the folder. Raises ValueError as `check_exportable` and `write_tokenizer` do."""
    check_exportable(model)
    encoder = Encoder(model)
    vision = {"timm_model_name": tower_name(encoder.fingerprint), "timm_pool": "", "timm_proj": "none", "image_size": encoder.image_px}
    text = text_config(model.settings.text, tokenizer, context_length=context_length)
    preprocessing = {"size": encoder.image_px, "mean": PIXEL_MEAN, "std": PIXEL_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    settings = {"embed_dim": encoder.embed_width, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    write_json(folder / "open_clip_config.json", {"model_cfg": settings, "preprocess_cfg": preprocessing})
    write_tokenizer(folder, tokenizer, context_length=context_length)
    state = {f"{TRUNK}{name}": value for name, value in encoder.state_dict().items()}
    state |= text_weights(model.state_dict(), tokenizer, context_length=context_length) | {"logit_scale": model.logit_scale.detach()[0].clone()}
    with open_aside(folder / OPEN_CLIP_WEIGHTS) as file:
        file.write(save({name: value.contiguous() for name, value in state.items()}, metadata={"format": "pt"}))


@torch.no_grad()
def check_open_clip(folder: Path, model: LCL, tokenizer: Tokenizer, *, context_length: int) -> float:
    """The largest difference of image and text features, and of what `load_encoder` gives. Raises ValueError if it is more than 1e-5, or if ids differ."""
    register_tower(folder)
    theirs, prepare = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    theirs.eval()
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(list(TEXTS))
    ours = [(tokenizer.sot, *tokenizer.encode(text)[-(context_length - 2) :], tokenizer.eot) for text in TEXTS]
    for text, row, wanted in zip(TEXTS, ids.tolist(), ours, strict=True):
        if tuple(row) != wanted + (tokenizer.image,) * (context_length - len(wanted)):
            raise ValueError(f"open_clip reads {text[:30]!r} as other ids than ours: nothing was written; please report it")
    encoder = Encoder(model)
    images = (random_images(encoder.image_px) * 255).round() / 255
    prepared, features = torch.stack([prepare(picture(image)) for image in images]), encoder(images)
    same = [len(tokenizer.encode(text)) + 2 <= context_length or context_length == model.settings.text.context_length for text in TEXTS]  # as long as ours reads them
    wanted_texts = text_features(model, tokenizer, [text for text, kept in zip(TEXTS, same, strict=True) if kept])
    units = torch.nn.functional.normalize
    found = [
        require_equal(prepared, normalise(images, dtype=torch.float32), what="what open_clip makes of an image"),
        require_equal(theirs.encode_image(prepared, normalize=True), units(features.pooled, dim=-1), what="open_clip's image features"),
        require_equal(theirs.encode_text(ids[torch.tensor(same)], normalize=True), units(wanted_texts, dim=-1), what="open_clip's text features"),
        require_equal(load_encoder(folder)(images).pooled, features.pooled, what="the pooled latent"),
    ]
    return max(found)
