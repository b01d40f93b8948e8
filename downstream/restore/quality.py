"""How near a restored picture is to the clean one, of the 8-bit pixels that a viewer gets, with an explicit border left out.

PSNR and SSIM (Wang et al. 2004, Gaussian windows of deviation 1.5) in RGB and in Y; GMSD (Xue et al. 2014, arXiv:1308.3052), which follows edges: lower is better;
HaarPSI (Reisenhofer et al. 2018, arXiv:1607.06140), of Haar wavelets, by piq: higher is better, 1 for equal pictures.
"""

import math
from dataclasses import dataclass

import numpy as np
import piq
from einops import reduce
from jaxtyping import Float, UInt8
from scipy.ndimage import convolve
from skimage.metrics import structural_similarity

from downstream.photographs import to_tensor

Pixels = UInt8[np.ndarray, "height width 3"]
LUMA = np.array([65.481, 128.553, 24.966]) / 255  # ITU-R BT.601 in MATLAB's rgb2ycbcr, which the field's tables use; of levels of 8 bits
PREWITT = np.array([[1, 0, -1]] * 3) / 3
GMSD_CONSTANT = 170  # of gradients in levels of 8 bits (section III)
LEAST_SIDE_PX = 16   # of HaarPSI's coarsest wavelet; SSIM's window has 11


@dataclass(frozen=True)
class Quality:
    psnr_db: float
    psnr_y_db: float
    ssim: float
    ssim_y: float
    gmsd: float
    haarpsi: float


def measure(clean: Pixels, restored: Pixels, *, border_px: int = 0) -> Quality:
    """Raises ValueError for pictures that are smaller than the largest window without their border."""
    if min(clean.shape[:2]) - 2 * border_px < LEAST_SIDE_PX:
        raise ValueError(f"{clean.shape[1]} x {clean.shape[0]} px without a border of {border_px} are fewer than the {LEAST_SIDE_PX} px of HaarPSI's window")
    clean, restored = (cut(pixels, border_px) for pixels in (clean, restored))
    y, y_hat = luma(clean), luma(restored)
    return Quality(psnr_db(clean, restored), psnr_db(y, y_hat), ssim(clean, restored), ssim(y, y_hat), gmsd(y, y_hat), haarpsi(clean, restored))


def cut(pixels: np.ndarray, border_px: int) -> np.ndarray:
    return pixels[border_px : pixels.shape[0] - border_px, border_px : pixels.shape[1] - border_px]


def luma(pixels: Pixels) -> Float[np.ndarray, "height width"]:
    """Y, from 16 to 235."""
    return 16 + pixels.astype(np.float64) @ LUMA


def psnr_db(clean: np.ndarray, restored: np.ndarray) -> float:
    """Of levels of 8 bits; infinite for equal pictures."""
    error = float(np.mean((clean.astype(np.float64) - restored) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(clean: np.ndarray, restored: np.ndarray) -> float:
    """The mean over places and channels, by scikit-image."""
    return float(structural_similarity(clean, restored, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2 if clean.ndim == 3 else None))


def haarpsi(clean: Pixels, restored: Pixels) -> float:
    """In RGB, of halved pictures, as its authors have it."""
    return float(piq.haarpsi(to_tensor(restored)[None], to_tensor(clean)[None], data_range=1.0))


def gmsd(y: Float[np.ndarray, "height width"], y_hat: Float[np.ndarray, "height width"]) -> float:
    """The deviation over places of (2 g g' + c) / (g^2 + g'^2 + c), g the gradient's size, of the means of 2 x 2 pixels."""
    sizes = []
    for one in (y, y_hat):
        half = reduce(one[: len(one) // 2 * 2, : one.shape[1] // 2 * 2], "(rows top) (columns left) -> rows columns", "mean", top=2, left=2)
        sizes.append(np.hypot(convolve(half, PREWITT, mode="nearest"), convolve(half, PREWITT.T, mode="nearest")))
    g, g_hat = sizes
    return float(np.std((2 * g * g_hat + GMSD_CONSTANT) / (g**2 + g_hat**2 + GMSD_CONSTANT)))
