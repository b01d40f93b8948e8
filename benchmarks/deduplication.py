"""Entry point: what deduplication finds of what it should, how fast, and in how much memory.

    python benchmarks/deduplication.py --texts ground-truth.json --output deduplication.json
    python benchmarks/deduplication.py --texts ground-truth.json --output deduplication_scale.json --parts scale --scale-documents 300000 1000000 3000000

    recall:  true texts --> private bases --> copies at known similarity --> all pairs, exactly --> what bands find, what the pass drops
    speed:   true texts --> signatures per second of one core, and documents per second of the pass
    scale:   synthetic signatures --> the pass in a process of its own --> seconds per task, peak memory, bytes on disk
"""

import json
import logging
import re
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from scipy.sparse import csr_array

from lcl.core.config import config, from_dict, run_command, to_dict
from lcl.core.logs import set_up_logging
from lcl.core.rejected import Reason
from pipeline.dedup.find_duplicates import EXTRACTED, OUTPUT, find_duplicates
from pipeline.dedup.forest import merge_links
from pipeline.dedup.runs import DROP, make_records
from pipeline.dedup.settings import DedupConfig
from pipeline.dedup.signature import SignatureConfig, band_keys, expected_recall, minhash_table, signature_fields, signature_of
from pipeline.dedup.steps import Task, in_process
from pipeline.dedup.words import shingles_of

log = logging.getLogger(__name__)

Positive = Annotated[int, Field(ge=1)]

EDGES = np.array([0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0])
TARGETS = (0.5, 0.95)         # similarities at which copies are planted
PRIVATE_SHARE = 0.25          # of the words of a text that its private base has others in the place of: bases of one text are then alike to 0.15 or so
SCALE_TOKENS = 30             # words of a synthetic document
SCALE_COPIES = 0.2            # of the synthetic documents are near-duplicates of the one before
SCALE_SIMILARITY = 0.9        # share of MinHash values that a synthetic copy has in common with it
SPLIT_DOCUMENTS = 50_000


@config
class DeduplicationConfig:
    texts: str
    """JSON file of an object whose values have an articleBody (ground-truth.json of the article extraction benchmark)."""
    output: str
    """JSON file for the numbers."""
    parts: tuple[Literal["recall", "speed", "scale"], ...] = ("recall", "speed")
    documents: Annotated[int, Field(ge=3)] = 5000
    """Documents of the corpus with planted copies."""
    rounds: Positive = 5
    """Timed rounds of signatures; the best counts."""
    scale_documents: tuple[Positive, ...] = (300_000,)
    """Sizes of synthetic corpora."""
    merged_documents: Annotated[int, Field(ge=10)] = 10_000_000
    """Documents in the last merge of forests, nine tenths of them linked."""
    scratch: str | None = None
    """Folder for temporary files: about 2 kB per synthetic document."""
    dedup: DedupConfig = DedupConfig()
    signature: SignatureConfig = SignatureConfig()
    seed: int = 0


def main(settings: DeduplicationConfig) -> None:
    from lcl.measured import write_result  # imports torch, which would be in the memory that child processes measure

    set_up_logging()
    parts: dict[str, Callable[[DeduplicationConfig], dict[str, Any]]] = {"recall": measure_recall, "speed": measure_speed, "scale": measure_scale}
    write_result(Path(settings.output), settings, {part: parts[part](settings) for part in settings.parts})


def read_articles(path: Path) -> list[str]:
    """The texts, in the order of the file. Raises ValueError if it holds none."""
    try:
        texts = [article["articleBody"] for article in json.loads(path.read_bytes()).values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"--texts {path} is no file of articles ({error!r})") from error
    if not texts:
        raise ValueError(f"--texts {path} holds no article")
    return texts


def plant(texts: Sequence[str], num_documents: int, *, seed: int) -> list[str]:
    """Documents in threes: a private base made from one of the texts, and two copies of it at similarities drawn between `TARGETS`."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array(sorted({word for text in texts for word in text.split()}))
    documents: list[str] = []
    while len(documents) < num_documents:
        base = np.array(texts[len(documents) // 3 % len(texts)].split())
        changed = rng.random(len(base)) < PRIVATE_SHARE
        base = np.where(changed, rng.choice(vocabulary, len(base)), base)
        documents.append(" ".join(base))
        for similarity in rng.uniform(*TARGETS, size=2):
            copy = base.copy()
            # Each lone new word takes 5 shingles and brings 5: J = (n - 5k) / (n + 5k).
            num_changed = round(len(base) * (1 - similarity) / (1 + similarity) / 5)
            copy[rng.choice(len(base), min(num_changed, len(base)), replace=False)] = rng.choice(vocabulary, min(num_changed, len(base)))
            documents.append(" ".join(copy))
    return documents[:num_documents]


def all_pairs(documents: Sequence[str], settings: SignatureConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair (lower, higher) that shares a shingle, with its exact Jaccard similarity; all others have 0."""
    shingles = [shingles_of(text, settings.shingle_words) for text in documents]
    sizes = np.array([len(found) for found in shingles])
    _, columns = np.unique(np.concatenate(shingles), return_inverse=True)
    table = csr_array((np.ones(len(columns), np.int32), columns, np.append(0, np.cumsum(sizes))))
    common = (table @ table.T).tocoo()
    upper = common.row < common.col
    low, high, num_common = common.row[upper], common.col[upper], common.data[upper]
    return low, high, num_common / (sizes[low] + sizes[high] - num_common)


def measure_recall(settings: DeduplicationConfig) -> dict[str, Any]:
    """Per band of exact similarity: pairs, the share that bands find, and what the S-curve promises for those very pairs; then what the pass dropped."""
    documents = plant(read_articles(Path(settings.texts)), settings.documents, seed=settings.seed)
    low, high, similarity = all_pairs(documents, settings.signature)
    minhashes = minhash_table([signature_of("", text, settings.signature).minhash for text in documents])
    near = settings.dedup.near
    keys = band_keys(minhashes, bands=near.bands, rows=near.rows)
    found = (keys[low] == keys[high]).any(axis=1)
    promised = expected_recall(similarity, bands=near.bands, rows=near.rows)
    estimated = (minhashes[low] == minhashes[high]).mean(axis=1)
    rows = []
    for begin, end in zip(EDGES, EDGES[1:]):
        inside = (similarity >= begin) & (similarity < end if end < 1 else similarity <= 1)
        if inside.any():
            rows.append(
                {
                    "from": begin, "to": end, "pairs": int(inside.sum()), "found": round(float(found[inside].mean()), 4),
                    "s_curve": round(float(promised[inside].mean()), 4), "estimate_error": round(float(np.abs(estimated - similarity)[inside].mean()), 4),
                }
            )  # fmt: skip
            log.info("J %.2f to %.2f: %6d pairs, found %.3f, S-curve %.3f", *(rows[-1][name] for name in ("from", "to", "pairs", "found", "s_curve")))
    true = similarity >= near.jaccard
    expected = merge_links(make_records(DROP, doc=high[true], kept=low[true]))
    with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
        write_documents(Path(folder), documents, settings.signature)
        only_near = DedupConfig(near=near, exact_url=False, exact_text=False, image_set=False, paragraphs=False, max_image_url_documents=0)
        report = find_duplicates(Path(folder), only_near)
        lists = pq.read_table(Path(folder) / OUTPUT / "lists" / "articles.parquet").to_pylist()
    dropped = {int(row["key"], 16): int(row["kept"], 16) for row in lists}
    right = sum(dropped.get(document) == kept for document, kept in expected.tolist())
    together = [dropped.get(ours, ours) == dropped.get(theirs, theirs) for ours, theirs in zip(low[true].tolist(), high[true].tolist(), strict=True)]
    log.info("pass: %d documents dropped, %d by brute force, %d the same with the same one kept", len(dropped), len(expected), right)
    return {
        "documents": len(documents), "pairs": len(documents) * (len(documents) - 1) // 2, "bands": rows,
        "candidate_precision": round(float((found & true).sum() / max(1, found.sum())), 4), "candidate_recall": round(float(found[true].mean()), 4),
        "pass": {
            "dropped": len(dropped), "brute_force": len(expected), "wrongly_dropped": len(set(dropped) - set(expected["doc"].tolist())),
            "missed": len(set(expected["doc"].tolist()) - set(dropped)), "same_kept": right, "pair_recall": round(float(np.mean(together)), 4),
            "reported": report["documents"]["dropped"].get(Reason.NEAR_DUPLICATE, 0), "candidate_pairs": report["near_duplicates"]["candidate_pairs"],
        },
    }  # fmt: skip


def write_documents(folder: Path, texts: Sequence[str], settings: SignatureConfig) -> None:
    """One split of these texts, document i under the key i."""
    rows = []
    for number, text in enumerate(texts):
        url = f"https://site-{number % 97}.example/{number}"
        signature = signature_of(url, text, settings)
        rows.append(
            {
                "key": f"{number:032x}", "file": "articles.warc.gz", "offset": number, "page_url": url, "domain": url.split("/")[2], "text": text,
                "image_urls": [f"{url}/{image}.jpg" for image in range(3)], "url_hash": signature.url_hash, "text_hash": signature.text_hash, "minhash": signature.minhash,
            }
        )  # fmt: skip
    _write_table(folder, "articles", pa.Table.from_pylist(rows, schema=_schema(settings)))


def _schema(settings: SignatureConfig) -> pa.Schema:
    strings = [(name, pa.string()) for name in ("key", "file", "page_url", "domain", "text")]
    return pa.schema([*strings, ("offset", pa.int64()), ("image_urls", pa.list_(pa.string())), *signature_fields(settings)])


def _write_table(folder: Path, name: str, table: pa.Table) -> None:
    (folder / EXTRACTED).mkdir(exist_ok=True)
    pq.write_table(table, folder / EXTRACTED / f"{name}.parquet", compression="zstd", row_group_size=8192)


def measure_speed(settings: DeduplicationConfig) -> dict[str, Any]:
    """By processor time of one core: signatures per second on the texts as they are, and documents per second of the whole pass on the planted corpus."""
    texts = read_articles(Path(settings.texts))
    seconds = []
    for _ in range(settings.rounds):
        begun = time.process_time()
        for text in texts:
            signature_of("https://www.example.org/some/page.html", text, settings.signature)
        seconds.append(time.process_time() - begun)
    documents = plant(texts, settings.documents, seed=settings.seed)
    passes = []
    for _ in range(settings.rounds):
        with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
            write_documents(Path(folder), documents, settings.signature)
            begun = time.process_time()
            find_duplicates(Path(folder), settings.dedup)
            passes.append(time.process_time() - begun)
    measured = {
        "words": round(sum(len(text.split()) for text in texts) / len(texts)), "signatures_per_second": round(len(texts) / min(seconds)),
        "documents_per_second": round(len(documents) / min(passes)), "documents_per_second_median": round(len(documents) / median(passes)),
    }  # fmt: skip
    log.info("%(signatures_per_second)d signatures/s, %(documents_per_second)d documents/s in the pass (%(words)d words each)", measured)
    return measured


def measure_scale(settings: DeduplicationConfig) -> dict[str, Any]:
    """Per size: the pass on synthetic documents, in a process of its own; and the last merge of forests at ten million links."""
    sizes = []
    for num_documents in settings.scale_documents:
        with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
            for number, start in enumerate(range(0, num_documents, SPLIT_DOCUMENTS)):
                write_synthetic(Path(folder), number, start, min(start + SPLIT_DOCUMENTS, num_documents), settings)
            sizes.append(_alone(run_pass, folder, to_dict(settings.dedup)) | {"documents": num_documents})
        measured = sizes[-1]
        log.info("%d documents: %.0f s of processor, peak %.0f MiB, work %.0f B a document", num_documents, measured["cpu_seconds"],
                 measured["peak_mib"], measured["work_bytes_per_document"])  # fmt: skip
    return {"passes": sizes, "merge": _alone(run_merge, settings.merged_documents)}


def _alone(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def write_synthetic(folder: Path, number: int, start: int, end: int, settings: DeduplicationConfig) -> None:
    """A split of documents whose words are all their own, but for copies: those differ from the document before in the last word and in some MinHash values."""
    rng = np.random.default_rng([settings.seed, number])
    count = end - start
    documents = np.arange(start, end)
    is_copy = rng.random(count) < SCALE_COPIES
    is_copy[0] = False
    values = rng.integers(0, 2**32, (count, settings.signature.num_hashes), dtype=np.uint32)
    bases = np.maximum.accumulate(np.where(is_copy, 0, np.arange(count)))
    values = np.where((rng.random(values.shape) < SCALE_SIMILARITY) & is_copy[:, None], values[bases], values)
    template = " ".join(f"#{token}" for token in range(SCALE_TOKENS - 15)) + "\n\n" + " ".join(f"#{token}" for token in range(SCALE_TOKENS - 15, SCALE_TOKENS))
    texts = [f"{template.replace('#', format(start + base, 'x'))} {document}" for base, document in zip(bases.tolist(), documents.tolist(), strict=True)]
    urls = [f"https://s{document % 997}.example/page/{document}" for document in documents.tolist()]
    width = 4 * settings.signature.num_hashes
    columns = {
        "key": [f"{document:032x}" for document in documents.tolist()], "file": [f"{number:06d}.warc.gz"] * count, "offset": documents - start, "page_url": urls,
        "domain": [url.split("/")[2] for url in urls], "text": texts, "image_urls": [[f"{url}/{image}.jpg" for image in range(3)] for url in urls],
        "url_hash": _fixed(rng.bytes(16 * count), 16),
        "text_hash": _fixed(rng.bytes(16 * count), 16), "minhash": _fixed(values.astype("<u4").tobytes(), width),
    }  # fmt: skip
    _write_table(folder, f"{number:06d}", pa.table(columns, schema=_schema(settings.signature)))


def _fixed(data: bytes, width: int) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(data) // width, [None, pa.py_buffer(data)])


def run_pass(folder: str, dedup: dict[str, Any]) -> dict[str, Any]:
    """The pass under a clock: processor seconds in all and by task, peak memory (MiB, with what imports take), bytes of the work folder at its largest."""
    seconds: dict[str, float] = defaultdict(float)
    peaks: dict[str, float] = {}
    largest = 0
    base = _peak_mib()

    def timed(task: Task, shared: Any, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        nonlocal largest
        name = (task.func if isinstance(task, partial) else task).__name__.strip("_")
        begun = time.process_time()
        for item in in_process(task, shared, indices):
            seconds[name] += time.process_time() - begun
            yield item
            begun = time.process_time()
        peaks[name] = _peak_mib()
        largest = max(largest, sum(path.stat().st_size for path in (Path(folder) / OUTPUT).rglob("*") if path.is_file()))

    begun = time.process_time(), time.perf_counter()
    report = find_duplicates(Path(folder), from_dict(DedupConfig, dedup, origin="benchmark"), runner=timed)
    cpu, wall = time.process_time() - begun[0], time.perf_counter() - begun[1]
    num = report["documents"]["in"]
    extracted = sum(path.stat().st_size for path in (Path(folder) / EXTRACTED).iterdir())
    shutil.rmtree(Path(folder) / OUTPUT)
    return {
        "cpu_seconds": round(cpu, 1), "wall_seconds": round(wall, 1), "documents_per_cpu_second": round(num / cpu), "peak_mib": round(_peak_mib()),
        "imports_mib": round(base), "work_bytes_per_document": round(largest / num), "extracted_bytes_per_document": round(extracted / num),
        "seconds_by_task": {name: round(value, 2) for name, value in seconds.items()}, "peak_mib_after_task": {name: round(value) for name, value in peaks.items()},
        "dropped": report["documents"]["dropped"], "candidate_pairs": report["near_duplicates"]["candidate_pairs"],
    }  # fmt: skip


def run_merge(num_documents: int) -> dict[str, Any]:
    """The last merge of forests as it is at its worst: every document but a tenth is linked to another one."""
    rng = np.random.default_rng(0)
    documents = np.arange(num_documents // 10, num_documents)
    links = make_records(DROP, doc=documents, kept=(documents * rng.random(len(documents))).astype(np.int64))
    base, begun = _peak_mib(), time.process_time()
    forest = merge_links(links)
    return {
        "documents": num_documents, "links": len(links), "forest": len(forest), "cpu_seconds": round(time.process_time() - begun, 1),
        "links_mib": round(links.nbytes / 2**20), "peak_mib": round(_peak_mib()), "before_mib": round(base),
    }  # fmt: skip


def _peak_mib() -> float:
    """Largest resident memory of this process so far. getrusage would give a child at least what its parent had before it was started."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


if __name__ == "__main__":
    run_command(DeduplicationConfig, main, description=__doc__.splitlines()[0])
