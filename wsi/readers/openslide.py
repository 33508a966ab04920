"""SVS, NDPI, MRXS, SCN, BIF, VMS, Philips, DICOM and tiled TIFF through libopenslide."""

import struct
import threading
from pathlib import Path

import numpy as np
import openslide
import tifffile
from PIL import Image

from slidelift.wsi.errors import SlideUnreadableError, TileReadError, UnsupportedPixelsError, library_message
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.icc import usable_profile
from slidelift.wsi.quantities import Quantities
from slidelift.wsi.readers.bounds import pieces_of_openslide, require_small_pieces
from slidelift.wsi.readers.compression import read_compression
from slidelift.wsi.readers.ome import begins_as_ome
from slidelift.wsi.readers.samples import page_size, planes_warning, samples_of, slide_pages
from slidelift.wsi.slide import Level, Pixels, SlideInfo, vendor_word

_DAMAGE = (
    tifffile.TiffFileError, ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    struct.error,
)  # fmt: skip
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Formats that are plain pages of a TIFF, so that tifffile reads what OpenSlide would not show as it is.
_PLAIN = {"generic-tiff", "aperio"}
_SCANS_IN_PARTS = {"leica"}  # whose pages of one size are parts of one slide
# Where vendors' own words stand: OpenSlide's properties leave out what is no plain number, without a word.
_OWN_MPP = {"aperio": ("aperio.MPP", "aperio.MPP")}
_OWN_OBJECTIVE = {
    "aperio": "aperio.AppMag",
    "hamamatsu": "hamamatsu.SourceLens",
    "leica": "leica.objective",
    "mirax": "mirax.GENERAL.OBJECTIVE_MAGNIFICATION",
    "sakura": "sakura.NominalLensMagnification",
    "trestle": "trestle.Objective Power",
    "ventana": "ventana.Magnification",
}


def accepts(path: Path) -> bool:
    """Whether libopenslide recognises the file, sees all of it and shows its pixels as they are.

    Of an OME-TIFF it sees neither the levels, which are SubIFDs, nor the pixel size in the XML.
    """
    try:
        found = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return False
    return found is not None and not (found in _PLAIN and _is_for_tiffslide(path, found))


def _is_for_tiffslide(path: Path, found: str) -> bool:
    try:
        with tifffile.TiffFile(path) as tiff:
            if found != "aperio" and begins_as_ome(tiff):
                return True
            pages, first = list(slide_pages(tiff)), page_size(tiff.pages.first)
            areas = [size.width * size.height for size in map(page_size, pages)]
            return max(areas) > first.width * first.height or not all(
                samples_of(page).is_shown_by_openslide(found) for page in pages
            )
    except _DAMAGE:
        return False  # damaged: OpenSlide's word on it is final


class OpenSlideReader:
    """One slide; reads from any number of threads.

    A libopenslide handle that has failed once fails for ever, in every thread. So a failed read is tried
    once more on a handle of its own: a region that fails there is truly bad, and the others go on with
    the new handle.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._lock = threading.Lock()
        self._told = self._checked_pages()
        self._handle = self._open()
        require_small_pieces(name, pieces_of_openslide(self._handle))
        self.info = self._describe()
        colour = self._handle.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
        self._background = (*bytes.fromhex(colour), 255)

    def read(self, level: int, region: Region) -> Pixels:
        """See `SlideReader.read`; transparent pixels take the slide's background colour, by default white."""
        handle = self._handle
        try:
            image = self._region(handle, level, region)
        except openslide.OpenSlideError:
            self._replace(handle)
            fresh = self._open()
            try:
                image = self._region(fresh, level, region)
            except openslide.OpenSlideError as error:
                cause = library_message(error, self._path, self._name)
                raise TileReadError(self._name, level, region, cause) from error
        if image.getchannel("A").getextrema()[0] != 255:
            canvas = Image.new("RGBA", image.size, self._background)
            canvas.alpha_composite(image)
            image = canvas
        return np.asarray(image.convert("RGB"))

    def close(self) -> None:
        """Give the file handle back."""
        self._handle.close()

    def _open(self) -> openslide.OpenSlide:
        try:
            return openslide.OpenSlide(self._path)
        except openslide.OpenSlideError as error:
            advice = (
                "export it again in a form that OpenSlide reads"
                if "unsupported" in str(error).lower()
                else "it may be cut short, or files that belong to it may be missing: copy it again, whole"
            )
            cause = library_message(error, self._path, self._name)
            raise SlideUnreadableError(f"{self._name}: OpenSlide can't open this slide ({cause}); {advice}") from error

    def _replace(self, failed: openslide.OpenSlide) -> None:
        with self._lock:
            if self._handle is failed:
                self._handle = self._open()

    def _region(self, handle: openslide.OpenSlide, level: int, region: Region) -> Image.Image:
        downsample = self.info.levels[level].downsample
        origin = round(region.x * downsample), round(region.y * downsample)
        image: Image.Image = handle.read_region(origin, level, (region.width, region.height))
        return image

    def _describe(self) -> SlideInfo:
        slide, properties = self._handle, self._handle.properties
        vendor = properties.get(openslide.PROPERTY_NAME_VENDOR)
        quantities = Quantities()
        mpp, objective = _mpp(properties, quantities), _objective(properties, quantities)
        bounds = _bounds(properties, Size(*slide.dimensions), quantities)
        profile, damage = usable_profile(slide._profile)  # `color_profile` raises on a damaged one
        return SlideInfo(
            name=self._name,
            reader="openslide",
            levels=tuple(
                Level(Size(*size), downsample)
                for size, downsample in zip(slide.level_dimensions, slide.level_downsamples, strict=True)
            ),
            mpp=mpp,
            objective=objective,
            vendor=vendor_word(vendor),
            bounds=bounds,
            icc_profile=profile,
            warnings=(*self._told, *quantities.warnings, *damage),
            compression=read_compression(self._path),
        )

    def _checked_pages(self) -> tuple[str, ...]:
        """What to tell of a TIFF's pages; refuses pixels that OpenSlide would not hand out as they are.

        Before the file is opened: OpenSlide calls some of those files damaged.
        """
        vendor = openslide.OpenSlide.detect_format(self._path) or ""
        with self._path.open("rb") as file:
            if file.read(4) not in _TIFF:
                return ()
        try:
            with tifffile.TiffFile(self._path) as tiff:
                pages = list(slide_pages(tiff))
                found = [samples_of(page) for page in pages]
                sizes = [page_size(page) for page in pages]
        except _DAMAGE as error:
            raise SlideUnreadableError(f"{self._name}: its TIFF tables are damaged; copy or export it again") from error
        if odd := next((one for one in found if not one.is_shown_by_openslide(vendor)), None):
            raise UnsupportedPixelsError(
                f"{self._name}: {odd.words}: OpenSlide would not show these pixels as they are; export the slide "
                "upright as 8-bit RGB first, choosing the display range there"
            )
        told = tuple(dict.fromkeys(sentence for one in found for sentence in one.warnings))
        further = sizes.count(max(sizes, key=lambda size: size.width * size.height)) - 1
        return (*told, planes_warning(further)) if further and vendor not in _SCANS_IN_PARTS else told


def _mpp(properties: openslide._PropertyMap, quantities: Quantities) -> tuple[float, float] | None:
    names = openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y
    own = _OWN_MPP.get(properties.get(openslide.PROPERTY_NAME_VENDOR, ""), names)
    x, y = (
        quantities.micrometres(properties.get(one) or properties.get(name), one)
        for one, name in zip(own, names, strict=True)
    )
    return quantities.pair(x, y)


def _objective(properties: openslide._PropertyMap, quantities: Quantities) -> float | None:
    own = _OWN_OBJECTIVE.get(properties.get(openslide.PROPERTY_NAME_VENDOR, ""), "")
    return quantities.magnification(
        properties.get(own) or properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER),
        own or openslide.PROPERTY_NAME_OBJECTIVE_POWER,
    )


def _bounds(properties: openslide._PropertyMap, size: Size, quantities: Quantities) -> Region | None:
    names = (
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
    )
    said = [quantities.whole(properties.get(name), name) for name in names]
    numbers = [number for number in said if number is not None]
    if len(numbers) != len(names):
        return None
    bounds = Region(*numbers).intersect(Region(0, 0, size.width, size.height))
    return None if bounds.is_empty else bounds
