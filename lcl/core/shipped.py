"""Trained weights that come with the package: what a command takes where no model is named.

    lcl/weights/NAME   a file, a folder of restorers by task, or an export of an encoder, made by this project's own commands; NAME.md, its card, says of what, how, and what it can and cannot do
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "weights"
CODEC, DENSITY, DETECTOR, ENCODER, RESTORERS = "codec.safetensors", "density.safetensors", "detector.safetensors", "encoder", "restorers"


def or_shipped(path: str, name: str) -> Path:
    """`path`, or where it is empty the weights of that name. Raises ValueError where the package came without them."""
    if path:
        return Path(path)
    found = FOLDER / name
    if not found.exists():
        raise ValueError(f"no model is named, and {name} is not among the weights that came with this package: name one")
    return found


def shipped_restorers() -> dict[str, Path]:
    """By the task that each undoes. Raises ValueError where the package came without them."""
    return {path.stem: path for path in sorted(or_shipped("", RESTORERS).glob("*.safetensors"))}
