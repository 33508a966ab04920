"""Slides to measure on: made of real tissue by the data folder's own tool, or of one picture where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from skimage.data import immunohistochemistry

_DATA = Path(os.environ.get("SLIDELIFT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
_TOOL = _DATA.parent / "tools" / "make_big_slide.py"


def big_slide(folder: Path, width: int, height: int, tissue: float) -> Path:
    """A tiled pyramidal JPEG TIFF at 1 µm per pixel; a share of its area is tissue, the rest near-white glass.

    Raises
    ------
    SystemExit
        The tool or its images are not there.
    """
    if not _TOOL.exists():
        raise SystemExit(f"{_TOOL} is not there: SLIDELIFT_DATA names the data folder beside it")
    path = folder / f"{width}x{height}-{tissue:g}.tiff"
    if not path.exists():
        size = f"{width}x{height}"
        command = [sys.executable, str(_TOOL), str(path), "--size", size, "--tissue", str(tissue), "--mpp", "1.0"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def picture(width: int, height: int) -> np.ndarray:
    """Real tissue of any size: one picture, mirrored; uint8 (height, width, 3)."""
    tile = immunohistochemistry()
    tile = np.concatenate([tile, tile[:, ::-1]], axis=1)
    tile = np.concatenate([tile, tile[::-1]])
    repeats = (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1)
    return np.ascontiguousarray(np.tile(tile, repeats)[:height, :width])
