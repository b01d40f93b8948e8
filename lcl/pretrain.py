"""Entry point: pretrains a vision encoder on shards with Latent Compression Learning.

    deepspeed --num_gpus 8 lcl/pretrain.py --preset lcl_vit_b32_mmc4 --data.shards /data/shards --output /runs/b32
    python lcl/pretrain.py --preset small --data.shards demo/shards --output demo/run       (one process)
"""

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from lcl.train_config import PRESETS, TrainConfig


def main(config: TrainConfig) -> None:
    from lcl.distributed import process_group
    from lcl.trainer import train

    with process_group(threads=config.threads, timeout_seconds=config.collective_seconds) as ranks:
        set_up_logging(rank=ranks.rank)
        train(config, ranks)


def describe(config: TrainConfig) -> str:
    from lcl import estimate  # here, like the others: `--help` need not wait for it

    return estimate.describe(config)


if __name__ == "__main__":
    run_command(TrainConfig, main, presets=PRESETS, description=__doc__.splitlines()[0], describe=describe)
