"""Entry point: what a training step of a density model takes with each schedule, beside the plain (linear) one, in pairs in one run.

    python benchmarks/density_step.py --preset small --output density_step.json

    rounds of (plain, other, plain, other, ...) steps of the same images --> seconds of processor time of each, median of the ratios within a round
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import numpy as np
import torch
from plain_step import seconds_of, the_device
from pydantic import Field

from downstream.density.contexts import TokenContext
from downstream.density.model import DensityConfig, DensityModel
from downstream.density.objective import DensityObjective, ObjectiveConfig
from downstream.density.train_config import PRESETS
from downstream.sight import Sight
from lcl.core.config import config, run_command
from lcl.core.logs import progress_bar, set_up_logging
from lcl.features import load_encoder
from lcl.measured import write_result

log = logging.getLogger(__name__)

PLAIN = "linear"
WARM_UP_STEPS = 2


@config
class StepConfig:
    output: str
    """JSON file for the numbers."""
    preset: Literal["digits", "small", "toy", "mulan"] = "small"
    encoder: str = ""
    """An encoder (run, checkpoint or export), to measure a context of its tokens too."""
    rounds: Annotated[int, Field(ge=1)] = 15
    """In each of them every schedule makes a step."""
    batch: Annotated[int, Field(ge=0)] = 0
    """Images of a step; 0: the preset's."""


def main(settings: StepConfig) -> None:
    set_up_logging()
    device, preset = the_device(), PRESETS[settings.preset]
    sight = Sight(load_encoder(settings.encoder).to(device), preset.model.context.sight) if settings.encoder else None
    u = torch.from_numpy(np.random.default_rng(0).integers(0, preset.model.levels, (settings.batch or preset.fit.micro_items, preset.model.channels, preset.model.size_px, preset.model.size_px))).to(device)
    kinds = kinds_of(preset.model, with_tokens=sight is not None)
    steps = {name: step_of(model, sight, u, device) for name, model in kinds.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    with progress_bar("rounds", total=settings.rounds) as bar:
        for step in steps.values():
            for _ in range(WARM_UP_STEPS):
                step()
        for number in range(settings.rounds):
            names = list(steps) if number % 2 else list(steps)[::-1]  # what goes first is not always the same
            for name in names:
                seconds[name].append(seconds_of(steps[name], device))
            bar.advance()
    found = {name: {"seconds": median(each), "over_plain": median(np.divide(each, seconds[PLAIN]).tolist())} for name, each in seconds.items()}
    for name, one in found.items():
        log.info("%s: %.4f s a step, %+.1f %% of plain", name, one["seconds"], 100 * (one["over_plain"] - 1))
    write_result(Path(settings.output), settings, {"images": len(u), "schedules": found, "rounds": seconds})


def kinds_of(base: DensityConfig, *, with_tokens: bool) -> dict[str, DensityConfig]:
    """The preset's model with each schedule, and the polynomial one with each context."""
    context = replace(base.context, kind="none")
    size = {} if base.context.kind != "none" else {"size": 4, "chosen": 1}
    found = {kind: replace(base, noise=replace(base.noise, kind=kind), context=context) for kind in (PLAIN, "scalar", "polynomial", "monotone")}
    learned = replace(base, noise=replace(base.noise, kind="polynomial"))
    for kind in ("convolutional", "tokens")[: 1 + with_tokens]:
        found[f"polynomial, context {kind}"] = replace(learned, context=replace(base.context, kind=kind, **size))
    return found


def step_of(settings: DensityConfig, sight: Sight | None, u: torch.Tensor, device: torch.device) -> Callable[[], None]:
    """One update by AdamW whose learning rate is 0: every step costs the same."""
    torch.manual_seed(0)
    model = DensityModel(settings, num_features=0 if sight is None else sight.num_features)
    if isinstance(model.context_logits, TokenContext):
        model.context_logits.sight = sight
    objective = DensityObjective(model, ObjectiveConfig()).to(device)
    optimizer, generator = torch.optim.AdamW(objective.parameters(), lr=0.0), torch.Generator().manual_seed(0)

    def step() -> None:
        objective(u, generator).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    run_command(StepConfig, main, description=__doc__.splitlines()[0])
