"""A process of tests/test_trainer.py: several runs one after another in one process group.

    python -m tests.rank_train CONFIGS.json     (a list of configs of training runs, under the environment of a launcher)
"""

import json
import sys
from pathlib import Path

from lcl.core.config import from_dict
from lcl.core.logs import set_up_logging
from lcl.distributed import process_group
from lcl.train_config import TrainConfig
from lcl.trainer import train


def main() -> None:
    with process_group(threads=1) as ranks:
        set_up_logging(rank=ranks.rank)
        for values in json.loads(Path(sys.argv[1]).read_text()):
            try:
                train(from_dict(TrainConfig, values, origin="test"), ranks)
            except ValueError as error:
                print(f"{values['output']}: {error}", flush=True)


if __name__ == "__main__":
    main()
