"""Exceptions of this package.

WsiError
├── SlideError                the file of a slide can't be used; the message names it
│   ├── SlideUnreadableError      no reader can open it, or none of it can be decoded
│   ├── ForeignFileError          it refers to a file that is not its own, or to a link
│   ├── UnsupportedPixelsError    readable, but 16-bit, fluorescence or several channels
│   ├── PixelSizeMissingError     neither the slide nor the request gives µm per pixel
│   └── PixelSizeImplausibleError µm per pixel that no slide scanner has, not confirmed by the request
├── TileReadError             one region can't be decoded
├── PlanError                 the request does not fit this slide
│   ├── NoSuchLevelError          the slide has no level of that number
│   └── RegionError               the region is empty or reaches outside the slide
├── TooCoarseError            a view would decode more pixels than the limit
├── RoiError                  the region of interest is not GeoJSON of polygons
├── OutputFormatError         the suffix of the output is not that of a format
└── VerificationError         a written file does not read back as it should
    └── SegmentDamagedError       the file of one stripe is damaged
"""

import os
from pathlib import Path

from slidelift.errors import SlideliftError
from slidelift.wsi.geometry import Region


class WsiError(SlideliftError):
    """Base class of this package's exceptions."""


class SlideError(WsiError):
    """The file of a slide can't be used."""


class SlideUnreadableError(SlideError):
    """No reader can decode the file."""


class ForeignFileError(SlideError):
    """The slide refers to a file that is not its own; that file was not opened."""


class UnsupportedPixelsError(SlideError):
    """The pixels are readable but are not 8-bit brightfield colour."""


class PixelSizeMissingError(SlideError):
    """The slide has no µm per pixel."""


class PixelSizeImplausibleError(SlideError):
    """The slide has a µm per pixel that no slide scanner has."""


class TileReadError(WsiError):
    """A region of an open slide can't be decoded.

    Attributes
    ----------
    level, region
        What can't be decoded, in pixels of that level.
    cause
        The decoder's message.
    """

    def __init__(self, slide: str, level: int, region: Region, cause: str) -> None:
        super().__init__(
            f"{slide}: level {level}, x {region.x}, y {region.y}, {region.width}x{region.height} px "
            f"can't be decoded ({cause}); scan or export the slide again, or set on_bad_tile to mark "
            "(--on-bad-tile mark) to continue and list such tiles in the report"
        )
        self.level, self.region, self.cause = level, region, cause


class PlanError(WsiError):
    """The request does not fit this slide."""


class NoSuchLevelError(PlanError):
    """The slide has no level of that number."""


class RegionError(PlanError):
    """The region is empty or reaches outside the slide."""


class TooCoarseError(WsiError):
    """A small view of a large slide without a coarse level would decode too many pixels."""


class RoiError(WsiError):
    """The region of interest is not valid."""


class OutputFormatError(WsiError):
    """There is no writer for that suffix."""


class VerificationError(WsiError):
    """A written file failed its check and is not a result."""


class SegmentDamagedError(VerificationError):
    """The segment of one stripe is damaged; only that stripe must be made again."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path.name}: {message}; run it again: only this stripe is made again")
        self.path = path


def without_path(text: str, path: Path, name: str) -> str:
    """Replace a file's path in the message of a library or a process.

    This package's own messages contain the name. Those of decoder libraries contain the path.

    Parameters
    ----------
    text
        The message.
    path
        The file as it was given to the library. The names of files beside it are kept, without their folder.
    name
        Replacement of the path.
    """
    if path == Path(path.name):
        return text
    return text.replace(str(path), name).replace(f"{path.parent}{os.sep}", "")


def library_message(error: BaseException, path: Path, name: str) -> str:
    """Return the message of a decoder library's exception without the file's path; its type if it has no message."""
    return without_path(str(error), path, name) or type(error).__name__
