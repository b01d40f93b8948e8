"""Classical filters to compare with, at settings that need no clean picture. All take and give 8-bit pixels.

Wiener deconvolution alone is told more than a user knows: the kernel that a picture was blurred with.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import convolve, uniform_filter
from skimage.exposure import equalize_adapthist
from skimage.restoration import denoise_nl_means, wiener

from downstream.photographs import to_tensor
from downstream.restore.restoring import estimate_noise_255

Pixels = UInt8[np.ndarray, "height width 3"]
CLIP_LIMIT = 0.01    # scikit-image's own
NLM_STRENGTH = 0.6   # of h, in deviations of the noise: what scikit-image's example takes in its fast mode where it is told sigma
WIENER_WINDOW = 5    # px
BALANCE = 0.003      # noise against signal of the deconvolution: the best of 3e-3, 1e-2 and 3e-2 for blurs of three pictures rounded to 8 bits


def identity(pixels: Pixels) -> Pixels:
    return pixels


def non_local_means(pixels: Pixels) -> Pixels:
    """Patches of 5 px within 6 px (Buades et al. 2005), for noise of the deviation estimated from the picture."""
    deviation = estimate_noise_255(to_tensor(pixels)) / 255
    found = denoise_nl_means(pixels / 255.0, patch_size=5, patch_distance=6, h=max(NLM_STRENGTH * deviation, 1e-3), sigma=deviation, fast_mode=True, channel_axis=2)
    return _bytes(found)


def clahe(pixels: Pixels) -> Pixels:
    """Histograms equalised by region with a limit on contrast (Zuiderveld 1994), of the brightness alone."""
    return _bytes(equalize_adapthist(pixels, clip_limit=CLIP_LIMIT))


def adaptive_wiener(pixels: Pixels) -> Pixels:
    """m + max(v - n, 0) / max(v, n) (x - m), with mean m and variance v of each channel over 5 x 5 px and n the estimated variance of the noise (Lee 1980)."""
    x = pixels / 255.0
    mean = uniform_filter(x, (WIENER_WINDOW, WIENER_WINDOW, 1))
    variance = np.maximum(uniform_filter(x**2, (WIENER_WINDOW, WIENER_WINDOW, 1)) - mean**2, 0)
    noise = max((estimate_noise_255(to_tensor(pixels)) / 255) ** 2, 1e-12)
    return _bytes(mean + np.maximum(variance - noise, 0) / np.maximum(variance, noise) * (x - mean))


def wiener_deconvolution(pixels: Pixels, kernel: Float[np.ndarray, "side side"]) -> Pixels:
    """Each channel by scikit-image's Wiener-Hunt filter with a Laplacian as prior (Orieux et al. 2010).

    The filter takes a picture to wrap around: it is continued by its last pixels, which outwards pass into themselves blurred around the edge; else a seam rings through all of it.
    """
    reach = 2 * kernel.shape[0]
    wide = np.pad(pixels / 255.0, [(reach, reach)] * 2 + [(0, 0)], mode="edge")
    rows, columns = (np.minimum(1, np.minimum(np.arange(side), np.arange(side)[::-1]) / reach) for side in wide.shape[:2])
    kept = rows[:, None] * columns
    sharp = []
    for x in np.moveaxis(wide, 2, 0):
        tapered = kept * x + (1 - kept) * convolve(x, kernel, mode="wrap")
        sharp.append(wiener(tapered, kernel, BALANCE)[reach:-reach, reach:-reach])
    return _bytes(np.stack(sharp, axis=2))


def _bytes(values: np.ndarray) -> Pixels:
    return (np.clip(values, 0, 1) * 255).round().astype(np.uint8)


BASELINES: dict[str, Callable[[Pixels], Pixels]] = {"identity": identity, "non-local means": non_local_means, "CLAHE": clahe, "Wiener": adaptive_wiener}
