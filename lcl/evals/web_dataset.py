"""Images in WebDataset tars: members of one sample share a name up to the first dot.

    000.jpg (.png .webp ...)  with  000.cls (a number or a class)  |  000.json {"label" | "cls" | "class", "caption" | "captions"}  |  000.txt (a caption a line)

The split is the folder of a tar (test/0.tar) or how its name begins (test-000.tar). Beside the tars may stand the files that CLIP_benchmark reads:
classnames.txt (a name a line) and zeroshot_classification_templates.txt (with {c} for the name).
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from lcl.evals.found import SPLIT_NAMES, FoundImage, FoundSet, is_image
from lcl.evals.tar_members import Members, read_members

LABELS, CAPTIONS = ("label", "cls", "class"), ("captions", "caption")
SIDECARS = (".cls", ".json", ".txt")


def is_web_dataset(members: Members) -> bool:
    """Whether the first image has a file of labels or captions under its own name."""
    first = next((name for name in members if is_image(name)), None)
    return first is not None and any(_key(first) + ending in members for ending in SIDECARS)


def find_in_web_dataset(tars: Sequence[Path], *, root: Path | None = None) -> FoundSet:
    """Images of the tars. Raises ValueError as `read_members`, and for a sample whose label or captions cannot be read."""
    images = []
    for path in tars:
        prefix = path.relative_to(root).as_posix() if root else path.name
        split, members = _split(PurePosixPath(prefix)), read_members(path)
        for name, read in members.items():
            if not is_image(name):
                continue
            try:
                label, captions = _annotations(members, _key(name))
            except (ValueError, UnicodeDecodeError) as error:
                raise ValueError(f"{path}: the label or caption of {name} cannot be read ({error})") from error
            images.append(FoundImage(f"{prefix}/{name}", split, label, read, captions))
    if root is None:
        return FoundSet(tuple(images))
    names, templates = _lines(root / "classnames.txt"), _lines(root / "zeroshot_classification_templates.txt")
    spec = {"classes": names, "templates": [template.replace("{c}", "{}") for template in templates]}
    return FoundSet(tuple(images), spec={key: value for key, value in spec.items() if value})


def _key(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0]))


def _split(path: PurePosixPath) -> str:
    candidates = [*path.parts[:-1], path.name.replace("_", "-").replace(".", "-").partition("-")[0]]
    return next((SPLIT_NAMES[part.lower()] for part in candidates if part.lower() in SPLIT_NAMES), "")


def _annotations(members: Members, key: str) -> tuple[str | int | None, tuple[str, ...]]:
    label: str | int | None = None
    captions: tuple[str, ...] = ()
    if key + ".json" in members:
        record = json.loads(members[key + ".json"]())
        if not isinstance(record, dict):
            raise ValueError(f"{key}.json is no object")
        label = next((record[field] for field in LABELS if field in record), None)
        given = next((record[field] for field in CAPTIONS if field in record), ())
        captions = (given,) if isinstance(given, str) else tuple(given)
    if key + ".txt" in members:
        captions = tuple(line.strip() for line in members[key + ".txt"]().decode().splitlines() if line.strip())
    if key + ".cls" in members:
        label = members[key + ".cls"]().decode().strip()
    if not isinstance(label, str | int | None) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError("a label is a number or a text, captions are texts")
    return int(label) if isinstance(label, str) and label.removeprefix("-").isdecimal() else label, captions


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []
