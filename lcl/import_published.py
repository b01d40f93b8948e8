"""Entry point: the authors' checkpoint (OpenGVLab/LCL) to a checkpoint folder of ours, for `lcl eval`, `load_encoder` and `--start`.

    config (JSON or name) --> model <-- weights (.pt or .safetensors, no code run) --> OUTPUT/model.safetensors
                                                                                              config.json, run.json, manifest.json
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save

from lcl.core.config import config, run_command, to_dict, write_run_record
from lcl.core.files import folder_aside, open_aside, read_json, sha256_of, write_json
from lcl.core.logs import set_up_logging
from lcl.core.tokenizer import Tokenizer
from lcl.model import LCL, ModelConfig
from lcl.published import load_state, published_config, read_weights
from lcl.step_folders import MANIFEST
from lcl.train_config import LCL_VIT_B16_LAION, LCL_VIT_B32_MMC4

log = logging.getLogger(__name__)

_B32 = LCL_VIT_B32_MMC4.model
PUBLISHED = {  # by the names of their configs in the published code; the two of ViT-B/32 differ in the context alone
    "LCL_ViT-B-16_laion": LCL_VIT_B16_LAION.model,
    "LCL_ViT-B-32_laion": replace(_B32, text=replace(_B32.text, context_length=128)),
    "LCL_ViT-B-32_mmc4": _B32,
}
SPECIAL_TOKENS = {"<start_of_text>": "sot", "<end_of_text>": "eot", "<img_placehold>": "image", "<start_of_img>": "soi", "<end_of_img>": "eoi"}


@config
class ImportPublishedConfig:
    model_config: str
    """LCL_ViT-B-16_laion, LCL_ViT-B-32_laion or LCL_ViT-B-32_mmc4, or a JSON file with a config of the same form."""
    weights: str
    """The file of weights: .pt (a state dict or a training checkpoint of open_clip) or .safetensors."""
    output: str
    """The checkpoint folder to write; it must not be there yet."""


def main(settings: ImportPublishedConfig) -> None:
    set_up_logging()
    output, weights = Path(settings.output), Path(settings.weights)
    if output.exists():
        raise ValueError(f"{output} is there already: remove it, or give another --output")
    sizes = find_config(settings.model_config)
    tokenizer = Tokenizer(sizes.tokenizer)
    state = read_weights(weights)
    model = LCL.for_tokenizer(sizes, tokenizer)
    load_state(model, state, origin=str(weights))
    write_folder(output, model, tokenizer, settings=settings)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    log.info("%s: %.1f million parameters; give it to lcl eval as --checkpoint, or to lcl pretrain as --start.model", output, num_parameters / 1e6)


def find_config(name: str) -> ModelConfig:
    """The model that a name in PUBLISHED or a JSON file says. Raises ValueError if there is neither, or if its vocabulary is not the tokenizer's."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"--model-config {name}: no such file, nor one of {', '.join(PUBLISHED)}")
    record = read_json(path)
    sizes, vocab_size = published_config(record, origin=name)
    _check_vocabulary(record, vocab_size, Tokenizer(sizes.tokenizer), origin=name)
    return sizes


def _check_vocabulary(record: Mapping[str, Any], vocab_size: int, tokenizer: Tokenizer, *, origin: str) -> None:
    if vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"{origin}: text_cfg.vocab_size is {vocab_size}, and CLIP's merges with the five special ids make {tokenizer.vocab_size}: "
            "only a model with the released ones' tokenizer can be imported"
        )
    ids = {name: getattr(tokenizer, field) for name, field in SPECIAL_TOKENS.items()}
    given = record.get("special_token_ids", ids)
    if given != ids:
        raise ValueError(
            f"{origin}: special_token_ids is {given}, and that of the released models and of the tokenizer here {ids}: only such a model can be imported"
        )


def write_folder(folder: Path, model: LCL, tokenizer: Tokenizer, *, settings: ImportPublishedConfig) -> None:
    """Writes the checkpoint that `load_encoder` reads, whole or not at all: weights, config, checksums, and where they came from.

    It has no state of an optimiser, so a run can start from it and none can resume from it.
    """
    with folder_aside(folder) as aside:
        with open_aside(aside / "model.safetensors") as file:  # safetensors' own save_file lets nobody but the owner read it
            file.write(save(model.state_dict()))
        write_json(aside / "config.json", {"model": to_dict(model.settings), "tokenizer": tokenizer.fingerprint})
        write_run_record(aside, settings, weights=sha256_of(Path(settings.weights)))
        write_json(aside / MANIFEST, {"sha256": {path.name: sha256_of(path) for path in sorted(aside.iterdir())}})


if __name__ == "__main__":
    run_command(ImportPublishedConfig, main, description=__doc__.splitlines()[0])
