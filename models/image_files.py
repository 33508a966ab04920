"""Image files of a folder as 8-bit RGB, for training and for measuring alike."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidelift.models.errors import ImagesError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
_DEEP_MODES = ("I", "F")


def image_files(folder: Path, count: int | None = None) -> list[Path]:
    """The first `count` images that lie directly in a folder, in the order of their names.

    Raises
    ------
    ImagesError
        If there is none.
    """
    if not folder.is_dir():
        raise ImagesError(f"{folder}: no such folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)[:count]
    if not files:
        raise ImagesError(f"{folder}: no image ({', '.join(sorted(SUFFIXES))}) directly in it")
    return files


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 (h, w, 3); grey levels become three equal channels.

    Raises
    ------
    ImagesError
        If it can't be decoded, or is deeper than 8 bits: Pillow would clip it to white.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(_DEEP_MODES):
                raise ImagesError(f"{path}: deeper than 8 bits ({image.mode}); window it to 8 bits first")
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: Pillow's of a broken PNG
        raise ImagesError(f"{path}: can't be read as an image ({error})") from error
