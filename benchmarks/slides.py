"""Slides for benchmarks, made of real tissue."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from skimage.data import immunohistochemistry

_DATA = Path(os.environ.get("SLIDELIFT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
_TOOL = _DATA.parent / "tools" / "make_big_slide.py"


def big_slide(folder: Path, width: int, height: int, tissue: float) -> Path:
    """Write a tiled pyramidal JPEG TIFF at 1 µm per pixel; a share of its area is tissue, the rest near-white glass.

    Raises
    ------
    SystemExit
        If the tool that makes slides is missing.
    """
    if not _TOOL.exists():
        raise SystemExit(f"{_TOOL}: not found; set SLIDELIFT_DATA to the data folder next to its folder tools/")
    path = folder / f"{width}x{height}-{tissue:g}.tiff"
    if not path.exists():
        size = f"{width}x{height}"
        command = [sys.executable, str(_TOOL), str(path), "--size", size, "--tissue", str(tissue), "--mpp", "1.0"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def tissue_image(width: int, height: int) -> np.ndarray:
    """Return tissue of any size, an example image repeated by mirroring: uint8 (height, width, 3)."""
    tile = immunohistochemistry()
    tile = np.concatenate([tile, tile[:, ::-1]], axis=1)
    tile = np.concatenate([tile, tile[::-1]])
    repeats = (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1)
    return np.ascontiguousarray(np.tile(tile, repeats)[:height, :width])
