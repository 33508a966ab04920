"""Whether an enlarged image, reduced again, is the source it was made from: needs no truth."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidelift.models.metrics.fidelity import psnr_rgb
from slidelift.models.metrics.reduction import Reduction, bicubic


def downscale_consistency(image: NDArray[np.uint8], source: NDArray[np.uint8], reduction: Reduction = bicubic) -> float:
    """PSNR in dB over RGB between the reduced enlargement, rounded to 8 bits, and the source; infinite where equal.

    Parameters
    ----------
    image, source
        uint8 (scale*h, scale*w, 3) and (h, w, 3).
    reduction
        How the source came about; by the measuring convention Pillow's antialiased bicubic.
    """
    return psnr_rgb(reduction(image, image.shape[0] // source.shape[0]), source)


MAX_BLOCK_RMSE = 32.0
"""RMSE in grey levels over 8 x 8 source pixels from which on a model is not believed. Over H&E, ink, permuted colours
and noise interpolators and shallow networks stay below 33; a network that has left its range reaches 60 to 120."""
_BLOCK = 8


def worst_block(image: NDArray[np.uint8] | NDArray[np.float32], source: NDArray[np.uint8]) -> float:
    """The largest RMSE of `mean_consistency` over any 8 x 8 pixels of the source.

    Parameters
    ----------
    image, source
        As `mean_consistency`; the last blocks may be smaller.
    """
    off = np.square(_reduced(image, source) - source.astype(np.float64)).mean(axis=2)
    edges = [np.arange(0, size, _BLOCK) for size in off.shape]
    sums = np.add.reduceat(np.add.reduceat(off, edges[0], axis=0), edges[1], axis=1)
    heights, widths = (np.diff(np.append(edge, size)) for edge, size in zip(edges, off.shape, strict=True))
    return float(np.sqrt((sums / np.outer(heights, widths)).max()))


def _reduced(
    image: NDArray[np.uint8] | NDArray[np.float32], source: NDArray[np.uint8]
) -> NDArray[np.uint8] | NDArray[np.float64]:
    """Means of squares; of uint8 rounded to 8 bits."""
    height, width, _ = source.shape
    scale = image.shape[0] // height
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(image)).reduce(scale))
    means: NDArray[np.float64] = image.reshape(height, scale, width, scale, 3).mean(axis=(1, 3), dtype=np.float64)
    return means


def mean_consistency(image: NDArray[np.uint8] | NDArray[np.float32], source: NDArray[np.uint8]) -> float:
    """RMSE in grey levels over RGB between the means of an enlargement's squares and the source.

    The plain mean, since it needs no pixels from beyond the image and costs a fifth of the bicubic reduction: 3 ms for
    a tile of 1024 x 1024. It is stricter with sharp results: compact-x4, which is held to its source under bicubic
    reduction, has 1.6 where that would find 0.9, and bicubic enlargement 3.7 where it would find 4.0 (H&E at 20x).

    Parameters
    ----------
    image, source
        (scale*h, scale*w, 3) in 0..255 and uint8 (h, w, 3). Means of uint8 are rounded to 8 bits.
    """
    reduced = _reduced(image, source)
    if reduced.dtype == np.uint8:
        off = np.subtract(reduced, source, dtype=np.int32)
        return math.sqrt(int(np.square(off).sum(dtype=np.int64)) / off.size)
    return float(np.sqrt(np.square(reduced - source).mean()))
