"""Whether an enlarged image, reduced again, is the source it was made from: needs no truth."""

import numpy as np
from numpy.typing import NDArray

from models.metrics.fidelity import psnr_rgb
from models.metrics.reduction import Reduction, bicubic


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
