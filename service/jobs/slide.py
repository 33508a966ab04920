"""An uploaded slide and its metadata, as stored in the database."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from slidelift.service.errors import refusal

_MOST_PIXELS = 2**31


@dataclass(frozen=True, slots=True)
class SlideLevel:
    """One resolution of a slide: its size in pixels, and level-0 pixels per pixel of it."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True, slots=True)
class SlideCompression:
    """Compression of level 0; see `wsi.slide.Compression`."""

    codec: str
    quality: int | None
    sampling: str | None


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """Metadata of a slide, which jobs are checked against before they are queued.

    Attributes
    ----------
    mpp
        (x, y) in µm per pixel of level 0, None if the slide does not state it.
    compression
        Of level 0; None if unknown.
    is_dark
        Whether its sampled pixels are mostly black, as in fluorescence.
    bounds
        x, y, width, height of the scanned area in level-0 pixels, if the rest of the slide is empty.
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
            raise ValueError("a µm per pixel, an objective or a downsample is not a positive number")

    @classmethod
    def from_probe(cls, facts: Mapping[str, Any]) -> Self:
        """Validate the values that the probe process printed.

        Raises
        ------
        ServiceError
            slide.unreadable: the values are not valid metadata of a slide.
        """
        from pydantic import (  # here, so that the command line can report that pydantic is missing
            TypeAdapter,
            ValidationError,
        )

        try:
            found: Self = TypeAdapter(cls).validate_json(json.dumps(facts), strict=True)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, wrong["loc"])) or "facts"
            raise refusal(
                "slide.unreadable",
                f"the slide's metadata is not valid ({where}: {wrong['msg']}); export the slide again",
            ) from error
        return found


@dataclass(frozen=True, slots=True)
class Slide:
    """A stored slide.

    Attributes
    ----------
    id
        Random; also the name of its folder.
    name
        The user's name for it. It may identify a patient and is not used in paths, logs or results.
    file
        Safe name of its file within the folder.
    created
        Seconds since 1970.
    owner
        Id of the access token that uploaded it, None without tokens.
    """

    id: str
    name: str
    file: str
    bytes: int
    sha256: str
    created: float
    facts: SlideFacts
    owner: str | None = None
