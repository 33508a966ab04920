"""Compression of a slide: codec, JPEG quality, chroma subsampling and quantisation tables.

A JPEG file does not state its quality; it is estimated as the libjpeg quality with the nearest luma table.
"""

import io
import struct
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from slidelift.wsi.slide import Codec, Compression

_SAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_YCC_IDS, _RGB_IDS = (1, 2, 3), (82, 71, 66)
_HEADER_BYTES = 1 << 16
_MAX_PAGES = 16
"""Level 0 is among the first pages in every known format; an OME-TIFF may have thousands."""
_DAMAGE = (
    tifffile.TiffFileError, ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, SyntaxError, TypeError,
    ValueError, struct.error, Image.DecompressionBombError,
)  # fmt: skip


_LOSSLESS = {"NONE", "LZW", "ADOBE_DEFLATE", "DEFLATE", "PACKBITS", "ZSTD", "LZMA"}
_JPEG_2000 = {"APERIO_JP2000_YCBC", "APERIO_JP2000_RGB", "JPEG2000", "JPEG_2000_LOSSY", "OLYMPUS_JPEG2000"}


def read_compression(path: Path) -> Compression | None:
    """Compression of a TIFF's largest page, or of a JPEG, PNG or BMP file; None if unknown.

    MRXS, VMS and DICOM slides are not supported and give None; so do damaged files, which a reader reports.
    """
    try:
        with path.open("rb") as file:
            signature = file.read(4)
        if signature.startswith(b"\xff\xd8\xff"):
            with path.open("rb") as file:
                return _jpeg_compression(file, is_rgb=False)
        if signature.startswith((b"\x89PNG", b"BM")):
            return Compression(Codec.LOSSLESS)
        return _tiff_compression(path) if signature[:2] in (b"II", b"MM") else None
    except _DAMAGE:
        return None


def nearest_quality(table: Sequence[int]) -> int:
    """The libjpeg quality, 1 to 100, whose luma table is nearest to this one (64 values, row by row)."""
    steps = np.asarray(table, np.float64)
    errors = np.abs(np.log(_luma_tables() / steps.clip(1))).sum(axis=1)
    return 1 + int(errors.argmin())


@cache
def _luma_tables() -> NDArray[np.float64]:
    """Libjpeg's luma table for each quality, (100, 64), read from images that the library encodes."""
    tables = []
    for quality in range(1, 101):
        stream = io.BytesIO()
        Image.new("L", (8, 8)).save(stream, "JPEG", quality=quality)
        with Image.open(stream, formats=("JPEG",)) as image:
            assert isinstance(image, JpegImagePlugin.JpegImageFile)  # noqa: S101 - the only format that was allowed
            tables.append(image.quantization[0])
    return np.array(tables, np.float64)


def _tiff_compression(path: Path) -> Compression | None:
    with tifffile.TiffFile(path) as tiff:
        pages = [page for page in tiff.pages[:_MAX_PAGES] if isinstance(page, tifffile.TiffPage)]
        page = max(pages, key=lambda page: page.imagewidth * page.imagelength)
        name = tifffile.COMPRESSION(page.compression).name
        if name not in ("JPEG", "OJPEG"):
            codec = Codec.LOSSLESS if name in _LOSSLESS else Codec.JPEG_2000 if name in _JPEG_2000 else Codec.OTHER
            return Compression(codec)
        stream = io.BytesIO(_first_jpeg_header(tiff, page))
        return _jpeg_compression(stream, is_rgb=page.photometric == tifffile.PHOTOMETRIC.RGB)


def _first_jpeg_header(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> bytes:
    """Header of the first tile's JPEG stream, with the tables of the tag JPEGTables; for NDPI the page's own header."""
    if page.jpegheader:
        return bytes(page.jpegheader)
    first = next(number for number, count in enumerate(page.databytecounts) if count)
    tiff.filehandle.seek(page.dataoffsets[first])
    stream: bytes = tiff.filehandle.read(min(page.databytecounts[first], _HEADER_BYTES))
    return stream if page.jpegtables is None else page.jpegtables[:-2] + stream[2:]


def _jpeg_compression(stream: BinaryIO, *, is_rgb: bool) -> Compression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged EXIF data and the size; readers report both
        image = Image.open(stream, formats=("JPEG",))
    with image:
        assert isinstance(image, JpegImagePlugin.JpegImageFile)  # noqa: S101 - the only format that was allowed
        tables = tuple(tuple(image.quantization[key]) for key in sorted(image.quantization))
        sampling = _SAMPLINGS.get(JpegImagePlugin.get_sampling(image))
        ids = tuple(layer[0] for layer in image.layer)
        untransformed = image.info.get("adobe_transform") == 0 or ids == _RGB_IDS or (is_rgb and ids != _YCC_IDS)
    if sampling == "4:4:4" and untransformed:
        sampling = "RGB"
    return Compression(Codec.JPEG, nearest_quality(tables[0]), sampling, tables)
