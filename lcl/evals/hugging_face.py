"""Images of a Hugging Face dataset on disk (`save_to_disk`), read by the library `datasets`; nothing is fetched and no script of a dataset runs."""

from functools import partial
from pathlib import Path
from typing import Any

from lcl.evals.found import SPLIT_NAMES, FoundImage, FoundSet

LABELS, CAPTIONS = ("label", "labels", "cls", "class"), ("captions", "caption", "text", "sentences")


def is_hugging_face(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()


def find_in_hugging_face(path: Path) -> FoundSet:
    """Images of the first column of images, with the column of labels (label, labels, cls, class) and of captions (captions, caption, text, sentences).

    Raises ValueError if `datasets` is not installed, if there is no such column of images, if classes stand in a column of another name, or if an image is not stored in the dataset.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ValueError(f"{path} is a Hugging Face dataset, which needs the package datasets: pip install -e '.[eval]'") from error
    loaded = datasets.load_from_disk(str(path))
    parts = loaded if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    images: list[FoundImage] = []
    classes: tuple[str, ...] = ()
    for name, part in parts.items():
        columns = [column for column, feature in part.features.items() if isinstance(feature, datasets.Image)]
        if not columns:
            raise ValueError(f"{path}: it has no column of images (its columns are {', '.join(part.features)}); cast one with cast_column(..., datasets.Image())")
        label = next((column for column in LABELS if column in part.features), None)
        others = [column for column, feature in part.features.items() if isinstance(feature, datasets.ClassLabel)]
        if label is None and others:
            raise ValueError(f"{path}: none of its columns is called {', '.join(LABELS)}, and {', '.join(others)} hold classes: rename the one that is meant with rename_column(..., 'label')")
        caption = next((column for column in CAPTIONS if column in part.features), None)
        if label is not None and isinstance(part.features[label], datasets.ClassLabel):
            classes = tuple(part.features[label].names)
        labels = part[label] if label else [None] * len(part)
        captions = part[caption] if caption else [()] * len(part)
        stored = part.cast_column(columns[0], datasets.Image(decode=False)).select_columns(columns[0])
        for row, (given, texts) in enumerate(zip(labels, captions, strict=True)):
            identity = f"{name or 'all'}/{row:09d}"
            read = partial(_read, stored, row, columns[0], f"{path}: {identity}")
            images.append(FoundImage(identity, SPLIT_NAMES.get(name.lower(), ""), given, read, (texts,) if isinstance(texts, str) else tuple(texts)))
    return FoundSet(tuple(images), classes=classes)


def _read(part: Any, row: int, column: str, what: str) -> bytes:
    data = part[row][column]["bytes"]
    if data is None:
        raise ValueError(f"{what} names a file in the place of its bytes; write the dataset again with save_to_disk of a version that embeds images")
    return data
