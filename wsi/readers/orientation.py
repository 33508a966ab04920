"""The eight values of the TIFF and EXIF tag Orientation.

Source: TIFF 6.0, tag 274, and EXIF 2.32, section 4.6.4.
"""

import numpy as np

from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.slide import Pixels

UPRIGHT = 1
_TRANSFORMS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""For each value: transpose, then flip rows, then flip columns."""


def is_valid(orientation: object) -> bool:
    """Whether this is one of the tag's eight values."""
    return isinstance(orientation, int) and orientation in _TRANSFORMS


def upright_size(stored: Size, orientation: int) -> Size:
    """Size of the upright image."""
    return Size(stored.height, stored.width) if _TRANSFORMS[orientation][0] else stored


def upright_xy(stored: tuple[float, float], orientation: int) -> tuple[float, float]:
    """Values along the x and y axes of the upright image, from those of the stored one."""
    return (stored[1], stored[0]) if _TRANSFORMS[orientation][0] else stored


def stored_region(region: Region, size: Size, orientation: int) -> Region:
    """Region of the stored image that shows `region` of the upright image, which has this `size`."""
    transpose, flip_rows, flip_columns = _TRANSFORMS[orientation]
    x = size.width - region.right if flip_columns else region.x
    y = size.height - region.bottom if flip_rows else region.y
    if transpose:
        return Region(y, x, region.height, region.width)
    return Region(x, y, region.width, region.height)


def to_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Transform stored pixels, uint8 (H, W, channels), to the upright image."""
    transpose, flip_rows, flip_columns = _TRANSFORMS[orientation]
    transposed = pixels.swapaxes(0, 1) if transpose else pixels
    return np.ascontiguousarray(transposed[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def orientation_warning(orientation: int) -> str:
    """Warning for an image that was transformed."""
    return f"the file stores the image rotated or mirrored (Orientation {orientation}); it was turned upright"
