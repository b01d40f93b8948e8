"""A process of tests/test_zero.py: a few optimiser steps of a toy model under each of several engines, one after another.

    python -m tests.rank_zero CASES.json OUTPUT     (under the environment of a launcher of two ranks)

CASES: name -> fields of EngineConfig. For each, rank 0 writes the whole weights to OUTPUT/NAME.safetensors, with the norms of gradients
and what was said of a gradient that was not finite.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lcl.distributed import process_group
from lcl.engine import EngineConfig, deepspeed_settings, full_weights, start_engine, update
from lcl.losses import text_nll_sum
from lcl.objectives import LossConfig
from lcl.rows import Batch, Row
from lcl.train_step import accumulate_gradients
from tests.made_rows import make_batch, make_model, make_row

# step -> rank -> micro-batch -> documents of its one row; rank 1 has no image in the second and the last step
STEPS = [
    [[["ti"], ["titi"]], [["it"], ["tti"]]],
    [[["tit"], ["ii"]], [["ttt"], ["tttt"]]],
    [[["tt"], ["ti"]], [["titit"], ["t"]]],
    [[["iti"], ["ti"]], [["tttttt"], ["tt"]]],
]
CLIP_NORM = 0.5


def rows_of(step: int, rank: int) -> list[Row]:
    """The rows of a rank in one step; each is a micro-batch."""
    return [make_row(documents, seed=100 * step + 10 * rank + micro) for micro, documents in enumerate(STEPS[step][rank])]


def make_optimizer(model: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW with decay on matrices. Its epsilon is large: where a gradient is zero by theory, AdamW would blow up what rounding leaves."""
    groups = [
        {"params": [value for value in model.parameters() if value.ndim >= 2], "weight_decay": 0.5},
        {"params": [value for value in model.parameters() if value.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=3e-3, eps=1e-4)


def refused_update(engine: Any, batches: Sequence[Batch], *, poisoned: bool) -> str:
    """What `update` says when the gradient of a poisoned rank is not finite; weights must stay."""
    before = full_weights(engine)
    for number, batch in enumerate(batches):
        factor = float("nan") if poisoned and number == len(batches) - 1 else 1.0
        engine.backward(engine(batch).nll_sum * factor, scale_wrt_gas=False)
        if number < len(batches) - 1:
            engine.step()
    try:
        update(engine)
    except ValueError as error:
        after = full_weights(engine)
        assert all(torch.equal(before[name], after[name]) for name in before)
        return str(error)
    return "updated"


def check_same_as_model(engine: Any, weights: dict[str, torch.Tensor]) -> None:
    """The whole weights of rank 0, rounded to the model's precision, are the model's."""
    from deepspeed.runtime.zero import GatheredParameters

    for name, parameter in engine.module.named_parameters():
        with GatheredParameters([parameter]):
            assert name not in weights or torch.equal(parameter, weights[name].to(parameter.dtype)), name


def main() -> None:
    cases, output = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    text_nll_sum.__kwdefaults__["chunk"] = 4  # ranks have different numbers of targets, and must gather the head equally often
    with process_group(threads=1) as ranks:
        for name, case in cases.items():
            model = make_model()
            settings = deepspeed_settings(EngineConfig(**case), micro_rows=1, accumulation=len(STEPS[0][0]), clip_norm=CLIP_NORM)
            engine = start_engine(model, make_optimizer(model), settings)
            norms = []
            for step in range(len(STEPS)):
                batches = [make_batch([row]) for row in rows_of(step, ranks.rank)]
                accumulate_gradients(engine, batches, LossConfig(), world_size=ranks.world_size)
                norms.append(update(engine))
            weights = full_weights(engine)
            assert bool(weights) == (ranks.rank == 0)
            check_same_as_model(engine, weights)
            said = refused_update(engine, [make_batch([row]) for row in rows_of(0, ranks.rank)], poisoned=ranks.rank == 1)
            if ranks.rank == 0:
                save_file(weights, output / f"{name}.safetensors", metadata={"norms": json.dumps(norms), "said": said})
            engine.destroy()


if __name__ == "__main__":
    main()
