"""Pictures that are stored turned: the eight values of the TIFF and EXIF tag Orientation.

Source: TIFF 6.0, tag 274, and EXIF 2.32, section 4.6.4.
"""

import numpy as np

from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.slide import Pixels

UPRIGHT = 1
_STEPS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""Whether stored rows become columns, then whether rows and columns run backwards."""


def is_known(orientation: object) -> bool:
    """Whether the tag has one of its eight values."""
    return isinstance(orientation, int) and orientation in _STEPS


def upright_size(stored: Size, orientation: int) -> Size:
    """The size in which the picture is to be seen."""
    return Size(stored.height, stored.width) if _STEPS[orientation][0] else stored


def upright_xy(stored: tuple[float, float], orientation: int) -> tuple[float, float]:
    """Values along x and y, in the directions of the picture as it is to be seen."""
    return (stored[1], stored[0]) if _STEPS[orientation][0] else stored


def stored_region(region: Region, size: Size, orientation: int) -> Region:
    """Where a region of the upright picture of this size lies in the stored one."""
    turned, rows_backwards, columns_backwards = _STEPS[orientation]
    x = size.width - region.right if columns_backwards else region.x
    y = size.height - region.bottom if rows_backwards else region.y
    if turned:
        return Region(y, x, region.height, region.width)
    return Region(x, y, region.width, region.height)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Stored pixels (rows, columns, samples) as they are to be seen."""
    turned, rows_backwards, columns_backwards = _STEPS[orientation]
    seen = pixels.swapaxes(0, 1) if turned else pixels
    return np.ascontiguousarray(seen[:: -1 if rows_backwards else 1, :: -1 if columns_backwards else 1])


def orientation_warning(orientation: int) -> str:
    """What users are told of a picture that was turned."""
    return f"the file says that it is stored turned (Orientation {orientation}); it was turned upright"
