"""A process of tests/test_contrastive.py: the contrastive gradients of one batch, however its images are laid out over ranks.

    python -m tests.rank_contrastive LAYOUTS.json OUTPUT     (under the environment of a launcher)

LAYOUTS: name -> {"counts": images of each rank, "dtype", "twins": whether any, "chunk_elements"}.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from lcl.contrastive import Contrastive, Twins, contrastive_gradients

WIDTH = 6


def gradients_of(layout: dict[str, Any], images: slice) -> Contrastive:
    """What a rank gets that holds `images` of the batch of the layout."""
    pooled, contexts, logit_scale, twins = make_batch(sum(layout["counts"]), dtype=getattr(torch, layout["dtype"]), seed=0)
    mine = Twins(twins.images[images], twins.contexts[images]) if layout["twins"] else None
    return contrastive_gradients(pooled[images], contexts[images], logit_scale, twins=mine, chunk_elements=layout["chunk_elements"])


def make_batch(num_images: int, *, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor, Tensor, Twins]:
    """Features whose pairs are alike but not the same, the log of the scale, and identities of any size of which some recur."""
    rng = torch.Generator().manual_seed(seed)
    pooled = torch.randn(num_images, WIDTH, generator=rng, dtype=torch.float64)
    contexts = pooled + torch.randn(num_images, WIDTH, generator=rng, dtype=torch.float64)
    kinds = torch.randint(-(2**63), 2**63 - 1, (max(1, 2 * num_images),), generator=rng)
    images, of_contexts = kinds[torch.randint(0, len(kinds), (2, num_images), generator=rng)]
    return pooled.to(dtype), (3 * contexts).to(dtype), torch.tensor(2.0, dtype=dtype), Twins(images, of_contexts)


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.set_num_threads(1)
    for name, layout in json.loads(Path(sys.argv[1]).read_text()).items():
        start = sum(layout["counts"][:rank])
        result = gradients_of(layout, slice(start, start + layout["counts"][rank]))
        save_file({key: torch.as_tensor(value).contiguous() for key, value in vars(result).items()}, f"{sys.argv[2]}/{name}.{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
