"""Which encoder a model looks through: kept in the model's file, so that no other is taken in its place, and none where it needs one."""

from typing import NamedTuple

from lcl.features import Encoder


class EncoderRecord(NamedTuple):
    """The encoder that a model was trained with, as the model's file names it."""

    fingerprint: str
    num_features: int
    """Values of a place that the model reads."""
    num_statistics: int = 0
    """Values of a picture as a whole that it reads."""

    def missing(self, *, of: str) -> ValueError:
        """What to raise where `of` has to look and was given no encoder."""
        return ValueError(f"{of} looks at pictures through the encoder {self.fingerprint[:16]}: give --encoder, its checkpoint, run or export (decoding needs none)")


def check_encoder(encoder: Encoder, fingerprint: str, *, of: str) -> None:
    """Raises ValueError if this is another encoder than the one that `of`, a model or a part of one, was trained with."""
    if encoder.fingerprint != fingerprint:
        raise ValueError(f"--encoder is {encoder.fingerprint[:16]}, and {of} was trained with {fingerprint[:16]}: give that one")
