"""Tiles whose source pixels could not all be decoded."""

from dataclasses import dataclass
from enum import StrEnum

from slidelift.wsi.geometry import Region


class Remedy(StrEnum):
    """How a tile of the result was made whose source pixels could not all be decoded."""

    MIRRORED_CONTEXT = "upscaled, with its unreadable surroundings mirrored"
    COARSER_LEVEL = "tile resampled plainly, its unreadable part from a coarser level"
    BLANK = "tile resampled plainly, its unreadable part left blank"


@dataclass(frozen=True, slots=True)
class BadTile:
    """A tile with unreadable source pixels, for the report.

    `unreadable` is the bounding box of these pixels, in pixels of the plan's level.
    """

    row: int
    column: int
    core: Region
    unreadable: Region
    cause: str
    remedy: Remedy
