"""Entry point: every checksum, count and catalogue row of shards, and the accounts of their build; damage is named with its cure.

    python pipeline/tools/verify_shards.py --shards A B --decode
"""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.core.selection import is_selection
from lcl.core.shards import BUILD_RECORDS, find_shards
from pipeline.tools.check_shard import ShardCheck, check_accounts, check_shard
from pipeline.tools.parallel import run_tasks

CURE = (
    "To mend a shard: delete its sidecar and its split's record in splits/, and run the build again, which makes the same bytes; or copy the shard from elsewhere. "
    "Of a set that `lcl repack` or `lcl apply-scores` wrote, delete the sidecar and run that again."
)


@config
class VerifyConfig:
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of shards, or selections (then the shards that they name are checked)."""
    decode: bool = False
    """Decode every image, in place of reading its header only."""
    num_workers: Annotated[int, Field(ge=1)] = os.cpu_count() or 1
    """Processes that check side by side."""


def main(settings: VerifyConfig) -> None:
    set_up_logging()
    folders = [Path(folder) for folder in settings.shards]
    sidecars: list[Path] = []
    problems: dict[str, list[str]] = {}
    for folder in folders:
        if is_selection(folder):
            sidecars += [shard.path for shard in find_shards([folder])]
            continue
        found = [path for path in sorted(folder.glob("*.json")) if path.name not in BUILD_RECORDS] if folder.is_dir() else []
        if not found:
            find_shards([folder])  # says what is wrong with such a folder
        sidecars += found
    checks = [ShardCheck(path, settings.decode) for path in dict.fromkeys(sidecars)]
    documents = images = 0
    for findings in run_tasks(check_shard, checks, num_workers=settings.num_workers, title="shards"):
        documents, images = documents + findings.documents, images + findings.images
        if findings.problems:
            problems[str(findings.sidecar.with_suffix(""))] = list(findings.problems)
    damaged = sorted(problems)
    if not problems:  # accounts of damaged shards cannot agree
        for folder in folders:
            if not is_selection(folder) and (found := check_accounts(folder, find_shards([folder]))):
                problems[str(folder)] = found
    for name in sorted(problems):
        print(f"{name}:")
        for problem in problems[name]:
            print(f"  {problem}")
    if problems:
        what = f"{len(damaged)} of {len(checks)} shards are damaged: {', '.join(damaged)}" if damaged else f"the accounts of {', '.join(problems)} do not agree"
        raise ValueError(f"{what}. {CURE if damaged else 'Run the build again: it mends what is missing and writes the report anew.'}")
    print(f"sound: {len(checks)} shards with {documents} documents and {images} images{', each decoded' if settings.decode else ''}")


if __name__ == "__main__":
    run_command(VerifyConfig, main, description=__doc__.splitlines()[0])
