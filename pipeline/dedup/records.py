"""The one pass over the documents: what each group of them contributes to every later step.

    documents of group g --> keys                              (who is number i)
                         --> url, text: 128-bit hashes         by partition of the hash
                         --> band: 14 keys each                by partition of the key
                         --> paragraph, image_url, image_sha256: hash and place, by partition
                         --> contaminated: drops               by group
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from lcl.core.document import PARAGRAPH_BREAK
from lcl.core.files import open_aside
from pipeline.addresses import normal_url
from pipeline.dedup.contamination import shares_ngram
from pipeline.dedup.corpus import binary_column
from pipeline.dedup.runs import BAND, DROP, HASHED, HASHED_PLACE, make_records, partition_of, write_runs
from pipeline.dedup.signature import band_keys, hash_bytes
from pipeline.dedup.steps import Work, write_by_group

KEY_BYTES = 16
EVALUATION = "evaluation.u64"  # sorted n-gram hashes of the evaluation texts, in the work folder
def url_value(url: str) -> str:
    """What makes two image addresses the same: their normal form. A data: address holds the image itself and stands as it is."""
    return url if url.startswith("data:") else normal_url(url)


IMAGE_VALUES = {"image_url": ("image_urls", url_value), "image_sha256": ("image_sha256", str.lower)}  # kind: its column, what makes two values equal


def image_kinds(work: Work) -> list[str]:
    """What images are known by in this corpus and wanted for: addresses, and hashes where the extracted files have them."""
    settings = work.settings
    kinds = ["image_url"] if settings.max_image_url_documents or settings.image_set else []
    return kinds + (["image_sha256"] if settings.max_image_hash_documents and work.corpus.has_image_hashes else [])


def make_group_records(work: Work, group: int) -> dict[str, int]:
    """Writes the records of a group of documents."""
    settings, corpus = work.settings, work.corpus
    kinds = image_kinds(work)
    ngrams = np.fromfile(work.folder / EVALUATION, np.uint64)
    columns = ["key"] + ["url_hash"] * settings.exact_url + ["text_hash"] * settings.exact_text + ["minhash"] * settings.near.on
    columns += ["domain"] * settings.paragraphs + ["text"] * (settings.paragraphs or len(ngrams) > 0) + [IMAGE_VALUES[kind][0] for kind in kinds]
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    keys: list[bytes] = []
    for first, batch in corpus.read(*corpus.bounds(group), columns):
        documents = np.arange(first, first + len(batch))
        keys += map(bytes.fromhex, batch["key"].to_pylist())
        if settings.exact_url:
            found["url"].append(_hashed(batch["url_hash"], documents))
        if settings.exact_text:
            found["text"].append(_hashed(batch["text_hash"], documents))
        if settings.near.on:
            found["band"].append(_bands(batch["minhash"], documents, bands=settings.near.bands, rows=settings.near.rows))
        if settings.paragraphs:
            found["paragraph"].append(_places(_paragraphs(batch), documents))
        for kind in kinds:
            found[kind].append(_places(_image_values(batch, kind), documents))
        if len(ngrams):
            length = settings.contamination.ngram_words
            hits = documents[[shares_ngram(text, ngrams, length) for text in batch["text"].to_pylist()]]
            found["contaminated"].append(make_records(DROP, doc=hits, kept=np.full(len(hits), -1)))
    _write_keys(work, group, keys)
    dtypes = dict.fromkeys(["url"] * settings.exact_url + ["text"] * settings.exact_text, HASHED)
    dtypes |= dict.fromkeys(["paragraph"] * settings.paragraphs + kinds, HASHED_PLACE)
    for kind, dtype in dtypes.items():
        records = np.concatenate([np.empty(0, dtype), *found[kind]])
        write_runs(work.path(kind, group), records, partition_of(records["hi"], work.num_partitions), num_receivers=work.num_partitions)
    if settings.near.on:
        bands = np.concatenate([np.empty(0, BAND), *found["band"]])
        write_runs(work.path("band", group), bands, partition_of(bands["key"], work.num_partitions), num_receivers=work.num_partitions)
    contaminated = np.concatenate([np.empty(0, DROP), *found["contaminated"]])
    write_by_group(work, "drop_contaminated", group, contaminated)
    return {"documents": len(keys)}


def _hashed(column: pa.Array, documents: np.ndarray) -> np.ndarray:
    words = binary_column(column).view("<u8")
    return make_records(HASHED, hi=words[:, 0], lo=words[:, 1], doc=documents)


def _bands(column: pa.Array, documents: np.ndarray, *, bands: int, rows: int) -> np.ndarray:
    """Documents without a word have no signature and no band."""
    has_words = ~np.asarray(column.is_null())
    keys = band_keys(binary_column(column)[has_words].view("<u4"), bands=bands, rows=rows)
    return make_records(BAND, key=keys.ravel(), doc=np.repeat(documents[has_words], bands))


def _paragraphs(batch: pa.RecordBatch) -> Iterator[Iterator[bytes]]:
    for domain, text in zip(batch["domain"].to_pylist(), batch["text"].to_pylist(), strict=True):
        yield (hash_bytes(f"{domain}\n{paragraph}") for paragraph in (text.split(PARAGRAPH_BREAK) if text else ()))


def _image_values(batch: pa.RecordBatch, kind: str) -> Iterator[Iterator[bytes | None]]:
    column, same = IMAGE_VALUES[kind]
    for values in batch[column].to_pylist():
        yield (hash_bytes(same(value)) if value else None for value in values or ())


def _places(values: Iterator[Iterator[bytes | None]], documents: np.ndarray) -> np.ndarray:
    """A record per value, with its place in its document; None has a place and no record."""
    hashes: list[bytes] = []
    owners: list[int] = []
    places: list[int] = []
    for document, own in zip(documents.tolist(), values, strict=True):
        for place, value in enumerate(own):
            if value is not None:
                hashes.append(value)
                owners.append(document)
                places.append(place)
    words = np.frombuffer(b"".join(hashes), "<u8").reshape(-1, 2)
    return make_records(HASHED_PLACE, hi=words[:, 0], lo=words[:, 1], doc=np.array(owners, np.int64), place=np.array(places, np.int32))


def _write_keys(work: Work, group: int, keys: list[bytes]) -> None:
    with open_aside(work.path("key", group)) as file:
        file.write(b"".join(keys))


def keys_of(work: Work, documents: np.ndarray) -> list[str]:
    """The keys (32 hex digits) of documents by number, in any order."""
    groups = work.corpus.group_of(documents)
    found = np.empty((len(documents), KEY_BYTES), np.uint8)
    for group in np.unique(groups):
        table = np.memmap(work.path("key", int(group)), np.uint8, mode="r").reshape(-1, KEY_BYTES)
        inside = groups == group
        found[inside] = table[documents[inside] - work.corpus.bounds(int(group))[0]]
    return [row.tobytes().hex() for row in found]
