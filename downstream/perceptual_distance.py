"""LPIPS (Zhang et al., CVPR 2018, arXiv:1801.03924), by torchmetrics, where PyTorch's cache has the backbone's weights; nothing is downloaded."""

import numpy as np
import torch
from jaxtyping import UInt8

from downstream.backbones import Backbone, weights_file
from downstream.photographs import to_tensor

Pixels = UInt8[np.ndarray, "height width 3"]


class LPIPS:
    def __init__(self, backbone: Backbone) -> None:
        """Raises ValueError where the weights are not."""
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        weights_file(backbone, wanted_by=f"--lpips {backbone}")
        self._metric = LearnedPerceptualImagePatchSimilarity(net_type=backbone, normalize=True).eval()

    @torch.no_grad()
    def __call__(self, clean: Pixels, restored: Pixels) -> float:
        """Of the two pictures alone: 0 for equal ones, lower is better."""
        found = self._metric(to_tensor(restored)[None], to_tensor(clean)[None])
        self._metric.reset()
        return float(found)
