"""Trained weights that come with the package: what a command takes where no model is named.

    lcl/weights/NAME   a file, or an export of an encoder, made by this project's own commands; NAME.md, its card, says of what, how, and what it can and cannot do
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "weights"
CODEC, DENSITY, ENCODER = "codec.safetensors", "density.safetensors", "encoder"


def or_shipped(path: str, name: str) -> Path:
    """`path`, or where it is empty the weights of that name. Raises ValueError where the package came without them."""
    if path:
        return Path(path)
    found = FOLDER / name
    if not found.exists():
        raise ValueError(f"no model is named, and {name} is not among the weights that came with this package: name one")
    return found
