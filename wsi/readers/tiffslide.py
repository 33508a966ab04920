"""The TIFF family in Python, for what libopenslide refuses: OME-TIFF, plain and striped TIFF."""

import math
import struct
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile

from wsi.errors import SlideUnreadableError, TileReadError, UnsupportedPixelsError
from wsi.geometry import Region, Size
from wsi.readers.bounds import bound_streams, pieces_of_tiff, require_small_pieces
from wsi.readers.compression import read_compression
from wsi.readers.references import LoneFile, options_for
from wsi.slide import Level, Pixels, SlideInfo, vendor_word

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ICC_PROFILE = 34675
_OME = "{*}"
_UNITS = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "\u03bcm": 1.0, "nm": 1e-3}
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

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = LoneFile(path)
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        from tiffslide import TiffSlide  # half of what starting a probe costs, as it brings zarr

        path = self._path
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # partial vendor metadata: not used here
                self._slide = TiffSlide(self._file, tifffile_options=options_for(path))
                require_small_pieces(path.name, pieces_of_tiff(self._slide.ts_tifffile))
                bound_streams(self._slide.ts_tifffile)
                self.info = self._describe()
        except (tifffile.TiffFileError, *DECODER_ERRORS) as error:
            told = isinstance(error, (tifffile.TiffFileError, NotImplementedError, OSError))
            raise SlideUnreadableError(
                f"{path.name}: neither OpenSlide nor tiffslide can open this TIFF "
                f"({error if told else 'its tables are damaged'}); copy or export it again"
            ) from error
        self._refuse_other_pixels()

    def read(self, level: int, region: Region) -> Pixels:
        """See `SlideReader.read`; one grey channel becomes three equal ones."""
        downsample = self.info.levels[level].downsample
        origin = _base(region.x, downsample), _base(region.y, downsample)
        try:
            pixels = self._slide.read_region(origin, level, (region.width, region.height), as_array=True)
        except DECODER_ERRORS as error:
            cause = str(error) or type(error).__name__
            raise TileReadError(self.info.name, level, region, cause) from error
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        if pixels.shape != (region.height, region.width, 3):
            raise TileReadError(self.info.name, level, region, f"decoded to the wrong shape {pixels.shape}")
        return np.ascontiguousarray(pixels)

    def close(self) -> None:
        """Give the file handle back."""
        self._slide.close()
        self._file.close()

    def _describe(self) -> SlideInfo:
        slide, properties = self._slide, self._slide.properties
        mpp, magnification = _ome_facts(slide.ts_tifffile)
        if mpp is None and properties.get("tiffslide.mpp-x") and properties.get("tiffslide.mpp-y"):
            mpp = float(properties["tiffslide.mpp-x"]), float(properties["tiffslide.mpp-y"])
        tag = slide.ts_tifffile.pages.first.tags.get(_ICC_PROFILE)
        objective = properties.get("tiffslide.objective-power") or magnification
        return SlideInfo(
            name=self._path.name,
            reader="tiffslide",
            levels=tuple(
                Level(Size(*size), downsample)
                for size, downsample in zip(slide.level_dimensions, slide.level_downsamples, strict=True)
            ),
            mpp=mpp,
            objective=float(objective) if objective else None,
            vendor=vendor_word(properties.get("tiffslide.vendor") or "tiff"),
            icc_profile=bytes(tag.value) if tag is not None else None,
            compression=read_compression(self._path),
        )

    def _refuse_other_pixels(self) -> None:
        page = self._slide.ts_tifffile.pages.first
        kind, samples = page.dtype, page.samplesperpixel
        shown = page.photometric.name if isinstance(page.photometric, tifffile.PHOTOMETRIC) else page.photometric
        readable = (shown in {"RGB", "YCBCR"} and samples == 3) or (shown == "MINISBLACK" and samples == 1)
        axes = self._slide.ts_tifffile.series[0].axes
        if kind != np.uint8 or not readable or axes.strip("QIS") != "YX":
            raise UnsupportedPixelsError(
                f"{self._path.name}: {samples} x {kind} samples, {shown}, axes {axes}: "
                "only 8-bit RGB or grey pictures are upscaled; export an 8-bit RGB view of it first"
            )
        if any(0 in level.pages[0].databytecounts for level in self._slide.ts_tifffile.series[0].levels):
            raise SlideUnreadableError(
                f"{self._path.name}: some of its tiles hold no data, which tifffile would show as black; write the "
                "slide again with every tile filled"
            )


def _base(position: int, downsample: float) -> int:
    """The level-0 coordinate that tiffslide, which truncates, takes back to `position`."""
    base = math.ceil(position * downsample)
    return base if int(base / downsample) == position else base + 1


def _ome_facts(tiff: tifffile.TiffFile) -> tuple[tuple[float, float] | None, float | None]:
    """µm per pixel and magnification of the first image of the OME-XML; the schema's default unit is µm."""
    if not tiff.is_ome:
        return None, None
    root = ElementTree.fromstring(tiff.ome_metadata)  # noqa: S314 - expat expands no external entities
    pixels = root.find(f".//{_OME}Image/{_OME}Pixels")
    objective = root.find(f".//{_OME}Objective")
    sizes = [_micrometres(pixels, axis) for axis in "XY"] if pixels is not None else [None, None]
    mpp = (sizes[0], sizes[1]) if sizes[0] and sizes[1] else None
    power = objective.get("NominalMagnification") if objective is not None else None
    return mpp, float(power) if power else None


def _micrometres(pixels: ElementTree.Element, axis: str) -> float | None:
    size = pixels.get(f"PhysicalSize{axis}")
    factor = _UNITS.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    return float(size) * factor if size and factor else None
