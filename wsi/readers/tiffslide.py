"""The TIFF family in Python, for what libopenslide refuses or does not show as it is: OME-TIFF, plain and striped TIFF.

The largest picture of the file is the slide. What its samples mean stands in `samples.py`.
"""

import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import tifffile

from slidelift.wsi.errors import SlideUnreadableError, TileReadError, UnsupportedPixelsError, library_message
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.icc import usable_profile
from slidelift.wsi.quantities import Quantities
from slidelift.wsi.readers.bounds import bound_streams, pieces_of_tiff, require_small_pieces
from slidelift.wsi.readers.compression import read_compression
from slidelift.wsi.readers.ome import MALFORMED, begins_as_ome, impossible_counts, ome_facts
from slidelift.wsi.readers.orientation import stored_region, upright, upright_pair, upright_size
from slidelift.wsi.readers.references import LoneFile, options_for
from slidelift.wsi.readers.samples import planes_warning, samples_of
from slidelift.wsi.slide import Level, Pixels, SlideInfo, vendor_word

if TYPE_CHECKING:
    from tiffslide import TiffSlide

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ICC_PROFILE, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _SOURCE_LENS = 34675, 282, 283, 296, 65421
_FRACTIONS = {5, 10}
"""Types of tags: numerator and denominator, without and with a sign."""
_PER_UNIT = {2: 25_400.0, 3: 10_000.0, 4: 1000.0, 5: 1.0}
"""µm in an inch, centimetre, millimetre and micrometre; 1 is no unit."""
_BESIDES = {"label", "macro", "overview", "thumbnail"}
_FLAGS = {"is_svs": "aperio", "is_scn": "leica", "is_bif": "ventana", "is_ndpi": "hamamatsu", "is_philips": "philips"}
# Where a macro of more pixels than a small slide may follow.
_BASELINE_FIRST = {"aperio", "hamamatsu", "philips", "ventana"}
# What damaged files were seen to raise from tifffile, imagecodecs and zarr underneath.
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
    """Whether the file begins as a TIFF does."""
    with path.open("rb") as file:
        return file.read(4) in _SIGNATURES


class TiffSlideReader:
    """One TIFF; reads from any number of threads."""

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
            self._slide = _opened(self._file, options_for(self._path))
            self._tiff: tifffile.TiffFile = self._slide.ts_tifffile
            self._series, self._place = self._largest()
            self._slide.number = self._place[0]
            require_small_pieces(name, pieces_of_tiff(self._tiff))
            bound_streams(self._tiff)
            self._layouts = [samples_of(level.keyframe) for level in self._series.levels]
            self._refuse_other_pixels()
            self.info = self._describe()
        except (tifffile.TiffFileError, *DECODER_ERRORS) as error:
            told = isinstance(error, (tifffile.TiffFileError, NotImplementedError, OSError))
            cause = library_message(error, self._path, name) if told else "its tables are damaged"
            raise SlideUnreadableError(
                f"{name}: neither OpenSlide nor tiffslide can open this TIFF ({cause}); copy or export it again"
            ) from error

    def _largest(self) -> tuple[tifffile.TiffPageSeries, tuple[int, int]]:
        """The picture with the most pixels, or the one that a scanner's format puts first; its place, and how many."""
        if self._tiff.is_ome and (name := impossible_counts(self._tiff.ome_metadata or "")):
            raise SlideUnreadableError(
                f"{self._name}: its OME-XML gives {name} a value that no slide has; export the slide again"
            )
        try:
            series = self._tiff.series
        except DECODER_ERRORS as error:
            if not self._tiff.is_ome:
                raise
            raise SlideUnreadableError(
                f"{self._name}: its OME-XML does not say which pictures the file holds; export the slide again"
            ) from error
        number = 0 if self._vendor() in _BASELINE_FIRST else max(range(len(series)), key=lambda one: _area(series[one]))
        return series[number], (number, len(series))

    def read(self, level: int, region: Region) -> Pixels:
        """See `SlideReader.read`; one grey channel becomes three equal ones."""
        layout, axes = self._layouts[level], self._series.levels[level].axes
        stored = stored_region(region, self.info.levels[level].size, layout.turn)
        chosen = {"Y": slice(stored.y, stored.bottom), "X": slice(stored.x, stored.right), "S": slice(None)}
        try:
            array = self._slide.zarr_group[str(level)]
            pixels = np.asarray(array[tuple(chosen.get(axis, 0) for axis in axes)])
        except DECODER_ERRORS as error:
            cause = library_message(error, self._path, self._name)
            raise TileReadError(self._name, level, region, cause) from error
        kept = [axis for axis in axes if axis in chosen]
        if "S" not in kept:
            pixels = pixels[..., None]
        elif kept[0] == "S":
            pixels = np.moveaxis(pixels, 0, -1)
        if pixels.shape != (stored.height, stored.width, layout.count) or pixels.dtype != np.uint8:
            raise TileReadError(self.info.name, level, region, f"decoded to the wrong shape {pixels.shape}")
        return upright(layout.rgb(pixels), layout.turn)

    def close(self) -> None:
        """Give the file handle back."""
        self._slide.close()
        self._file.close()

    def _describe(self) -> SlideInfo:
        quantities, first = Quantities(), self._layouts[0]
        size = _stored_size(self._series)
        mpp, objective = self._facts(size, quantities)
        profile, damage = usable_profile(self._series.keyframe.tags.valueof(_ICC_PROFILE))
        sizes = [upright_size(_stored_size(level), first.turn) for level in self._series.levels]
        return SlideInfo(
            name=self._name,
            reader="tiffslide",
            levels=tuple(Level(one, (sizes[0].width / one.width + sizes[0].height / one.height) / 2) for one in sizes),
            mpp=upright_pair(mpp, first.turn) if mpp else None,
            objective=objective,
            vendor=vendor_word(self._vendor()),
            icc_profile=profile,
            warnings=(*first.warnings, *self._others(), *quantities.warnings, *damage),
            compression=read_compression(self._path),
        )

    def _vendor(self) -> str:
        return next((word for flag, word in _FLAGS.items() if getattr(self._tiff, flag)), "tiff")

    def _facts(self, size: Size, quantities: Quantities) -> tuple[tuple[float, float] | None, float | None]:
        """µm per pixel along the stored x and y, and the objective."""
        page, mpp, objective = self._series.keyframe, None, None
        if self._tiff.is_ome:
            mpp, objective = ome_facts(self._tiff.ome_metadata or "", self._place, size, quantities)
        elif begins_as_ome(self._tiff):
            quantities.warn(MALFORMED)
        elif self._vendor() == "aperio":
            words = str(self._tiff.pages.first.description)
            said = quantities.micrometres(_aperio(words, "MPP"), "MPP")
            mpp = (said, said) if said else None
            objective = quantities.magnification(_aperio(words, "AppMag"), "AppMag")
        elif self._vendor() == "hamamatsu":
            objective = quantities.magnification(page.tags.valueof(_SOURCE_LENS), "SourceLens")
        return mpp or _by_resolution(page, quantities), objective

    def _others(self) -> list[str]:
        """Pictures and planes beside the one that is read; of scanners' files these are label, macro and thumbnail."""
        leading = [
            length for axis, length in zip(self._series.axes, self._series.shape, strict=True) if axis not in "YXS"
        ]
        found = [planes_warning(int(np.prod(leading)) - 1)] if leading else []
        rest = [one for one in self._tiff.series if one is not self._series] if self._vendor() == "tiff" else []
        if rest:
            names = ", ".join(_name(one) for one in rest[:5] if _area(one))
            found.append(f"the largest picture is read; the file holds {len(rest)} more, which are not ({names})")
        return found

    def _refuse_other_pixels(self) -> None:
        name = self._name
        for level, layout in zip(self._series.levels, self._layouts, strict=True):
            axes = level.axes
            many = [axis for axis, length in zip(axes, level.shape, strict=True) if axis == "C" and length > 1]
            if not layout.is_convertible or many or axes.strip("ZTIQRC") not in ("YX", "YXS", "SYX"):
                words = f"{layout.words}{', several channels' if many else ''}, axes {axes}"
                raise UnsupportedPixelsError(
                    f"{name}: {words}: only 8-bit RGB or grey pictures are upscaled; export an "
                    "8-bit RGB view of it first, choosing the display range there"
                )
            if layout.turn != self._layouts[0].turn:
                raise UnsupportedPixelsError(
                    f"{name}: its levels are stored turned, and not all alike (tag Orientation); export it upright"
                )
            page = level.pages[0]
            if page is None or 0 in page.databytecounts:
                raise SlideUnreadableError(
                    f"{name}: some of its tiles hold no data, which tifffile would show as black; write the slide "
                    "again with every tile filled"
                )


def _opened(file: BinaryIO, options: dict[str, str | bool]) -> "TiffSlide":
    """TiffSlide on a picture that is chosen here: its own properties fail on what is odd in a file's metadata."""
    from tiffslide import TiffSlide  # half of what starting a probe costs, as it brings zarr

    class ChosenSeries(TiffSlide):  # type: ignore[misc]
        number = 0

        @property
        def properties(self) -> dict[str, Any]:
            return {"tiffslide.series-index": self.number}

    return ChosenSeries(file, tifffile_options=options)


def _stored_size(series: tifffile.TiffPageSeries) -> Size:
    lengths = dict(zip(series.axes, series.shape, strict=True))
    return Size(int(lengths["X"]), int(lengths["Y"]))


def _name(series: tifffile.TiffPageSeries) -> str:
    """For messages: a common word for such pictures where the file uses one, for its own may name a patient."""
    word, size = str(series.name).lower(), _stored_size(series)
    return f"{word + ', ' if word in _BESIDES else ''}{size.width} x {size.height} px"


def _area(series: tifffile.TiffPageSeries) -> int:
    """0 for what is no picture."""
    return _stored_size(series).width * _stored_size(series).height if {"X", "Y"} <= set(series.axes) else 0


def _aperio(words: str, name: str) -> str | None:
    """A value of Aperio's description: `|name = value|`."""
    found = re.search(rf"\|\s*{name}\s*=([^|]*)", words)
    return found[1].strip() if found else None


def _by_resolution(page: tifffile.TiffPage, quantities: Quantities) -> tuple[float, float] | None:
    """µm per pixel by the tags of TIFF itself."""
    unit = _PER_UNIT.get(page.tags.valueof(_RESOLUTION_UNIT, 2))
    if unit is None:
        return None
    x, y = (
        quantities.micrometres(_inverse(page.tags.get(code)), name, unit)
        for code, name in ((_X_RESOLUTION, "XResolution"), (_Y_RESOLUTION, "YResolution"))
    )
    return quantities.pair(x, y)


def _inverse(tag: tifffile.TiffTag | None) -> object:
    """Pixels per unit as units per pixel; what is no number as it is."""
    value = tag.value if tag is not None else None
    if tag is not None and int(tag.dtype) in _FRACTIONS and isinstance(value, tuple):
        return value[::-1]
    value = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return 1 / value if isinstance(value, int | float) and value else value
