"""What a slide is: its levels, its µm per pixel, and the protocol that every reader keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from slidelift.wsi.errors import PixelSizeImplausibleError, PixelSizeMissingError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.metadata_values import is_positive

Pixels = NDArray[np.uint8]

# The finest objectives resolve about 0.1 µm per pixel; a whole slide at 20 µm per pixel is a thumbnail.
PLAUSIBLE_MPP = (0.05, 20.0)

# What OpenSlide and tiffslide call the formats that they know.
_VENDORS = frozenset(
    {"aperio", "dicom", "generic-tiff", "hamamatsu", "huron", "leica", "mirax", "ome", "philips", "sakura", "synthetic"}
    | {"tiff", "trestle", "ventana", "zeiss"}
)


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a slide; `downsample` is level 0's pixels per pixel of this one, at least 1."""

    size: Size
    downsample: float

    def __post_init__(self) -> None:
        if not (self.size.width > 0 and self.size.height > 0 and is_positive(self.downsample)):
            raise ValueError(f"no level of a slide: {self.size}, downsample {self.downsample}")


class Codec(StrEnum):
    """How a slide's pixels are stored."""

    JPEG = "jpeg"
    JPEG_2000 = "jpeg-2000"
    LOSSLESS = "lossless"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Compression:
    """The compression of a slide's finest level.

    Attributes
    ----------
    quality
        The nearest libjpeg quality, 1 to 100; None where the codec is not JPEG.
    sampling
        "4:4:4", "4:2:2" or "4:2:0"; "RGB" where the channels are stored without a colour transform, as in many Aperio
        files; None where the codec is not JPEG or the sampling another.
    quantization_tables
        JPEG's quantisation tables, luma first, 64 steps each in the order of rows.
    """

    codec: Codec
    quality: int | None = None
    sampling: str | None = None
    quantization_tables: tuple[tuple[int, ...], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the tables."""
        return {"codec": str(self.codec), "quality": self.quality, "sampling": self.sampling}


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """What a slide says of itself.

    Its numbers are finite and above zero; a value in the file that is not understood is None (`wsi.metadata_values`).

    Attributes
    ----------
    mpp
        µm per pixel of level 0 along x and y; None where the file does not say.
    objective
        Magnification of the scan, None where unknown.
    bounds
        The scanned part of level 0 where the format frames it in emptiness (MRXS), else None.
    icc_profile
        The colour profile's bytes, to be carried over.
    warnings
        What was converted or could mislead, one sentence each.
    compression
        Of level 0; None where the reader can't tell.

    Raises
    ------
    ValueError
        A number is NaN, infinite, zero or negative, or there is no level: a reader's fault.
    """

    name: str
    reader: str
    levels: tuple[Level, ...]
    mpp: tuple[float, float] | None
    objective: float | None
    vendor: str | None
    bounds: Region | None = None
    icc_profile: bytes | None = None
    warnings: tuple[str, ...] = ()
    compression: Compression | None = None

    def __post_init__(self) -> None:
        numbers = (*(self.mpp or ()), *(() if self.objective is None else (self.objective,)))
        if not self.levels or not all(is_positive(number) for number in numbers):
            raise ValueError(f"no slide's values: {len(self.levels)} levels, {self.mpp} µm, objective {self.objective}")

    @property
    def size(self) -> Size:
        """Of level 0."""
        return self.levels[0].size

    def resolve_mpp(self, given: float | None) -> tuple[float, float]:
        """µm per pixel of level 0: what the user gave, else what the slide says if that can be true.

        Raises
        ------
        PixelSizeMissingError, PixelSizeImplausibleError
            The slide says nothing, or something outside 0.05 to 20 µm, and `given` is None.
        """
        if given is not None:
            return given, given
        if self.mpp is None:
            raise PixelSizeMissingError(
                f"{self.name}: the file does not say its µm per pixel; pass it as mpp (--mpp on the command line): "
                "about 0.25 for a 40x scan, 0.5 for 20x, 1.0 for 10x"
            )
        low, high = PLAUSIBLE_MPP
        if not all(low <= value <= high for value in self.mpp):
            raise PixelSizeImplausibleError(
                f"{self.name}: the file says {self.mpp[0]:.6g} x {self.mpp[1]:.6g} µm per pixel, which no slide "
                "scanner has; pass the true value, or this one to confirm it, as mpp (--mpp on the command line)"
            )
        return self.mpp

    @classmethod
    def from_dict(cls, told: Mapping[str, Any], name: str) -> Self:
        """The inverse of `as_dict`, but for the colour profile and the quantisation tables, which it does not hold.

        A pixel size or objective that is no number above zero, as rows of earlier versions may hold, is unknown.

        Parameters
        ----------
        name
            What messages call the slide.
        """
        compression = told.get("compression")
        return cls(
            name=name,
            reader=str(told.get("reader", "")),
            levels=tuple(Level(Size(level["width"], level["height"]), level["downsample"]) for level in told["levels"]),
            mpp=(told["mpp"][0], told["mpp"][1]) if told["mpp"] and all(map(is_positive, told["mpp"])) else None,
            objective=told["objective"] if is_positive(told["objective"]) else None,
            vendor=told["vendor"],
            bounds=Region(*told["bounds"]) if told.get("bounds") else None,
            warnings=tuple(told["warnings"]),
            compression=Compression(Codec(compression["codec"]), compression["quality"], compression["sampling"])
            if compression
            else None,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the profile is told by its size."""
        return {
            "width": self.size.width,
            "height": self.size.height,
            "mpp": list(self.mpp) if self.mpp else None,
            "objective": self.objective,
            "vendor": self.vendor,
            "reader": self.reader,
            "levels": [
                {"width": level.size.width, "height": level.size.height, "downsample": level.downsample}
                for level in self.levels
            ],
            "bounds": [self.bounds.x, self.bounds.y, self.bounds.width, self.bounds.height] if self.bounds else None,
            "icc_profile_bytes": len(self.icc_profile) if self.icc_profile else 0,
            "warnings": list(self.warnings),
            "compression": self.compression.as_dict() if self.compression else None,
        }


def known_vendor(said: str | None) -> str | None:
    """One of a few known words for what a file says of its vendor, else "other": a file may say anything."""
    if said is None:
        return None
    return word if (word := said.lower()) in _VENDORS else "other"


class SlideReader(Protocol):
    """An open slide; `read` may be called from any thread."""

    @property
    def info(self) -> SlideInfo:
        """What the slide says of itself."""
        ...

    def read_region(self, level: int, region: Region) -> Pixels:
        """Decode a region.

        Parameters
        ----------
        level
            Index into `info.levels`.
        region
            In pixels of that level, inside it.

        Returns
        -------
        Pixels
            uint8 (region.height, region.width, 3), RGB.

        Raises
        ------
        TileReadError
            Any of it can't be decoded. Other regions stay readable.
        """
        ...

    def close(self) -> None:
        """Give file handles back."""
        ...
