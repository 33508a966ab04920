"""An uploaded slide as the database knows it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from slidelift.service.errors import refusal

_MOST_PIXELS = 2**31


@dataclass(frozen=True, slots=True)
class SlideLevel:
    """One resolution of a slide: size in its own pixels, and how many level-0 pixels one of them spans."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True, slots=True)
class SlideCompression:
    """How a slide's finest level is compressed; see `wsi.slide.Compression`."""

    codec: str
    quality: int | None
    sampling: str | None


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """What a probe found out; checks that need no pixels are made against it.

    Attributes
    ----------
    mpp
        (x, y) in µm per pixel of level 0 as the slide says, None if it does not.
    compression
        Of level 0; None where the file does not tell.
    is_dark
        Whether its samples are mostly black, as in fluorescence.
    bounds
        x, y, width, height in level-0 pixels of what was scanned, where the slide frames it in emptiness.
    """

    width: int
    height: int
    mpp: tuple[float, float] | None
    objective: float | None
    vendor: str | None
    levels: tuple[SlideLevel, ...]
    warnings: tuple[str, ...] = ()
    bounds: tuple[int, int, int, int] | None = None
    compression: SlideCompression | None = None
    is_dark: bool = False

    def __post_init__(self) -> None:
        sizes = (self.width, self.height, *(side for level in self.levels for side in (level.width, level.height)))
        scales = (*(self.mpp or ()), self.objective, *(level.downsample for level in self.levels))
        if not all(0 < side < _MOST_PIXELS for side in sizes):
            raise ValueError(f"a width or height is not between 1 and {_MOST_PIXELS}")
        if not all(scale is None or (math.isfinite(scale) and scale > 0) for scale in scales):
            raise ValueError("a µm per pixel, an objective or a downsampling is no positive number")

    @classmethod
    def from_probe(cls, facts: Mapping[str, Any]) -> Self:
        """Take the plain values that a probe's process printed.

        Raises
        ------
        ServiceError
            slide.unreadable: they are not what a slide can say of itself, and are not stored.
        """
        from pydantic import TypeAdapter, ValidationError  # here, so that the command line says it where it is missing

        try:
            found: Self = TypeAdapter(cls).validate_json(json.dumps(facts), strict=True)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, wrong["loc"])) or "facts"
            raise refusal(
                "slide.unreadable",
                f"what the slide says of itself can't be used ({where}: {wrong['msg']}); export the slide again",
            ) from error
        return found


@dataclass(frozen=True, slots=True)
class Slide:
    """A slide in storage.

    Attributes
    ----------
    id
        Random; the name of its folder.
    name
        As its user called it: kept here and nowhere else, neither in paths nor in logs nor in results.
    file
        The safe name of its file within the folder.
    created
        Seconds since 1970.
    owner
        Id of the access token that it came with, None where none is asked for.
    """

    id: str
    name: str
    file: str
    bytes: int
    sha256: str
    created: float
    facts: SlideFacts
    owner: str | None = None
