"""The global pass: extracted documents of all splits in, lists of what to leave out behind it.

    extracted/*.parquet, and before them known/*.parquet: documents of sets that are extended, which always stay and get no list
      --> records (per group of documents; the only pass over all of them)
      --> contaminated                                        documents that share words with evaluation texts
      --> same URL --> same text                              per partition of hashes
      --> same band --> candidate pairs --> shingles --> exact Jaccard --> forests --> one forest
      --> frequent images --> same set of the other images
      --> repeated paragraphs of a domain
      --> dedup/lists/NAME.parquet, dedup/frequent_*.parquet, dedup/report.json (last)

Each stage sees the documents that the stages before it left. So the document that a list names as kept was kept by that stage; a later stage may
have dropped it for another, which its own row names.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lcl.core.config import to_dict, versions
from lcl.core.files import open_aside, read_json, sha256_of, write_json
from pipeline.dedup.candidates import find_candidates
from pipeline.dedup.contamination import evaluation_ngrams
from pipeline.dedup.corpus import Corpus, inspect, order_splits
from pipeline.dedup.equal import drop_equal_documents, drop_equal_paragraphs, make_image_sets
from pipeline.dedup.frequency import FREQUENT, drop_frequent_images, spell_frequent_values
from pipeline.dedup.lists import LISTS, REASONS, write_lists
from pipeline.dedup.records import EVALUATION, image_kinds, make_group_records
from pipeline.dedup.settings import DedupConfig
from pipeline.dedup.steps import Runner, Work, in_process, run_step
from pipeline.dedup.survivors import ALL, drop_documents
from pipeline.dedup.verify import merge_forests, store_shingles, verify_group

EXTRACTED, OUTPUT, WORK, REPORT, PLAN = "extracted", "dedup", "work", "report.json", "plan.json"
SCHEMA = "lcl-dedup/1"
SPLITS_PER_TASK = 256  # that one task inspects


def find_duplicates(folder: Path, settings: DedupConfig, *, known: Path | None = None, runner: Runner = in_process) -> dict[str, Any]:
    """Writes `folder`/dedup for the splits in `folder`/extracted, and returns its report. The same call continues an interrupted pass.

    `known` is a folder of documents that are there already, in the form of extracted ones: what is like one of them is dropped.
    The bytes of dedup/ follow from the documents and the settings; the runner, its workers, and sizes of groups and partitions do not change them.
    Raises ValueError if a split or an evaluation text cannot be read, if more MinHash values are asked for than the splits have, or if dedup/ is of
    other splits or settings.
    """
    inspected = _inspect_splits((folder / EXTRACTED).resolve(), known, runner)
    corpus = order_splits(inspected, group_documents=settings.group_documents)
    _check_bands(corpus, settings)
    identity = _identity(inspected, settings)
    output = (folder / OUTPUT).resolve()
    if (output / REPORT).exists():
        _check_identity(read_json(output / REPORT)["identity"], identity, output)
    else:
        work = Work(corpus=corpus, settings=settings, folder=output / WORK)
        _begin(work, identity)
        write_json(output / REPORT, {"schema": SCHEMA, "identity": identity, **_run(work, runner)})
    shutil.rmtree(output / WORK, ignore_errors=True)
    return read_json(output / REPORT)


def _inspect_splits(folder: Path, known: Path | None, runner: Runner) -> list[dict[str, Any]]:
    splits = [(path, False) for path in sorted(folder.glob("*.parquet"))]
    if not splits:
        raise ValueError(f"{folder} holds no extracted split (NAME.parquet); extract some first")
    splits += [(path, True) for path in sorted(known.resolve().glob("*.parquet"))] if known else []
    chunks = tuple(splits[start : start + SPLITS_PER_TASK] for start in range(0, len(splits), SPLITS_PER_TASK))
    found = dict(runner(_inspect_chunk, chunks, range(len(chunks))))
    return [split for index in sorted(found) for split in found[index]]


def _inspect_chunk(chunks: tuple[Sequence[tuple[Path, bool]], ...], index: int) -> list[dict[str, Any]]:
    return [inspect(path, is_known=is_known) for path, is_known in chunks[index]]


def _check_bands(corpus: Corpus, settings: DedupConfig) -> None:
    needed, there = settings.near.bands * settings.near.rows, corpus.signature.num_hashes
    if settings.near.on and needed > there:
        raise ValueError(
            f"near.bands {settings.near.bands} x near.rows {settings.near.rows} takes {needed} MinHash values, the extracted documents have {there}: "
            "lower one of the two, or extract again with more (num_hashes)"
        )  # fmt: skip


def _identity(inspected: Sequence[dict[str, Any]], settings: DedupConfig) -> dict[str, Any]:
    """What decides the bytes of the result."""
    plain = to_dict(settings)
    for name in ("group_documents", "partition_documents"):
        plain.pop(name)
    texts = plain["contamination"].pop("texts")
    for path in texts:
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file of evaluation texts (contamination.texts)")
    known = {"known": {split["path"].stem: split["fingerprint"] for split in inspected if split["is_known"]}}
    return {
        "splits": {split["path"].stem: split["fingerprint"] for split in inspected if not split["is_known"]},
        **(known if known["known"] else {}),
        "settings": plain,
        "evaluation_texts": sorted(sha256_of(Path(path)) for path in texts),
        "versions": {"pyarrow": versions(["pyarrow"])["pyarrow"]},
    }


def _check_identity(there: dict[str, Any], ours: dict[str, Any], output: Path) -> None:
    changed = [key.replace("_", " ") for key in ours if there.get(key) != ours[key]]
    if changed:
        raise ValueError(f"{output} is a deduplication with other {' and '.join(changed)}; remove the folder to make it again")


def _begin(work: Work, identity: dict[str, Any]) -> None:
    """Makes the folders, or checks that those of an interrupted pass belong to this one."""
    sizes = {"group_documents": work.settings.group_documents, "partition_documents": work.settings.partition_documents}
    plan = work.folder / PLAN
    if plan.exists():
        _check_identity(read_json(plan), {**identity, **sizes}, work.folder)
    else:
        shutil.rmtree(work.folder, ignore_errors=True)
        for folder in (work.folder, work.folder.parent / LISTS):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(plan, {**identity, **sizes})


def _run(work: Work, runner: Runner) -> dict[str, Any]:
    settings, num_groups, num_partitions = work.settings, work.corpus.num_groups, work.num_partitions
    evaluation = run_step(in_process, work, "read_evaluation_texts", _read_evaluation_texts, 1)
    run_step(runner, work, "make_group_records", make_group_records, num_groups)
    alive = drop_documents(runner, work, "contaminated", before=ALL, drops=work.by_group("drop_contaminated"))
    for kind, is_on in (("url", settings.exact_url), ("text", settings.exact_text)):
        if is_on:
            run_step(runner, work, f"drop_equal_{kind}", partial(drop_equal_documents, kind=kind, alive=alive), num_partitions)
            alive = drop_documents(runner, work, kind, before=alive, drops=work.by_partition(f"drop_{kind}"))
    near: dict[str, int] = {}
    if settings.near.on:
        found = run_step(runner, work, "find_candidates", partial(find_candidates, alive=alive), num_partitions)
        found += run_step(runner, work, "store_shingles", store_shingles, num_groups)
        found += run_step(runner, work, "verify_group", verify_group, num_groups)
        merge_forests(runner, work)
        alive = drop_documents(runner, work, "near", before=alive, drops=[work.path("drop_near", 0)])
        near = {name: found[name] for name in ("candidates", "candidate_pairs", "large_buckets")}
    images: dict[str, dict[str, int]] = {}
    for kind in image_kinds(work):
        limit = settings.max_image_url_documents if kind == "image_url" else settings.max_image_hash_documents
        if limit:
            task = partial(drop_frequent_images, kind=kind, alive=alive, limit=limit)
            counts = run_step(runner, work, f"drop_frequent_{kind}", task, num_partitions)
            run_step(runner, work, f"spell_frequent_{kind}", partial(spell_frequent_values, kind=kind), num_groups)
            images[kind] = {name: counts[name] for name in ("in", "dropped", "values")}
    if settings.image_set:
        make = partial(make_image_sets, alive=alive, frequent=bool(settings.max_image_url_documents))
        run_step(runner, work, "make_image_sets", make, num_groups)
        run_step(runner, work, "drop_equal_image_set", partial(drop_equal_documents, kind="image_set", alive=alive), num_partitions)
        alive = drop_documents(runner, work, "image_set", before=alive, drops=work.by_partition("drop_image_set"))
    paragraphs: Counter[str] = Counter()
    if settings.paragraphs:
        paragraphs = run_step(runner, work, "drop_equal_paragraphs", partial(drop_equal_paragraphs, alive=alive), num_partitions)
    documents = run_step(runner, work, "write_lists", write_lists, num_groups)
    for kind in images:
        _join_frequent(work, kind)
    dropped = {reason: documents[reason] for reason in REASONS.values() if documents[reason]}
    assert documents["in"] == work.corpus.num_documents - work.corpus.num_known == documents["out"] + sum(dropped.values())
    return {
        "documents": {"in": documents["in"], "out": documents["out"], "dropped": dropped},
        "near_duplicates": near,
        "paragraphs": {name: paragraphs[name] for name in ("in", "dropped")},
        "images": images,
        "evaluation_texts": {name: evaluation[name] for name in ("ngrams", "too_short")},
    }


def _read_evaluation_texts(work: Work, _: int) -> dict[str, int]:
    settings = work.settings.contamination
    ngrams, num_short = evaluation_ngrams([Path(path) for path in settings.texts], settings.ngram_words)
    with open_aside(work.folder / EVALUATION) as file:
        file.write(ngrams.tobytes())
    return {"ngrams": len(ngrams), "too_short": num_short}


def _join_frequent(work: Work, kind: str) -> None:
    """One file of all values that are too frequent, in the order of their first occurrence."""
    tables = [pq.read_table(path, schema=FREQUENT) for path in work.by_group(f"frequent_{kind}")]
    with open_aside(work.folder.parent / f"frequent_{kind}.parquet") as file:
        pq.write_table(pa.concat_tables(tables).combine_chunks(), file, compression="zstd")
