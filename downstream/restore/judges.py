"""Judges of restored pictures beside pixels: what networks make of them that had no part in the training.

    feature distance   1 - cos of an encoder's tokens of both pictures, the mean over tokens and layers (downstream/sight.py), of whole pictures
    Frechet distance   |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of mean and covariance of pooled features of squares, all pictures together (Heusel et al. 2017, the "FID" of
                       an encoder that the user has); left out where there are fewer squares than TIMES_WIDTH times the features' width, for it grows as they get fewer
"""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8

from downstream.photographs import to_tensor
from downstream.restore.token_statistics import squares
from downstream.sight import Sight, SightConfig
from lcl.features import Encoder

Pixels = UInt8[np.ndarray, "height width 3"]
TIMES_WIDTH = 2
MOST_SQUARES = 64  # of a picture


class FeatureJudge:
    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self._sight = encoder, Sight(encoder, SightConfig())

    @torch.no_grad()
    def distance(self, clean: Pixels, restored: Pixels) -> float:
        return float(self._sight.distance(self._sight.tokens(to_tensor(clean)[None]), to_tensor(restored)[None]))

    @torch.no_grad()
    def pooled(self, pixels: Pixels) -> Float[np.ndarray, "squares features"]:
        """Of squares as wide as the encoder was trained on, at full size."""
        found = squares(to_tensor(pixels)[None], side_px=self.encoder.image_px, most=MOST_SQUARES)
        return self.encoder(rearrange(found, "1 squares colours rows columns -> squares colours rows columns")).pooled.double().numpy()


def frechet_distance(some: Sequence[Float[np.ndarray, "_ features"]], others: Sequence[Float[np.ndarray, "_ features"]]) -> float | None:
    """Between all features of the one pictures and of the others; None of too few."""
    x, y = np.concatenate(some), np.concatenate(others)
    if min(len(x), len(y)) < TIMES_WIDTH * x.shape[1]:
        return None
    c, c_hat = (np.cov(one, rowvar=False).reshape(x.shape[1], x.shape[1]) for one in (x, y))
    values, vectors = np.linalg.eigh(c)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    product = np.linalg.eigvalsh(root @ c_hat @ root)  # as many eigenvalues as C C', but of a symmetric matrix
    return float(np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2) + np.trace(c) + np.trace(c_hat) - 2 * np.sqrt(np.clip(product, 0, None)).sum())
