"""The control of every study with an encoder: the same encoder at its random start, as a checkpoint that commands take."""

from pathlib import Path

from safetensors.torch import save

from lcl.core.config import to_dict
from lcl.core.files import folder_aside, open_aside, sha256_of, write_json
from lcl.features import load_encoder, random_encoder
from lcl.step_folders import MANIFEST


def random_twin_of(encoder: str, folder: Path) -> Path:
    """The folder, made where it is missing."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        trained = load_encoder(encoder)
        with folder_aside(folder) as aside:
            with open_aside(aside / "model.safetensors") as file:
                file.write(save(random_encoder(trained.settings).state_dict()))
            write_json(aside / "config.json", {"model": to_dict(trained.settings)})
            write_json(aside / MANIFEST, {"sha256": {path.name: sha256_of(path) for path in sorted(aside.iterdir())}})
    return folder
