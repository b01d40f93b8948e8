"""A density model in one file: weights, calibration and settings. Its hash names it in every archive that it compresses.

    NAME.safetensors   weights (`model.*`), the table of errors (`calibration.errors`), the times of a codec's steps (`calibration.times`)
                       metadata: schema, settings, what it was trained on, the encoder that its context comes from
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from downstream.density.calibration import Calibration
from downstream.density.contexts import TokenContext
from downstream.density.model import DensityConfig, DensityModel
from downstream.encoder_record import EncoderRecord, check_encoder
from downstream.sight import Sight
from downstream.tensor_file import read_model, write_model
from lcl.core.config import from_dict, to_dict
from lcl.features import Encoder

SCHEMA = "lcl-density/3"
PREFIX = "calibration."


@dataclass(frozen=True)
class TrainedDensity:
    model: DensityModel
    calibration: Calibration
    about: Mapping[str, Any]
    """How it was trained: data, steps, commit."""
    encoder: EncoderRecord | None = None
    """What finding contexts needs; decoding and sampling do not."""
    sha256: str = ""
    """Of its file; empty of one that is not in a file yet."""

    @property
    def hash(self) -> int:
        """Begins the SHA-256: names the model in what it compresses."""
        return int(self.sha256[:16] or "0", 16)

    @property
    def settings(self) -> DensityConfig:
        return self.model.settings

    def check_sight(self) -> None:
        """Raises ValueError if finding contexts needs an encoder that was not given."""
        if self.encoder is not None and (not isinstance(self.model.context_logits, TokenContext) or self.model.context_logits.sight is None):
            raise self.encoder.missing(of="this model's context")


def save_density(trained: TrainedDensity, path: Path) -> None:
    tensors = {f"model.{name}": value for name, value in trained.model.state_dict().items()} | {PREFIX + name: value for name, value in trained.calibration._asdict().items()}
    needed = None if trained.encoder is None else trained.encoder._asdict()
    write_model(path, tensors, schema=SCHEMA, settings=to_dict(trained.settings), about=dict(trained.about), encoder=needed)


def load_density(path: Path, *, encoder: Encoder | None = None) -> TrainedDensity:
    """The model of a file; with the `encoder` of its context, where that comes from one, it finds contexts too.

    Raises ValueError for a file that is not there, is damaged, or is no density model, for another encoder than its context was trained with, and for one that it has no use for.
    """
    found = read_model(path, schema=SCHEMA, what="density model", made_by="lcl train density")
    needed = EncoderRecord(**found.metadata["encoder"]) if found.metadata["encoder"] else None
    settings = from_dict(DensityConfig, found.metadata["settings"], origin=str(path))
    model = DensityModel(settings, num_features=0 if needed is None else needed.num_features)
    calibration = Calibration(*(found.tensors.pop(PREFIX + name) for name in Calibration._fields))
    model.load_state_dict({name.removeprefix("model."): value for name, value in found.tensors.items()})
    if encoder is not None:
        if needed is None or not isinstance(model.context_logits, TokenContext):
            raise ValueError(f"--encoder is for models whose context comes from an encoder's tokens, which that of {path} does not: leave it out")
        check_encoder(encoder, needed.fingerprint, of=f"the context of {path}")
        model.context_logits.sight = Sight(encoder, settings.context.sight)
    return TrainedDensity(model.eval().requires_grad_(False), calibration, found.metadata["about"], needed, found.sha256)
