"""Metadata of a slide, and the protocol of slide readers."""

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

# Vendor names of OpenSlide and tiffslide.
_VENDORS = frozenset(
    {"aperio", "dicom", "generic-tiff", "hamamatsu", "huron", "leica", "mirax", "ome", "philips", "sakura", "synthetic"}
    | {"tiff", "trestle", "ventana", "zeiss"}
)


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a slide; `downsample` is the number of level-0 pixels per pixel along one side, at least 1."""

    size: Size
    downsample: float

    def __post_init__(self) -> None:
        if not (self.size.width > 0 and self.size.height > 0 and is_positive(self.downsample)):
            raise ValueError(f"invalid level of a slide: {self.size}, downsample {self.downsample}")


class Codec(StrEnum):
    """Codec of a slide's pixels."""

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
        The nearest libjpeg quality, 1 to 100; None if the codec is not JPEG.
    sampling
        Chroma subsampling "4:4:4", "4:2:2" or "4:2:0"; "RGB" if the channels are stored without a colour transform, as
        in many Aperio files; None if the codec is not JPEG, or for other subsampling.
    quantization_tables
        JPEG quantisation tables, luma first, 64 values each, row by row.
    """

    codec: Codec
    quality: int | None = None
    sampling: str | None = None
    quantization_tables: tuple[tuple[int, ...], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return values for JSON, without the tables."""
        return {"codec": str(self.codec), "quality": self.quality, "sampling": self.sampling}


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """Metadata of a slide.

    Numbers are finite and above zero; a value that is not understood is None (see `wsi.metadata_values`).

    Attributes
    ----------
    mpp
        µm per pixel of level 0 along x and y; None if unknown.
    objective
        Magnification of the scan; None if unknown.
    bounds
        The scanned part of level 0, for formats with an empty margin (MRXS); else None.
    icc_profile
        ICC colour profile.
    warnings
        Warnings of converted or unclear metadata, one sentence each.
    compression
        Compression of level 0; None if unknown.

    Raises
    ------
    ValueError
        A number is NaN, infinite, zero or negative, or there is no level. The reader has an error.
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
            raise ValueError(
                f"invalid slide metadata: {len(self.levels)} levels, {self.mpp} µm, objective {self.objective}"
            )

    @property
    def size(self) -> Size:
        """Size of level 0."""
        return self.levels[0].size

    def resolve_mpp(self, override: float | None) -> tuple[float, float]:
        """µm per pixel of level 0 along x and y: the user's value if given, else the slide's.

        Raises
        ------
        PixelSizeMissingError
            `override` is None and the slide has no pixel size.
        PixelSizeImplausibleError
            `override` is None and the slide's pixel size is outside of 0.05 to 20 µm.
        """
        if override is not None:
            return override, override
        if self.mpp is None:
            raise PixelSizeMissingError(
                f"{self.name}: the file does not state its µm per pixel; pass it as mpp (--mpp on the command line): "
                "about 0.25 for a 40x scan, 0.5 for 20x, 1.0 for 10x"
            )
        low, high = PLAUSIBLE_MPP
        if not all(low <= value <= high for value in self.mpp):
            raise PixelSizeImplausibleError(
                f"{self.name}: the file states {self.mpp[0]:.6g} x {self.mpp[1]:.6g} µm per pixel, which is "
                "implausible for a slide scanner; pass the right value as mpp, or this one to confirm it (--mpp on the "
                "command line)"
            )
        return self.mpp

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str) -> Self:
        """Inverse of `as_dict`, without the colour profile and the quantisation tables.

        A pixel size or objective that is not a number above zero, as in records of earlier versions, becomes None.

        Parameters
        ----------
        name
            Name of the slide for messages.
        """
        mpp, objective, compression = values["mpp"], values["objective"], values.get("compression")
        sizes = [Size(level["width"], level["height"]) for level in values["levels"]]
        return cls(
            name=name,
            reader=str(values.get("reader", "")),
            levels=tuple(Level(size, level["downsample"]) for size, level in zip(sizes, values["levels"], strict=True)),
            mpp=(mpp[0], mpp[1]) if mpp and all(map(is_positive, mpp)) else None,
            objective=objective if is_positive(objective) else None,
            vendor=values["vendor"],
            bounds=Region(*values["bounds"]) if values.get("bounds") else None,
            warnings=tuple(values["warnings"]),
            compression=Compression(Codec(compression["codec"]), compression["quality"], compression["sampling"])
            if compression
            else None,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return values for JSON, with the size of the colour profile instead of the profile."""
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


def known_vendor(vendor: str | None) -> str | None:
    """Normalise a file's vendor name to a known one, else "other", since the file may hold any text."""
    if vendor is None:
        return None
    return name if (name := vendor.lower()) in _VENDORS else "other"


class SlideReader(Protocol):
    """An open slide; `read_region` may be called from any thread."""

    @property
    def info(self) -> SlideInfo:
        """Metadata of the slide."""
        ...

    def read_region(self, level: int, region: Region) -> Pixels:
        """Decode a region of a level.

        Parameters
        ----------
        level
            Index into `info.levels`.
        region
            In pixels of that level; must lie inside it.

        Returns
        -------
        Pixels
            RGB, uint8 (region.height, region.width, 3).

        Raises
        ------
        TileReadError
            The region can't be decoded; other regions can still be read.
        """
        ...

    def close(self) -> None:
        """Close the file handles."""
        ...
