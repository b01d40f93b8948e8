"""Images in a folder per class, on disk or in a tar.

    [more folders/] [train/ | validation/ | test/] class/ image.jpg
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from lcl.core.files import files_below
from lcl.evals.found import SPLIT_NAMES, FoundImage, FoundSet, is_image
from lcl.evals.tar_members import Members


def find_in_folders(root: Path) -> FoundSet:
    """Images below `root`. Raises ValueError as `find_in_tar`."""
    files = [path for path in files_below(root) if is_image(path.name)]
    return FoundSet(_sorted_out(root, ((path.relative_to(root).as_posix(), path.read_bytes) for path in files)))


def find_in_tar(path: Path, members: Members) -> FoundSet:
    """Images among the members, and the spec that a classes.json at the top of the tar holds.

    Raises ValueError for an image that lies in no class folder, and where some images lie below a split and others do not.
    """
    specs = [read for name, read in members.items() if PurePosixPath(name).name == "classes.json" and len(PurePosixPath(name).parts) <= 2]
    try:
        spec = json.loads(specs[0]()) if specs else {}
    except ValueError as error:
        raise ValueError(f"{path}: its classes.json is no JSON ({error})") from error
    return FoundSet(_sorted_out(path, ((name, read) for name, read in members.items() if is_image(name))), spec=spec)


def _sorted_out(root: Path, files: Iterable[tuple[str, Callable[[], bytes]]]) -> tuple[FoundImage, ...]:
    images = []
    for name, read in files:
        folders = PurePosixPath(name).parts[:-1]
        at = next((place for place, folder in enumerate(folders) if folder.lower() in SPLIT_NAMES), None)
        inside = folders[-1:] if at is None else folders[at + 1 :]
        if not inside:
            raise ValueError(f"{root}: {name} lies in no class folder; images lie in train/<class>/, validation/<class>/ and test/<class>/")
        images.append(FoundImage(name, "" if at is None else SPLIT_NAMES[folders[at].lower()], inside[0], read))
    loose = [image.id for image in images if not image.split]
    if loose and len(loose) < len(images):
        raise ValueError(f"{root}: {loose[0]} lies below no split, and other images do; move it into train/, validation/ or test/")
    return tuple(images)
