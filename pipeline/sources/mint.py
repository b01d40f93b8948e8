"""MINT-1T (Awadalla et al. 2024, arXiv:2406.11271) and alike: tars of interleaved documents.

    KEY.json {"texts", "images", "image_metadata"} + KEY.tiff --> frames as PNG, in the order of the names in `images` --> pieces
    KEY.json + KEY.000.jpg ... (NeMo Curator), or addresses in `images` (the HTML part as WebDataset) --> pieces
"""

import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from lcl.core.images import MAX_PIXELS
from lcl.core.rejected import Reason, Rejected
from pipeline.raw import ImageReference, Piece, RawDocument
from pipeline.sources.obelics import page_of, texts_beside
from pipeline.sources.options import SourceOptions
from pipeline.sources.pieces import MAX_DOCUMENT_BYTES, MAX_PIECES, each, finite, image_at, raw_document, web_address
from pipeline.sources.tar_samples import Sample, read_samples
from pipeline.storage import Input

MAX_JSON_BYTES = 16 << 20
MAX_DOCUMENT_PIXELS = 8 * MAX_PIXELS  # of all frames: they may lie on the same bytes
TIFF_ENDINGS = ("tiff", "tif")
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
SCORES = ("language_id_whole_page_fasttext", "bff_contained_ngram_count_before_dedupe", "previous_word_count", "bff_duplicate_paragraph_spans_fraction")


def read_mint(source: Input, options: SourceOptions) -> Iterator[RawDocument | Rejected]:
    """Documents of a tar in file order; `crawl.offset` is the byte offset of the sample's first header.

    Frame k of the TIFF is the k-th name in `images` (or the k-th different one, if there are as many frames as different names); it is
    stored without loss. A damaged frame is an unusable image; another number of frames than of images rejects the document.
    """
    return each(read_samples(source), lambda sample: _document(sample, file=source.name))


def _document(sample: Sample, *, file: str) -> RawDocument:
    where = f"{file}, sample {sample.name}"
    row = read_json_member(sample, where)
    texts = texts_beside(row, where)
    images = _images(sample, row["images"], where)
    pieces: list[Piece | None] = []
    for text, name, image in zip(texts, row["images"], images, strict=True):
        if isinstance(text, str):
            pieces.append(text)
        if name is not None:
            pieces.append(image)
    scores = {name: value for name in SCORES if (value := finite(_score(row.get(name)))) is not None}
    return raw_document(pieces, file=file, row=sample.offset, page_url=page_of(row, where), order="page", scores=scores)


def _score(value: Any) -> Any:
    """fastText's `{"en": 0.97}` counts by its value."""
    return next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else value


def read_json_member(sample: Sample, where: str) -> dict[str, Any]:
    """The sample's .json. Raises Rejected if it has none, or one that is no object."""
    data = sample.members.get("json", b"")
    if len(data) > MAX_JSON_BYTES:
        raise Rejected(Reason.ROW_TOO_LARGE, f"{where}: {len(data)} bytes of JSON")
    try:
        row = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Rejected(Reason.ROW_MALFORMED, f"{where}: {error if data else 'no .json member'}") from error
    if not isinstance(row, dict):
        raise Rejected(Reason.ROW_MALFORMED, f"{where}: its .json is no object")
    return row


def _images(sample: Sample, names: Sequence[Any], where: str) -> list[ImageReference | None]:
    """Parallel to `names`: the image of each, None where it is null or cannot be used."""
    tiff = next((sample.members[ending] for ending in TIFF_ENDINGS if ending in sample.members), None)
    held = [name for name in names if isinstance(name, str) and not web_address(name)]
    frames = _frames(tiff, held, where) if tiff is not None and held else {}
    stem = sample.name.rpartition("/")[2] + "."
    images: list[ImageReference | None] = []
    taken = 0
    for name in names:
        if not isinstance(name, str):
            images.append(None)
        elif web_address(name):
            images.append(image_at(name))
        else:
            by_ending = sample.members.get(name.rpartition("/")[2].removeprefix(stem).lower())
            images.append(image_at("", data=frames.get(taken, by_ending)))
            taken += 1
    return images


def _frames(tiff: bytes, names: Sequence[str], where: str) -> Mapping[int, bytes | None]:
    """For each place in `names`, the frame that belongs to it as PNG, None if it is damaged or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's word on odd tags and on sizes, which are checked below
            with Image.open(io.BytesIO(tiff), formats=("TIFF",)) as image:
                num_frames = _count_frames(image, at_most=len(names), where=where)
                places = _places(names, num_frames, where)
                pngs: list[bytes | None] = []
                for index in range(num_frames):
                    pngs.append(_png(image, index))
                    if sum(len(png) for png in pngs if png) > MAX_DOCUMENT_BYTES:
                        raise Rejected(Reason.ROW_TOO_LARGE, f"{where}: more than {MAX_DOCUMENT_BYTES} bytes of frames")
                return {place: pngs[frame] for place, frame in enumerate(places)}
    except Rejected:
        raise
    except Exception as error:  # a decoder meets hostile bytes: whatever it raises means the same
        raise Rejected(Reason.ROW_MALFORMED, f"{where}: no TIFF: {error}") from error


def _count_frames(image: Image.Image, *, at_most: int, where: str) -> int:
    """Frames of a TIFF, one more than `at_most` if there are more, by their headers: a small file may claim millions of them."""
    num_pixels = 0
    for index in range(at_most + 1):
        try:
            image.seek(index)
        except EOFError:
            return index
        num_pixels += image.width * image.height
        if index > MAX_PIECES or num_pixels > MAX_DOCUMENT_PIXELS:
            raise Rejected(Reason.ROW_TOO_LARGE, f"{where}: {index + 1} frames with {num_pixels} pixels, and perhaps more")
    return at_most + 1


def _places(names: Sequence[str], num_frames: int, where: str) -> Sequence[int]:
    if num_frames == len(names):
        return range(num_frames)
    different = {name: index for index, name in enumerate(dict.fromkeys(names))}
    if num_frames == len(different):
        return [different[name] for name in names]
    raise Rejected(Reason.ROW_MALFORMED, f"{where}: {num_frames}{' or more' * (num_frames > len(names))} frames for {len(names)} images")


def _png(image: Image.Image, index: int) -> bytes | None:
    """Frame `index` as PNG with the same pixels; CMYK and alike become RGB, which PNG can hold."""
    try:
        image.seek(index)
        if image.width * image.height > MAX_PIXELS:
            return None
        frame = image if image.mode in PNG_MODES else image.convert("RGB")
        buffer = io.BytesIO()
        frame.save(buffer, "PNG", compress_level=1, icc_profile=None)
        return buffer.getvalue()
    except Exception:  # see _frames; the loss is counted as an unusable image
        return None
