"""The tower for timm and transformers: one folder that `timm.create_model("local-dir:...")` and `AutoModel.from_pretrained` load, without our code.

    config.json, model.safetensors    timm's; transformers reads them too (its TimmWrapper)
    pooling.safetensors               LCL's pooling, which neither knows; `load_encoder` on the folder has it
"""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save

from lcl.core.files import open_aside, write_json
from lcl.exports.check import picture, random_images, require_equal
from lcl.exports.folder import POOLING, WEIGHTS
from lcl.exports.timm_names import to_timm
from lcl.features import Encoder, load_encoder
from lcl.vision import PIXEL_MEAN, PIXEL_STD, Tower, normalise

ARCHITECTURES = {False: "vit_base_patch16_clip_224", True: "vit_base_patch16_clip_quickgelu_224"}  # by whether GELU is the quick one


def timm_config(encoder: Encoder, *, licence: str) -> dict[str, Any]:
    """timm's `config.json` of the tower. Its pooled output is the mean of the normed patch tokens, for LCL leaves the class token out.

    Raises ValueError for a tower of open_clip that timm has no class for.
    """
    vision = encoder.settings.vision
    tower = vision.tower()
    sizes = {
        "patch_size": tower.patch_px, "embed_dim": tower.width, "depth": tower.layers, "num_heads": tower.width // tower.head_width,
        "mlp_ratio": tower.mlp_ratio, "global_pool": "avg", "fc_norm": False,
    }  # fmt: skip
    if vision.kind == "naflex":
        architecture, grid = "naflexvit_base_patch16_gap", list(encoder.visual.embeds.pos_embed.shape[1:3])
        # no layer scale: 0.0, for transformers drops a None and timm's default would come back
        sizes |= {"pos_embed_grid_size": grid, "init_values": 0.0, "reg_tokens": 0}
    else:
        architecture = _architecture(tower, vision.open_clip)
        sizes |= {"img_size": tower.image_px, "dynamic_img_size": True}
    preprocessing = {
        "tag": "lcl", "custom_load": False, "input_size": [3, encoder.image_px, encoder.image_px], "fixed_input_size": False, "interpolation": "bicubic",
        "crop_pct": 1.0, "crop_mode": "center", "mean": list(PIXEL_MEAN), "std": list(PIXEL_STD), "num_classes": 0, "pool_size": None,
        "first_conv": "embeds.proj" if vision.kind == "naflex" else "patch_embed.proj", "classifier": "head",
    }  # fmt: skip
    return {
        "architecture": architecture, "num_classes": 0, "num_features": tower.width, "global_pool": "avg", "model_args": sizes,
        "pretrained_cfg": preprocessing | ({"license": licence} if licence else {}),
    }  # fmt: skip


def _architecture(tower: Tower, name: str) -> str:
    options = dict(tower.options)
    quick = options.pop("quick_gelu", False)
    if options:
        raise ValueError(f"the tower of open_clip's {name} has {', '.join(options)}, which timm's vision transformer does not build: take --to open_clip or onnx")
    return ARCHITECTURES[quick]


def write_timm(folder: Path, encoder: Encoder, *, licence: str) -> None:
    """Writes the folder. Raises ValueError as `timm_config` does."""
    write_json(folder / "config.json", timm_config(encoder, licence=licence))
    tower = to_timm(encoder.visual.state_dict(), kind=encoder.settings.vision.kind)
    for name, state in ((WEIGHTS, tower), (POOLING, {f"pool_project.{name}": value for name, value in encoder.pool_project.state_dict().items()})):
        with open_aside(folder / name) as file:
            file.write(save({key: value.contiguous() for key, value in state.items()}, metadata={"format": "pt"}))


@torch.no_grad()
def check_timm(folder: Path, encoder: Encoder) -> float:
    """The largest difference of tokens, of their mean and of the pooled latent that `load_encoder` gives. Raises ValueError if it is more than 1e-5."""
    images = random_images(encoder.image_px)
    ours, inputs = encoder(images), normalise(images, dtype=torch.float32)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    found = [
        require_equal(model.forward_features(inputs)[:, -ours.tokens.shape[1] :], ours.tokens, what="timm's tokens"),
        require_equal(model(inputs), ours.tokens.mean(dim=1), what="timm's mean of the tokens"),
        require_equal(load_encoder(folder)(images).pooled, ours.pooled, what="the pooled latent"),
    ]
    return max(found)


@torch.no_grad()
def check_transformers(folder: Path, encoder: Encoder) -> float:
    """The same of `AutoModel`, on images that `AutoImageProcessor` prepared."""
    from transformers import AutoImageProcessor, AutoModel  # here, because importing it takes seconds

    images = (random_images(encoder.image_px) * 255).round() / 255
    prepared = AutoImageProcessor.from_pretrained(folder)([picture(image) for image in images])["pixel_values"]
    ours, model = encoder(images), AutoModel.from_pretrained(folder).eval()
    given = model(prepared)
    found = [
        require_equal(prepared, normalise(images, dtype=torch.float32), what="what AutoImageProcessor makes of an image"),
        require_equal(given.last_hidden_state[:, -ours.tokens.shape[1] :], ours.tokens, what="AutoModel's last_hidden_state"),
        require_equal(given.pooler_output, ours.tokens.mean(dim=1), what="AutoModel's pooler_output"),
    ]
    return max(found)
