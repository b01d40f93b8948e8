"""A process of tests/test_run_mirror.py: runs that lose what they have on their machine, and what they say.

    python -m tests.rank_mirror CONFIG.json ADDRESS REPORTS     (the config of a training run, under the environment of a launcher)

ADDRESS/run takes all, ADDRESS/refused no file of a checkpoint. Each rank writes what it saw to REPORTS/RANK.json. The run's folder is never used twice, for its lock ends with the process.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import fsspec
import torch.distributed as dist

from lcl.core.config import from_dict
from lcl.core.logs import set_up_logging
from lcl.distributed import from_rank_0, process_group
from lcl.run_folder import Input, claim_folder
from lcl.train_config import TrainConfig
from lcl.trainer import train


def main() -> None:
    given, address, reports = sys.argv[1:]
    plain = from_dict(TrainConfig, json.loads(Path(given).read_text()), origin="test")
    folder, mirrored = Path(given).parent, f"{address}/run"
    report: dict[str, object] = {}

    def run(name: str, *, mirror: str, copy_of: str = "", **changes: object) -> None:
        if copy_of and dist.get_rank() == 0:
            shutil.copytree(folder / copy_of, folder / name)
        dist.barrier()
        try:
            train(replace(plain, output=str(folder / name), mirror=mirror, **changes), ranks)
            report[name] = "done"
        except ValueError as error:
            report[name] = str(error)

    with process_group(threads=1) as ranks:
        set_up_logging(rank=ranks.rank)
        run("undisturbed", mirror=mirrored)
        if ranks.rank == 0:  # as if the machine had been lost before the last checkpoint was sent
            store, path = fsspec.core.url_to_fs(mirrored)
            report["there"] = sorted({name.removeprefix(path).split("/")[1] for name in store.find(path)})
            store.rm_file(f"{path}/step-000006/manifest.json")
        dist.barrier()
        run("resumed", mirror=mirrored)
        run("other", mirror=mirrored, seed=1)
        run("refused", mirror=f"{address}/refused")
        run("later", mirror=f"{address}/later", copy_of="refused")
        run("begun elsewhere", mirror=mirrored, copy_of="refused")
        run("nowhere", mirror="s3://no-such-bucket/run")
        run("none", mirror=str(folder))
        inputs = {"shards": Input(f"seen by {ranks.rank}", "the shards in x")}
        try:
            claim_folder(folder / "unequal", plain, inputs=inputs, free=(), rank=ranks.rank)
        except ValueError as error:
            report["unequal"] = str(error)
        report["of rank 0"] = from_rank_0(ranks.rank)
        (Path(reports) / f"{ranks.rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
