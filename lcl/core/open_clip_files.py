"""Files of open_clip's package, found without importing it, which takes seconds."""

import importlib.util
from pathlib import Path


def open_clip_folder() -> Path:
    """The package's folder. Raises ValueError where it is not installed."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise ValueError("open_clip's package is missing, of which CLIP's merges and models' sizes are read: pip install open_clip_torch")
    return Path(package.origin).parent
