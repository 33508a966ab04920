"""Reader for SVS, NDPI, MRXS, SCN, BIF, VMS, Philips, DICOM and tiled TIFF slides, through libopenslide."""

import struct
import threading
from pathlib import Path

import numpy as np
import openslide
import tifffile
from PIL import Image

from slidelift.wsi.errors import SlideUnreadableError, TileReadError, UnsupportedPixelsError, library_message
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.icc import check_profile
from slidelift.wsi.metadata_values import MetadataParser
from slidelift.wsi.readers.compression import read_compression
from slidelift.wsi.readers.decode_limits import check_tile_sizes, openslide_tiles
from slidelift.wsi.readers.ome_metadata import starts_with_ome_xml
from slidelift.wsi.readers.pixel_layout import level_pages, page_size, read_pixel_layout, unread_planes_warning
from slidelift.wsi.slide import Level, Pixels, SlideInfo, known_vendor

_DAMAGE = (
    tifffile.TiffFileError, ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    struct.error,
)  # fmt: skip
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Formats whose levels are plain pages of a TIFF, so that tifffile can read what OpenSlide would not show faithfully.
_PLAIN_TIFF_VENDORS = {"generic-tiff", "aperio"}
_VENDORS_WITH_SEVERAL_AREAS = {"leica"}  # pages of the same size are areas of one slide
# Vendors' own properties. OpenSlide's standard properties silently leave out values that are not plain numbers.
_VENDOR_MPP = {"aperio": ("aperio.MPP", "aperio.MPP")}
_VENDOR_OBJECTIVE = {
    "aperio": "aperio.AppMag",
    "hamamatsu": "hamamatsu.SourceLens",
    "leica": "leica.objective",
    "mirax": "mirax.GENERAL.OBJECTIVE_MAGNIFICATION",
    "sakura": "sakura.NominalLensMagnification",
    "trestle": "trestle.Objective Power",
    "ventana": "ventana.Magnification",
}


def accepts(path: Path) -> bool:
    """Whether libopenslide recognises the file, and reads its levels and pixels faithfully.

    For an OME-TIFF it reads neither the levels, which are SubIFDs, nor the pixel size in the XML.
    """
    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return False
    return vendor is not None and not (vendor in _PLAIN_TIFF_VENDORS and _needs_tiffslide(path, vendor))


def _needs_tiffslide(path: Path, vendor: str) -> bool:
    try:
        with tifffile.TiffFile(path) as tiff:
            if vendor != "aperio" and starts_with_ome_xml(tiff):
                return True
            pages, first = list(level_pages(tiff)), page_size(tiff.pages.first)
            areas = [size.width * size.height for size in map(page_size, pages)]
            return max(areas) > first.width * first.height or not all(
                read_pixel_layout(page).is_shown_by_openslide(vendor) for page in pages
            )
    except _DAMAGE:
        return False  # OpenSlide opens or refuses a damaged file; no more lenient decoder is tried


class OpenSlideReader:
    """Reader of one slide; `read_region` may be called from any number of threads.

    Once a read of a libopenslide handle has failed, all later reads of that handle fail, in every thread. So a failed
    read is repeated once with a new handle. If it fails again, the region is damaged; the new handle serves the others.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._lock = threading.Lock()
        self._page_warnings = self._check_pages()
        self._handle = self._open()
        check_tile_sizes(name, openslide_tiles(self._handle))
        self.info = self._describe()
        colour = self._handle.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
        self._background = (*bytes.fromhex(colour), 255)

    def read_region(self, level: int, region: Region) -> Pixels:
        """See `SlideReader.read_region`; transparent pixels get the slide's background colour, by default white."""
        handle = self._handle
        try:
            image = self._read(handle, level, region)
        except openslide.OpenSlideError:
            self._replace(handle)
            fresh = self._open()
            try:
                image = self._read(fresh, level, region)
            except openslide.OpenSlideError as error:
                cause = library_message(error, self._path, self._name)
                raise TileReadError(self._name, level, region, cause) from error
        if image.getchannel("A").getextrema()[0] != 255:
            canvas = Image.new("RGBA", image.size, self._background)
            canvas.alpha_composite(image)
            image = canvas
        return np.asarray(image.convert("RGB"))

    def close(self) -> None:
        """Close the file handle."""
        self._handle.close()

    def _open(self) -> openslide.OpenSlide:
        try:
            return openslide.OpenSlide(self._path)
        except openslide.OpenSlideError as error:
            advice = (
                "export it again in a form that OpenSlide reads"
                if "unsupported" in str(error).lower()
                else "the file may be cut short, or files that belong to it may be missing: copy the whole slide again"
            )
            cause = library_message(error, self._path, self._name)
            raise SlideUnreadableError(f"{self._name}: OpenSlide can't open this slide ({cause}); {advice}") from error

    def _replace(self, failed: openslide.OpenSlide) -> None:
        with self._lock:
            if self._handle is failed:
                self._handle = self._open()

    def _read(self, handle: openslide.OpenSlide, level: int, region: Region) -> Image.Image:
        downsample = self.info.levels[level].downsample
        origin = round(region.x * downsample), round(region.y * downsample)
        image: Image.Image = handle.read_region(origin, level, (region.width, region.height))
        return image

    def _describe(self) -> SlideInfo:
        slide, properties = self._handle, self._handle.properties
        parser = MetadataParser()
        mpp, objective = _mpp(properties, parser), _objective(properties, parser)
        bounds = _bounds(properties, Size(*slide.dimensions), parser)
        icc_profile, profile_warnings = check_profile(slide._profile)  # `color_profile` raises if it is damaged
        return SlideInfo(
            name=self._name,
            reader="openslide",
            levels=tuple(
                Level(Size(*size), downsample)
                for size, downsample in zip(slide.level_dimensions, slide.level_downsamples, strict=True)
            ),
            mpp=mpp,
            objective=objective,
            vendor=known_vendor(properties.get(openslide.PROPERTY_NAME_VENDOR)),
            bounds=bounds,
            icc_profile=icc_profile,
            warnings=(*self._page_warnings, *parser.warnings, *profile_warnings),
            compression=read_compression(self._path),
        )

    def _check_pages(self) -> tuple[str, ...]:
        """Raise if OpenSlide would not show the pixels of a TIFF faithfully; return warnings about its pages.

        Called before OpenSlide opens the file, since it calls some of those files damaged.
        """
        vendor = openslide.OpenSlide.detect_format(self._path) or ""
        with self._path.open("rb") as file:
            if file.read(4) not in _TIFF_SIGNATURES:
                return ()
        try:
            with tifffile.TiffFile(self._path) as tiff:
                pages = list(level_pages(tiff))
                layouts = [read_pixel_layout(page) for page in pages]
                sizes = [page_size(page) for page in pages]
        except _DAMAGE as error:
            raise SlideUnreadableError(
                f"{self._name}: its TIFF directories are damaged; copy or export the slide again"
            ) from error
        if unsupported := next((layout for layout in layouts if not layout.is_shown_by_openslide(vendor)), None):
            raise UnsupportedPixelsError(
                f"{self._name}: {unsupported.description}: OpenSlide does not show these pixels correctly; export "
                "the slide upright as 8-bit RGB first, choosing the display range there"
            )
        messages = tuple(dict.fromkeys(message for layout in layouts for message in layout.warnings))
        unread = sizes.count(max(sizes, key=lambda size: size.width * size.height)) - 1
        if unread and vendor not in _VENDORS_WITH_SEVERAL_AREAS:
            return *messages, unread_planes_warning(unread)
        return messages


def _mpp(properties: openslide._PropertyMap, parser: MetadataParser) -> tuple[float, float] | None:
    names = openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y
    vendor_names = _VENDOR_MPP.get(properties.get(openslide.PROPERTY_NAME_VENDOR, ""), names)
    x, y = (
        parser.pixel_size(properties.get(vendor_name) or properties.get(name), vendor_name)
        for vendor_name, name in zip(vendor_names, names, strict=True)
    )
    return parser.pixel_size_xy(x, y)


def _objective(properties: openslide._PropertyMap, parser: MetadataParser) -> float | None:
    vendor_name = _VENDOR_OBJECTIVE.get(properties.get(openslide.PROPERTY_NAME_VENDOR, ""), "")
    return parser.magnification(
        properties.get(vendor_name) or properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER),
        vendor_name or openslide.PROPERTY_NAME_OBJECTIVE_POWER,
    )


def _bounds(properties: openslide._PropertyMap, size: Size, parser: MetadataParser) -> Region | None:
    names = (
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
    )
    values = [parser.pixel_count(properties.get(name), name) for name in names]
    numbers = [number for number in values if number is not None]
    if len(numbers) != len(names):
        return None
    bounds = Region(*numbers).intersect(Region(0, 0, size.width, size.height))
    return None if bounds.is_empty else bounds
