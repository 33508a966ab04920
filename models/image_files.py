"""Listing and reading of image files as 8-bit RGB."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidelift.models.errors import ImagesError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
_DEEP_MODES = ("I", "F")


def image_files(folder: Path, count: int | None = None) -> list[Path]:
    """Return the first `count` images of a folder, sorted by name; not of its subfolders.

    Raises
    ------
    ImagesError
        If there is none.
    """
    if not folder.is_dir():
        raise ImagesError(f"{folder}: no such folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)[:count]
    if not files:
        raise ImagesError(f"{folder}: no image ({', '.join(sorted(SUFFIXES))}) in this folder itself")
    return files


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read an image file as uint8 (h, w, 3); grey images get three equal channels.

    Raises
    ------
    ImagesError
        If it can't be decoded, or has more than 8 bits, which Pillow would clip to white.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(_DEEP_MODES):
                raise ImagesError(f"{path}: more than 8 bits per channel ({image.mode}); convert it to 8 bits first")
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: raised by Pillow for a broken PNG
        raise ImagesError(f"{path}: can't be read as an image ({error})") from error
