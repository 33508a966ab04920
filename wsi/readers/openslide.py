"""SVS, NDPI, MRXS, SCN, BIF, VMS, Philips, DICOM and tiled TIFF through libopenslide."""

import struct
import threading
from pathlib import Path

import numpy as np
import openslide
import tifffile
from PIL import Image

from wsi.errors import SlideUnreadableError, TileReadError, UnsupportedPixelsError
from wsi.geometry import Region, Size
from wsi.readers.bounds import pieces_of_openslide, require_small_pieces
from wsi.readers.compression import read_compression
from wsi.slide import Level, Pixels, SlideInfo, vendor_word

# Sound TIFF compressions that libopenslide does not know: JPEG 2000, LZMA, Zstandard, WebP, JPEG XL.
_OTHERS_COMPRESSIONS = {34712, 34925, 50000, 50001, 50002, 52546}
_DAMAGE = (tifffile.TiffFileError, ValueError, LookupError, OSError, struct.error)


def accepts(path: Path) -> bool:
    """Whether libopenslide recognises the file and sees all of it.

    Of an OME-TIFF it sees neither the levels, which are SubIFDs, nor the pixel size in the XML.
    """
    try:
        found = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return False
    return found is not None and not (found == "generic-tiff" and _is_for_tiffslide(path))


def _is_for_tiffslide(path: Path) -> bool:
    try:
        with tifffile.TiffFile(path) as tiff:
            return tiff.is_ome or tiff.pages.first.compression in _OTHERS_COMPRESSIONS
    except _DAMAGE:
        return False  # damaged: OpenSlide's word on it is final


class OpenSlideReader:
    """One slide; reads from any number of threads.

    A libopenslide handle that has failed once fails for ever, in every thread. So a failed read is tried
    once more on a handle of its own: a region that fails there is truly bad, and the others go on with
    the new handle.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._handle = self._open()
        require_small_pieces(path.name, pieces_of_openslide(self._handle))
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
                raise TileReadError(self.info.name, level, region, str(error)) from error
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
            raise SlideUnreadableError(
                f"{self._path.name}: OpenSlide can't open this slide ({error}); it may be cut short, or files that "
                "belong to it may be missing: copy it again, whole"
            ) from error

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
        if vendor == "generic-tiff":
            self._refuse_wide_samples()
        return SlideInfo(
            name=self._path.name,
            reader="openslide",
            levels=tuple(
                Level(Size(*size), downsample)
                for size, downsample in zip(slide.level_dimensions, slide.level_downsamples, strict=True)
            ),
            mpp=_pair(properties, openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y),
            objective=_number(properties, openslide.PROPERTY_NAME_OBJECTIVE_POWER),
            vendor=vendor_word(vendor),
            bounds=_bounds(properties, Size(*slide.dimensions)),
            icc_profile=_icc_profile(slide),
            compression=read_compression(self._path),
        )

    def _refuse_wide_samples(self) -> None:
        """OpenSlide would hand out 16-bit samples cut to 8 bits without a word."""
        try:
            with tifffile.TiffFile(self._path) as tiff:
                page = tiff.pages.first
                bits, samples = page.bitspersample, page.samplesperpixel
        except _DAMAGE as error:
            raise SlideUnreadableError(f"{self._path.name}: damaged TIFF structure ({error})") from error
        if bits != 8:
            raise UnsupportedPixelsError(
                f"{self._path.name}: {samples} x {bits}-bit samples; export the slide as 8-bit RGB first, choosing the "
                "display range there"
            )


def _icc_profile(slide: openslide.OpenSlide) -> bytes | None:
    profile = slide.color_profile
    return bytes(profile.tobytes()) if profile is not None else None


def _number(properties: openslide._PropertyMap, name: str) -> float | None:
    try:
        value = float(properties.get(name, ""))
    except ValueError:
        return None
    return value if value > 0 and np.isfinite(value) else None


def _pair(properties: openslide._PropertyMap, x: str, y: str) -> tuple[float, float] | None:
    first, second = _number(properties, x), _number(properties, y)
    return (first, second) if first and second else None


def _bounds(properties: openslide._PropertyMap, size: Size) -> Region | None:
    names = (
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
    )
    if not all(name in properties for name in names):
        return None
    bounds = Region(*(int(properties[name]) for name in names)).intersect(Region(0, 0, size.width, size.height))
    return None if bounds.is_empty else bounds
