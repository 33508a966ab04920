"""An uploaded slide as the database knows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


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

    @classmethod
    def from_probe(cls, facts: Mapping[str, Any]) -> Self:
        """Take the plain values that a probe's process printed."""
        return cls(
            width=facts["width"],
            height=facts["height"],
            mpp=tuple(facts["mpp"]) if facts["mpp"] else None,
            objective=facts["objective"],
            vendor=facts["vendor"],
            levels=tuple(SlideLevel(level["width"], level["height"], level["downsample"]) for level in facts["levels"]),
            warnings=tuple(facts["warnings"]),
            bounds=tuple(facts["bounds"]) if facts.get("bounds") else None,
            compression=SlideCompression(**told) if (told := facts.get("compression")) else None,
            is_dark=bool(facts.get("is_dark")),
        )


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
