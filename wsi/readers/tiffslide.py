"""Reader for OME-TIFF, striped TIFF and other TIFFs that OpenSlide does not read faithfully, through tiffslide.

The largest series of the file is the slide. `pixel_layout` converts its samples to RGB.
"""

import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import tifffile

from slidelift.wsi.errors import SlideUnreadableError, TileReadError, UnsupportedPixelsError, library_message
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.icc import check_profile
from slidelift.wsi.metadata_values import MetadataParser
from slidelift.wsi.readers.compression import read_compression
from slidelift.wsi.readers.decode_limits import check_tile_sizes, limit_stream_sizes, tiff_tiles
from slidelift.wsi.readers.ome_metadata import (
    MALFORMED_OME_XML,
    SeriesPosition,
    find_invalid_count,
    parse_ome_metadata,
    starts_with_ome_xml,
)
from slidelift.wsi.readers.orientation import stored_region, to_upright, upright_size, upright_xy
from slidelift.wsi.readers.pixel_layout import PixelLayout, read_pixel_layout, unread_planes_warning
from slidelift.wsi.readers.references import LoneFile, options_for
from slidelift.wsi.slide import Level, Pixels, SlideInfo, known_vendor

if TYPE_CHECKING:
    from tiffslide import TiffSlide

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ICC_PROFILE, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _SOURCE_LENS = 34675, 282, 283, 296, 65421
_RATIONAL_TYPES = {5, 10}
"""TIFF types RATIONAL and SRATIONAL: numerator and denominator."""
_RESOLUTION_UNITS = {2: 25_400.0, 3: 10_000.0, 4: 1000.0, 5: 1.0}
"""µm in an inch, centimetre, millimetre and micrometre; the value 1 means that there is no unit."""
_ASSOCIATED_IMAGES = {"label", "macro", "overview", "thumbnail"}
_VENDOR_FLAGS = {
    "is_svs": "aperio", "is_scn": "leica", "is_bif": "ventana", "is_ndpi": "hamamatsu", "is_philips": "philips"
}  # fmt: skip
# Vendors whose first series is the slide, even if a macro image with more pixels follows.
_FIRST_SERIES_VENDORS = {"aperio", "hamamatsu", "philips", "ventana"}
# Exceptions of tifffile, imagecodecs and zarr that were observed for damaged files.
DECODER_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    AssertionError,
    struct.error,
)


def accepts(path: Path) -> bool:
    """Whether the file starts with the signature of a TIFF."""
    with path.open("rb") as file:
        return file.read(4) in _SIGNATURES


class TiffSlideReader:
    """Reader of one TIFF; `read_region` may be called from any number of threads."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._file = LoneFile(path)
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        name = self._name
        try:
            self._slide = _open_tiffslide(self._file, options_for(self._path))
            self._tiff: tifffile.TiffFile = self._slide.ts_tifffile
            self._series, self._position = self._select_series()
            self._slide.series_index = self._position.number
            check_tile_sizes(name, tiff_tiles(self._tiff))
            limit_stream_sizes(self._tiff)
            self._layouts = [read_pixel_layout(level.keyframe) for level in self._series.levels]
            for level, layout in zip(self._series.levels, self._layouts, strict=True):
                self._check_level(level, layout)
            self.info = self._describe()
        except (tifffile.TiffFileError, *DECODER_ERRORS) as error:
            has_reason = isinstance(error, (tifffile.TiffFileError, NotImplementedError, OSError))
            cause = library_message(error, self._path, name) if has_reason else "its TIFF directories are damaged"
            raise SlideUnreadableError(
                f"{name}: neither OpenSlide nor tiffslide can open this TIFF ({cause}); copy or export the slide again"
            ) from error

    def _select_series(self) -> tuple[tifffile.TiffPageSeries, SeriesPosition]:
        """The series with the most pixels, or the first one for vendors that put the slide first."""
        if self._tiff.is_ome and (name := find_invalid_count(self._tiff.ome_metadata or "")):
            raise SlideUnreadableError(
                f"{self._name}: its OME-XML gives an impossible value for {name}; export the slide again"
            )
        try:
            series = self._tiff.series
        except DECODER_ERRORS as error:
            if not self._tiff.is_ome:
                raise
            raise SlideUnreadableError(
                f"{self._name}: its OME-XML does not describe the images that the file holds; export the slide again"
            ) from error
        if self._vendor() in _FIRST_SERIES_VENDORS:
            index = 0
        else:
            index = max(range(len(series)), key=lambda number: _pixel_count(series[number]))
        return series[index], SeriesPosition(index, len(series))

    def read_region(self, level: int, region: Region) -> Pixels:
        """See `SlideReader.read_region`; a grey sample becomes three equal ones."""
        layout, axes = self._layouts[level], self._series.levels[level].axes
        stored = stored_region(region, self.info.levels[level].size, layout.orientation)
        slices = {"Y": slice(stored.y, stored.bottom), "X": slice(stored.x, stored.right), "S": slice(None)}
        try:
            array = self._slide.zarr_group[str(level)]
            pixels = np.asarray(array[tuple(slices.get(axis, 0) for axis in axes)])
        except DECODER_ERRORS as error:
            cause = library_message(error, self._path, self._name)
            raise TileReadError(self._name, level, region, cause) from error
        image_axes = [axis for axis in axes if axis in slices]
        if "S" not in image_axes:
            pixels = pixels[..., None]
        elif image_axes[0] == "S":
            pixels = np.moveaxis(pixels, 0, -1)
        if pixels.shape != (stored.height, stored.width, layout.samples_per_pixel) or pixels.dtype != np.uint8:
            raise TileReadError(self.info.name, level, region, f"the decoded array has the wrong shape {pixels.shape}")
        return to_upright(layout.to_rgb(pixels), layout.orientation)

    def close(self) -> None:
        """Close the file handle."""
        self._slide.close()
        self._file.close()

    def _describe(self) -> SlideInfo:
        parser, layout = MetadataParser(), self._layouts[0]
        mpp, objective = self._mpp_and_objective(_series_size(self._series), parser)
        profile, profile_warnings = check_profile(self._series.keyframe.tags.valueof(_ICC_PROFILE))
        sizes = [upright_size(_series_size(level), layout.orientation) for level in self._series.levels]
        return SlideInfo(
            name=self._name,
            reader="tiffslide",
            levels=tuple(
                Level(size, (sizes[0].width / size.width + sizes[0].height / size.height) / 2) for size in sizes
            ),
            mpp=upright_xy(mpp, layout.orientation) if mpp else None,
            objective=objective,
            vendor=known_vendor(self._vendor()),
            icc_profile=profile,
            warnings=(*layout.warnings, *self._unread_warnings(), *parser.warnings, *profile_warnings),
            compression=read_compression(self._path),
        )

    def _vendor(self) -> str:
        return next((vendor for flag, vendor in _VENDOR_FLAGS.items() if getattr(self._tiff, flag)), "tiff")

    def _mpp_and_objective(self, size: Size, parser: MetadataParser) -> tuple[tuple[float, float] | None, float | None]:
        """Pixel size in µm along the stored x and y axes, and magnification."""
        page, mpp, objective = self._series.keyframe, None, None
        if self._tiff.is_ome:
            mpp, objective = parse_ome_metadata(self._tiff.ome_metadata or "", self._position, size, parser)
        elif starts_with_ome_xml(self._tiff):
            parser.warn(MALFORMED_OME_XML)
        elif self._vendor() == "aperio":
            description = str(self._tiff.pages.first.description)
            value = parser.pixel_size(_aperio_value(description, "MPP"), "MPP")
            mpp = (value, value) if value else None
            objective = parser.magnification(_aperio_value(description, "AppMag"), "AppMag")
        elif self._vendor() == "hamamatsu":
            objective = parser.magnification(page.tags.valueof(_SOURCE_LENS), "SourceLens")
        return mpp or _mpp_from_resolution(page, parser), objective

    def _unread_warnings(self) -> list[str]:
        """Warnings about planes and series that are not read, except scanners' label, macro and thumbnail images."""
        messages = []
        leading = [
            length for axis, length in zip(self._series.axes, self._series.shape, strict=True) if axis not in "YXS"
        ]
        if leading:
            messages.append(unread_planes_warning(int(np.prod(leading)) - 1))
        others = [series for series in self._tiff.series if series is not self._series]
        if others and self._vendor() == "tiff":
            names = ", ".join(_describe_series(series) for series in others[:5] if _pixel_count(series))
            messages.append(f"only the largest image is read; the file holds {len(others)} more ({names})")
        return messages

    def _check_level(self, level: tifffile.TiffPageSeries, layout: PixelLayout) -> None:
        """Raise if the level's pixels can't be converted to RGB, are oriented differently, or are missing."""
        name, axes = self._name, level.axes
        has_channels = any(axis == "C" and length > 1 for axis, length in zip(axes, level.shape, strict=True))
        if not layout.is_convertible or has_channels or axes.strip("ZTIQRC") not in ("YX", "YXS", "SYX"):
            raise UnsupportedPixelsError(
                f"{name}: {layout.description}{', several channels' if has_channels else ''}, axes {axes}: only images "
                "of 8-bit RGB or grey are supported; export the slide as 8-bit RGB first, choosing the display range "
                "there"
            )
        if layout.orientation != self._layouts[0].orientation:
            raise UnsupportedPixelsError(
                f"{name}: its levels are stored in different orientations (tag Orientation); export the slide upright"
            )
        page = level.pages[0]
        if page is None or 0 in page.databytecounts:
            raise SlideUnreadableError(
                f"{name}: some of its tiles hold no data and would be shown black; write the slide again with all tiles"
            )


def _open_tiffslide(file: BinaryIO, options: dict[str, str | bool]) -> "TiffSlide":
    """A TiffSlide whose series is chosen by its attribute `series_index`.

    TiffSlide's own properties, which choose the series otherwise, fail on malformed metadata.
    """
    from tiffslide import TiffSlide  # takes half of a probe's start time, because it imports zarr

    class ChosenSeries(TiffSlide):  # type: ignore[misc]
        series_index = 0

        @property
        def properties(self) -> dict[str, Any]:
            return {"tiffslide.series-index": self.series_index}

    return ChosenSeries(file, tifffile_options=options)


def _series_size(series: tifffile.TiffPageSeries) -> Size:
    lengths = dict(zip(series.axes, series.shape, strict=True))
    return Size(int(lengths["X"]), int(lengths["Y"]))


def _describe_series(series: tifffile.TiffPageSeries) -> str:
    """Kind and size for messages; never the series' own name, which may name a patient."""
    kind, size = str(series.name).lower(), _series_size(series)
    return f"{kind + ', ' if kind in _ASSOCIATED_IMAGES else ''}{size.width} x {size.height} px"


def _pixel_count(series: tifffile.TiffPageSeries) -> int:
    """0 for a series that is not an image."""
    if not {"X", "Y"} <= set(series.axes):
        return 0
    size = _series_size(series)
    return size.width * size.height


def _aperio_value(description: str, name: str) -> str | None:
    """A value of Aperio's description: `|name = value|`."""
    match = re.search(rf"\|\s*{name}\s*=([^|]*)", description)
    return match[1].strip() if match else None


def _mpp_from_resolution(page: tifffile.TiffPage, parser: MetadataParser) -> tuple[float, float] | None:
    """Pixel size in µm from the tags XResolution and YResolution."""
    unit = _RESOLUTION_UNITS.get(page.tags.valueof(_RESOLUTION_UNIT, 2))
    if unit is None:
        return None
    x, y = (
        parser.pixel_size(_reciprocal(page.tags.get(code)), name, unit)
        for code, name in ((_X_RESOLUTION, "XResolution"), (_Y_RESOLUTION, "YResolution"))
    )
    return parser.pixel_size_xy(x, y)


def _reciprocal(tag: tifffile.TiffTag | None) -> object:
    """Pixels per unit as units per pixel; a value that is not a number unchanged."""
    value = tag.value if tag is not None else None
    if tag is not None and int(tag.dtype) in _RATIONAL_TYPES and isinstance(value, tuple):
        return value[::-1]
    value = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return 1 / value if isinstance(value, int | float) and value else value
