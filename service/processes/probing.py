"""Probes a slide: reads its metadata and checks that samples of it can be decoded."""

from pathlib import Path
from typing import Any

import numpy as np

from slidelift.wsi.errors import PixelSizeImplausibleError, PixelSizeMissingError, SlideUnreadableError, TileReadError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.slide import Pixels, SlideReader
from slidelift.wsi.tissue import looks_dark

_SAMPLE_SIDE = 256


def probe(path: Path, name: str | None = None) -> dict[str, Any]:
    """Return a slide's metadata after decoding nine samples of its finest level, and one of each other level.

    Parameters
    ----------
    name
        Name of the slide in messages; None for the name of its file.

    Raises
    ------
    WsiError
        The slide can't be opened, or none of the nine samples can be decoded.
    """
    name = name or path.name
    reader = open_slide(path, name)
    try:
        regions = _sample_regions(reader)
        samples, failures = _decode(reader, regions)
        if not samples:
            raise SlideUnreadableError(
                f"{name}: none of its {len(failures)} sample tiles can be decoded ({failures[0].cause}); the slide is "
                "damaged: copy or export it again"
            )
        facts = {**reader.info.as_dict(), "is_dark": looks_dark(np.concatenate(samples))}
        try:
            reader.info.resolve_mpp(None)
        except PixelSizeImplausibleError:
            facts["warnings"].append(
                "the µm per pixel is implausible for a slide scanner; a job must correct or confirm it as mpp"
            )
        except PixelSizeMissingError:
            pass  # `mpp` is None in the facts
        facts["warnings"].extend(_warnings_of_levels(reader))
        if failures:
            facts["warnings"].append(f"{len(failures)} of {len(regions)} sample tiles can't be decoded")
        return facts
    finally:
        reader.close()


def _sample_regions(reader: SlideReader) -> list[Region]:
    size = reader.info.size
    side = _sample_size(size)
    return [
        Region((size.width - side.width) * x // 2, (size.height - side.height) * y // 2, side.width, side.height)
        for y in range(3)
        for x in range(3)
    ]


def _sample_size(size: Size) -> Size:
    return Size(min(_SAMPLE_SIDE, size.width), min(_SAMPLE_SIDE, size.height))


def _warnings_of_levels(reader: SlideReader) -> list[str]:
    """Warn of each level below the finest whose middle can't be decoded."""
    warnings = []
    for number, level in enumerate(reader.info.levels[1:], start=1):
        side = _sample_size(level.size)
        x, y = (level.size.width - side.width) // 2, (level.size.height - side.height) // 2
        try:
            reader.read_region(number, Region(x, y, side.width, side.height))
        except TileReadError as error:
            warnings.append(f"level {number} can't be decoded in its middle ({error.cause}); do not use it for a job")
    return warnings


def _decode(reader: SlideReader, regions: list[Region]) -> tuple[list[Pixels], list[TileReadError]]:
    """Decode each region; return the decoded pixels, and the errors of the other regions."""
    samples, failures = [], []
    for region in regions:
        try:
            samples.append(reader.read_region(0, region))
        except TileReadError as error:
            failures.append(error)
    return samples, failures
