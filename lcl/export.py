"""Entry point: the encoder of a checkpoint for timm, transformers, open_clip or onnxruntime, with a model card; written only if its features equal ours.

    checkpoint --> OUTPUT aside --> opened by the other library --features equal to 1e-5--> OUTPUT
                                                                --otherwise--> nothing is left
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from lcl.core.config import config, run_command, to_dict
from lcl.core.files import folder_aside, open_aside, sha256_of, write_json
from lcl.core.logs import set_up_logging
from lcl.evals.evaluated import EvaluatedModel
from lcl.evals.results import read_result
from lcl.exports.card import CardFacts, model_card, training_of
from lcl.exports.folder import RECORD, SCHEMA, Target
from lcl.features import Encoder, Weights, load_encoder, load_model
from lcl.step_folders import MANIFEST

log = logging.getLogger(__name__)

CHATTY = ("onnxscript", "onnx_ir", "timm", "httpx")  # libraries that tell every step


@config
class ExportConfig:
    checkpoint: str
    """A run (its newest checkpoint), one checkpoint (step-N), or, except for open_clip, a file of published weights (.pt)."""
    to: Target
    """timm and hf: one folder for both; hf also checks it in transformers. open_clip: both towers. onnx: the encoder as a graph."""
    output: str
    """The folder to write; it must not be there yet."""
    weights: Weights = "model"
    """Weights of the last step, or their moving average."""
    results: tuple[str, ...] = ()
    """Files that `lcl eval` wrote, for the model card."""
    licence: str = ""
    """Licence of the weights for the card, by its SPDX name (Apache-2.0, CC-BY-4.0, ...), written in lower case as model hubs have it; none is stated by default."""
    context_length: Annotated[int, Field(ge=0)] = 0
    """open_clip: tokens that its text tower reads at most; longer texts keep their end. 0: as many as in training. Fewer are faster, for it pads to this."""


def main(settings: ExportConfig) -> None:
    set_up_logging()
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    output, checkpoint = Path(settings.output), Path(settings.checkpoint)
    if output.exists():
        raise ValueError(f"{output} is there already: remove it, or give another --output")
    results = [Path(path) for path in settings.results]
    check_results(results, checkpoint, weights=settings.weights)
    settings = replace(settings, licence=settings.licence.lower())
    with folder_aside(output) as aside:
        encoder, difference = write_parts(aside, settings)
        facts = CardFacts(settings.to, checkpoint, settings.licence, results, difference)
        with open_aside(aside / "README.md") as file:
            file.write(model_card(encoder, facts, folder_name=output.name).encode())
        _seal(aside)
    log.info("%s: for %s; its features differ from ours by at most %.1e", output, settings.to, difference)


def check_results(results: Sequence[Path], checkpoint: Path, *, weights: Weights) -> None:
    """Raises ValueError for a file that is no result, and for one of other weights than those that are exported."""
    if not results:
        return
    own = {EvaluatedModel.open(checkpoint, weights=weights).sha256, load_encoder(checkpoint, weights=weights).fingerprint}
    for path in results:
        measured = read_result(path)["model"]
        if measured["weights_sha256"] not in own:
            raise ValueError(f"--results {path} was measured on other weights ({measured['path']}, {measured['weights']}) than are exported ({checkpoint}): evaluate these, or leave it out")


def write_parts(folder: Path, settings: ExportConfig) -> tuple[Encoder, float]:
    """Writes what the target library reads and compares it with the encoder; returns that and the largest difference.

    Raises ValueError if the checkpoint cannot be exported to it, or if the difference is more than 1e-5.
    """
    checkpoint = Path(settings.checkpoint)
    if settings.to == "open_clip":
        from lcl.exports.open_clip_model import check_open_clip, write_open_clip

        model, tokenizer = load_model(checkpoint, weights=settings.weights)
        trained = model.settings.text.context_length
        length = settings.context_length or trained
        if not 3 <= length <= trained:
            raise ValueError(f"--context-length {length}: the language model reads 3 to {trained} tokens")
        write_open_clip(folder, model, tokenizer, context_length=length)
        _write_record(folder, encoder := Encoder(model), settings)
        return encoder, check_open_clip(folder, model, tokenizer, context_length=length)
    if settings.context_length:
        raise ValueError(f"--context-length is for --to open_clip; --to {settings.to} holds no language model")
    encoder = load_encoder(checkpoint, weights=settings.weights)
    if settings.to == "onnx":
        from lcl.exports.onnx_graph import check_onnx, write_onnx

        write_onnx(folder, encoder)
        _write_record(folder, encoder, settings)
        return encoder, check_onnx(folder, encoder)
    from lcl.exports.timm_model import check_timm, check_transformers, write_timm

    write_timm(folder, encoder, licence=settings.licence)
    _write_record(folder, encoder, settings)
    difference = check_timm(folder, encoder)
    return encoder, max(difference, check_transformers(folder, encoder)) if settings.to == "hf" else difference


def _write_record(folder: Path, encoder: Encoder, settings: ExportConfig) -> None:
    sizes = encoder.settings
    sizes = replace(sizes, tokenizer=replace(sizes.tokenizer, file=Path(sizes.tokenizer.file).name))  # where it lay on this machine is nobody's business
    write_json(folder / RECORD, {"schema": SCHEMA, "to": settings.to, "model": to_dict(sizes), "fingerprint": encoder.fingerprint, "training": training_of(Path(settings.checkpoint))})
    _seal(folder)


def _seal(folder: Path) -> None:
    files = [path for path in sorted(folder.iterdir()) if path.name != MANIFEST]
    write_json(folder / MANIFEST, {"sha256": {path.name: sha256_of(path) for path in files}})


if __name__ == "__main__":
    run_command(ExportConfig, main, description=__doc__.splitlines()[0])
