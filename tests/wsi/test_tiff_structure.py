"""Truncated TIFFs are refused, not read with fewer levels or another pixel size."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from slidelift.wsi.errors import SlideUnreadableError
from slidelift.wsi.readers.tiff_structure import require_complete_tiff

_PIXELS = np.kron(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
_APERIO = "Aperio Image Library v11\n512x384|AppMag = 20|MPP = 0.5"
_SIZES = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
_WRITE_OPTIONS = {
    "ome": ({"ome": True}, {"metadata": _SIZES, "subifds": 1, "resolution": (1e4, 1e4), "resolutionunit": 3}, {}),
    "big ome": ({"ome": True, "bigtiff": True}, {"metadata": _SIZES, "subifds": 1}, {}),
    "big-endian ome": ({"ome": True, "byteorder": ">"}, {"metadata": _SIZES, "subifds": 1}, {}),
    "aperio": ({}, {"description": _APERIO, "metadata": None}, {"description": _APERIO}),
}


def _write(path: Path, kind: str) -> tuple[Path, int]:
    """Write a slide; returns its path and the offset at which the pixels of its finest level end."""
    container, first, coarser = _WRITE_OPTIONS[kind]
    options = {"photometric": "rgb", "tile": (128, 128), "compression": "jpeg"}
    with tifffile.TiffWriter(path, **container) as tiff:
        tiff.write(_PIXELS, **options, **first)
        tiff.write(np.ascontiguousarray(_PIXELS[::2, ::2]), **options, subfiletype=1, metadata=None, **coarser)
    with tifffile.TiffFile(path) as tiff:
        return path, tiff.pages.first.dataoffsets[-1] + tiff.pages.first.databytecounts[-1]


@pytest.mark.parametrize("kind", _WRITE_OPTIONS)
def test_file_truncated_after_the_finest_level_is_refused(tmp_path, open_slide, kind: str) -> None:
    path, end = _write(tmp_path / "slide.ome.tif", kind)
    reader = open_slide(path)
    assert (reader.info.mpp, len(reader.info.levels)) == ((0.5, 0.5), 2)
    data = path.read_bytes()
    for length in (end, (2 * end + len(data)) // 3):
        path.write_bytes(data[:length])
        with pytest.raises(SlideUnreadableError, match=r"slide\.ome\.tif: .*copy the whole slide again"):
            open_slide(path)


def test_cyclic_ifds_are_visited_once(tmp_path) -> None:
    path = tmp_path / "slide.tif"
    path.write_bytes(b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0")
    require_complete_tiff(path, path.name)


def test_broken_entry_of_another_tag_is_accepted(tmp_path, open_slide) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, _PIXELS, photometric="rgb", metadata=None, extratags=[(65000, "s", 0, "x" * 40, True)])
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages.first.tags[65000].offset
    data = bytearray(path.read_bytes())
    data[offset + 8 : offset + 12] = b"\xff\xff\xff\x7f"
    path.write_bytes(data)
    assert open_slide(path).info.size.width == 512
