"""The images that a viewer can show: a slide, a result, or the finished stripes of a result."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal


class TileFormat(StrEnum):
    """Encoding of a tile."""

    JPEG = "jpeg"
    PNG = "png"


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Files of one image, and its name in messages.

    Attributes
    ----------
    kind
        "stripes" for a result that is not finished.
    path
        The file of the slide or of the result. Of stripes: the future path of the result.
    name
        Name of the image in messages, which never contain `path`.
    format
        Name of the output format; None for a slide.
    slide, mpp
        Only of stripes: the file of the slide, and its µm per pixel where the job gives it.
    report
        Only of a result: the file of its report.
    """

    kind: Literal["slide", "result", "stripes"]
    path: Path
    name: str
    format: str | None = None
    slide: Path | None = None
    mpp: tuple[float, float] | None = None
    report: Path | None = None
