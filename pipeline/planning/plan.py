"""What a build would do, for `lcl build-shards --dry-run`: inputs, what is done already, workers, rules, room. Nothing is written.

    config --> inputs found, as the build finds them --> lines for people
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lcl.core.config import to_dict
from lcl.core.files import read_json
from pipeline.build_config import FREE_FIELDS, PRESETS, BuildConfig, rules_hash
from pipeline.run_splits import prepare_output
from pipeline.sources.kinds import detect_source
from pipeline.sources.parquet_rows import NotASource
from pipeline.splits import split_name
from pipeline.storage import Input, InputUnreadable

NAMES = 5          # of inputs that are shown
MAX_OPENED = 1000  # local inputs that are asked for their kind


def describe(config: BuildConfig) -> str:
    """The plan in a few lines. Raises ValueError for inputs and folders that the build would refuse."""
    inputs, known, output = prepare_output(config)
    return "\n".join([*_describe_inputs(inputs, config), *_describe_done(inputs, output), *_describe_rules(config), *_describe_room(config, output)])


def _describe_inputs(inputs: Sequence[Input], config: BuildConfig) -> Iterator[str]:
    local = [source for source in inputs if source.is_local]
    sizes = f"{plain_bytes(sum(os.path.getsize(source.location) for source in local))} in local files" if local else ""
    remote = f"{len(inputs) - len(local)} elsewhere, whose sizes are not asked for" if len(local) < len(inputs) else ""
    yield f"inputs: {len(inputs)}, {', '.join(filter(None, (sizes, remote)))}"
    kinds = Counter(_kind(source, config) for source in local[:MAX_OPENED])
    if kinds:
        of = f" (of the first {MAX_OPENED} local ones)" if len(local) > MAX_OPENED else ""
        yield f"  kinds{of}: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}"
    yield from (f"  {source}" for source in inputs[:NAMES])
    if len(inputs) > NAMES:
        yield f"  ... and {len(inputs) - NAMES} more"


def _kind(source: Input, config: BuildConfig) -> str:
    try:
        return detect_source(source) if config.source.kind == "auto" else config.source.kind
    except NotASource:
        return "of no known kind (will fail)"
    except InputUnreadable:
        return "unreadable (will fail)"


def _describe_done(inputs: Sequence[Input], output: Path) -> Iterator[str]:
    names = {split_name(source) for source in inputs}
    done = {
        "extract": len(names & {path.stem for path in output.glob("work/extracted/*.json")}),
        "assemble": len(names & {path.stem for path in output.glob("splits/*.json")}),
    }  # fmt: skip
    yield f"output: {output}" + ("" if any(done.values()) else " (nothing there yet)")
    for phase, count in done.items():
        yield f"  {phase}: {count} of {len(names)} inputs done, {len(names) - count} left"
    for phase, record in (("index", "index/files.json"), ("duplicates", "dedup/report.json")):
        yield f"  {phase}: {'done, if no input is added' if (output / 'work' / record).exists() else 'to do'}"


def _describe_rules(config: BuildConfig) -> Iterator[str]:
    ours = _flat(to_dict(config))
    others = {name: _flat(to_dict(replace(preset, crawl=config.crawl, output=config.output))) for name, preset in PRESETS.items()}
    changed = {name: [key for key in ours if ours[key] != other.get(key) and key.partition(".")[0] not in FREE_FIELDS] for name, other in others.items()}
    nearest = min(changed, key=lambda name: len(changed[name]))
    where = f"a Ray at {os.environ['RAY_ADDRESS']}" if "RAY_ADDRESS" in os.environ else f"the {os.cpu_count()} cores of this machine, by a Ray of its own"
    yield f"workers: {where if config.executor == 'ray' else '1, this process'}"
    yield f"rules: as preset {nearest}" + (", but" if changed[nearest] else "")
    yield from (f"  --{key.replace('_', '-')} {_plain(ours[key])} (preset: {_plain(others[nearest].get(key))})" for key in changed[nearest])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _describe_room(config: BuildConfig, output: Path) -> Iterator[str]:
    there = next(folder for folder in (output.resolve(), *output.resolve().parents) if folder.is_dir())
    yield f"room: {plain_bytes(shutil.disk_usage(there).free)} free on the disk of the output"
    pilot = pilot_record(output)
    if not pilot.exists():
        yield "  needed: not known; `lcl pilot` with the same options predicts it from a sample"
        return
    record = read_json(pilot)
    is_same = record["rules"] == rules_hash(replace(config, sample=1.0))
    needed = record["predictions"]["storage_bytes.in_all"]
    yield f"  needed: {plain_bytes(needed['value'])} (95 %: {plain_bytes(needed['low'])} to {plain_bytes(needed['high'])}), says {pilot}" + ("" if is_same else ", of other rules")


def pilot_record(output: Path) -> Path:
    """Where `lcl pilot` writes what it predicts of a build in this folder."""
    return output.with_name(f"{output.name}.pilot.json")


def plain_bytes(amount: float) -> str:
    """Bytes with a decimal prefix."""
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if amount >= 10**power:
            return f"{amount / 10**power:.3g} {unit}"
    return f"{amount:.0f} bytes"
