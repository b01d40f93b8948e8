"""Which encoder a model looks through: kept in the model's file, so that no other is taken in its place, and none where it needs one."""

from typing import NamedTuple

from lcl.features import Encoder


class EncoderRecord(NamedTuple):
    """The encoder that a model was trained with."""

    fingerprint: str
    num_features: int
    """Values of a place that the model reads."""
    num_statistics: int = 0
    """Values of a picture as a whole that it reads."""


def check_encoder(encoder: Encoder, fingerprint: str, *, model: str) -> None:
    """Raises ValueError if this is another encoder than `model`, as an error calls it, was trained with."""
    if encoder.fingerprint != fingerprint:
        raise ValueError(f"--encoder is {encoder.fingerprint[:16]}, and {model} was trained with {fingerprint[:16]}: give that one")
