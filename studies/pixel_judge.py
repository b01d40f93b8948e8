"""A small convolutional classifier trained from pixels: it judges decoded pictures, and knows neither an encoder nor a codec."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from lcl.core.files import open_aside
from lcl.core.logs import progress_bar

log = logging.getLogger(__name__)

Pictures = UInt8[np.ndarray, "images height width 3"]

WIDTHS = (16, 32, 64, 128)
BATCH = 32
PEAK_RATE, WEIGHT_DECAY = 4e-3, 0.05
LEAST_SHARE = 0.6  # of the side that a training crop has


class Judge(nn.Module):
    """Four strided 5x5 and 3x3 convolutions with batch normalisation, the mean over places, a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        sides = (3, *WIDTHS)
        kernels = (5, 3, 3, 3)
        layers = ([nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()] for before, after, kernel in zip(sides, WIDTHS, kernels, strict=False))
        self.body = nn.Sequential(*(layer for part in layers for layer in part))
        self.head = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, x: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images classes"]:
        return self.head(self.body(x - 0.5).mean(dim=(2, 3)))


def train_judge(pictures: Pictures, labels: Int[np.ndarray, " images"], *, num_classes: int, epochs: int, seed: int) -> Judge:
    """AdamW on cross-entropy with one cycle of the learning rate; pictures are flipped and cropped. Nothing is chosen on other pictures."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    judge = Judge(num_classes)
    steps = epochs * -(-len(pictures) // BATCH)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    with progress_bar(f"judge {seed}", total=steps) as bar:
        for _ in range(epochs):
            for chosen in np.split(order := rng.permutation(len(pictures)), range(BATCH, len(order), BATCH)):
                x = cropped(_tensor(pictures[chosen]), rng)
                optimizer.zero_grad()
                functional.cross_entropy(judge(x), torch.from_numpy(labels[chosen])).backward()
                optimizer.step()
                schedule.step()
                bar.advance()
    return judge.eval()


def cropped(x: Float[Tensor, "images 3 height width"], rng: np.random.Generator) -> Float[Tensor, "images 3 height width"]:
    """Each picture mirrored half of the time; of all the same random box, at their own size again."""
    x = torch.where(torch.from_numpy(rng.random((len(x), 1, 1, 1)) < 0.5), x.flip(-1), x)
    height, width = (round(rng.uniform(LEAST_SHARE, 1) * side) for side in x.shape[-2:])
    top, left = int(rng.integers(x.shape[-2] - height + 1)), int(rng.integers(x.shape[-1] - width + 1))
    box = x[..., top : top + height, left : left + width]
    return functional.interpolate(box, size=x.shape[-2:], mode="bilinear", align_corners=False, antialias=True)


@torch.no_grad()
def log_probabilities(judges: Sequence[Judge], pictures: Pictures) -> Float[np.ndarray, "judges images classes"]:
    """ln p of each class by each judge."""
    parts = [_tensor(pictures[first : first + BATCH]) for first in range(0, len(pictures), BATCH)]
    return np.stack([torch.cat([judge(part).log_softmax(dim=1) for part in parts]).numpy() for judge in judges])


def save_judge(judge: Judge, path: Path) -> None:
    with open_aside(path) as file:
        file.write(save({name: value.contiguous() for name, value in judge.state_dict().items()}))


def load_judge(path: Path) -> Judge:
    state = load_file(path)
    judge = Judge(len(state["head.weight"]))
    judge.load_state_dict(state)
    return judge.eval()


def _tensor(pictures: Pictures) -> Float[Tensor, "images 3 height width"]:
    return rearrange(torch.from_numpy(np.ascontiguousarray(pictures)), "images height width channels -> images channels height width").float() / 255
