"""A process of tests/test_train_step.py: gradients and metrics of one global batch, however it is laid out over ranks and micro-batches.

    python -m tests.rank_gradients LAYOUTS.json OUTPUT     (under the environment of a launcher)

LAYOUTS: name -> for each rank its micro-batches, each a list of rows, each a list of documents spelled as in made_rows.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from lcl.distributed import process_group
from lcl.objectives import LossConfig
from lcl.train_step import accumulate_gradients
from tests.made_rows import make_batch, make_model, make_row


def main() -> None:
    import deepspeed

    layouts = json.loads(Path(sys.argv[1]).read_text())
    with process_group(threads=1) as ranks:
        for name, layout in layouts.items():
            mine = layout[ranks.rank]
            model = make_model()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            settings = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": len(mine), "zero_allow_untested_optimizer": True}
            engine = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]
            batches = [make_batch([make_row(row["documents"], seed=row["seed"]) for row in micro]) for micro in mine]
            metrics = accumulate_gradients(engine, batches, LossConfig(), world_size=ranks.world_size)
            if ranks.rank == 0:
                gradients = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
                save_file(gradients, f"{sys.argv[2]}/{name}.safetensors", metadata={"metrics": json.dumps(metrics)})


if __name__ == "__main__":
    main()
