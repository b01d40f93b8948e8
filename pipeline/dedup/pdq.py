"""PDQ, the perceptual hash that lists of known images are exchanged in (Facebook, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing
Algorithm", 2019; facebook/ThreatExchange, pdq/cpp).

    pixels --> luminance --> two box filters each way --> 64 x 64 samples --> DCT, 16 x 16 low frequencies --> above their median or not: 256 bits
"""

import numpy as np
from jaxtyping import Float, UInt8

from lcl.core.images import decode_image, to_pixels

LUMA = (0.299, 0.587, 0.114)
SAMPLES, FREQUENCIES, PASSES = 64, 16, 2


def pdq_of_image(data: bytes) -> bytes:
    """The PDQ hash of an image file. Raises Rejected for one that cannot be decoded."""
    return pdq_hash(to_pixels(decode_image(data)))


def pdq_hash(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """32 bytes, the first bit that of the highest frequencies, as the reference code writes them in hex. The image is not made smaller before."""
    luma = pixels.astype(np.float64) @ LUMA
    if luma.shape != (SAMPLES, SAMPLES):
        for _ in range(PASSES):
            for axis in (1, 0):
                luma = _box_filter(luma, axis=axis)
        rows, columns = (((np.arange(SAMPLES) + 0.5) * side / SAMPLES).astype(int) for side in luma.shape)
        luma = luma[np.ix_(rows, columns)]
    frequency, place = np.arange(1, FREQUENCIES + 1)[:, None], np.arange(SAMPLES)
    cosines = np.sqrt(2 / SAMPLES) * np.cos(np.pi / (2 * SAMPLES) * frequency * (2 * place + 1))
    found = (cosines @ luma @ cosines.T).ravel()
    median = np.sort(found)[found.size // 2 - 1]  # the lower of the two in the middle
    return np.packbits((found > median)[::-1]).tobytes()


def _box_filter(values: Float[np.ndarray, "rows columns"], *, axis: int) -> Float[np.ndarray, "rows columns"]:
    """The mean over a window around each place, cut at the edges; the window is 1/128 of the side, rounded up."""
    side = values.shape[axis]
    window = -(-side // (2 * SAMPLES))
    behind = (window + 2) // 2
    starts, ends = (np.clip(np.arange(side) + step, 0, side) for step in (behind - window, behind))
    sums = np.insert(np.cumsum(values, axis=axis), 0, 0, axis=axis)
    counts = (ends - starts).reshape([-1 if own == axis else 1 for own in range(2)])
    return (sums.take(ends, axis=axis) - sums.take(starts, axis=axis)) / counts
