"""Entry point: what a training and a build would take on a machine (memory, time, money, storage), before they are started.

    lcl plan --preset lcl_vit_b32_mmc4 --machine.accelerator h100 --machine.gpus 64 --machine.price-per-hour 2.5
    lcl plan --preset small --machine.accelerator cpu --machine.gpus 2 --shards demo/shards --measure training      (the plan against short real runs)
"""

from lcl.core.config import run_command
from lcl.planning.plan_config import PRESETS, PlanConfig


def main(settings: PlanConfig) -> None:
    from lcl.planning.run_plan import lines_of, run_plan

    print("\n".join(lines_of(run_plan(settings))))


if __name__ == "__main__":
    run_command(PlanConfig, main, presets=PRESETS, description=__doc__.splitlines()[0])
