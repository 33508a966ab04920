"""What is asked: one slide, one model, one result."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from slidelift.service.errors import ServiceError, problem
from slidelift.wsi.roi import Roi as Roi  # part of the request's own words

# Wider than any microscope, so that an odd value can be confirmed; beyond lies a slip of the pen.
_LEAST_MPP, _GREATEST_MPP = 0.001, 1000.0


AUTO = "auto"
"""In a model's place: the recommended one (`service.pipeline.recommendation`)."""


class Effort(StrEnum):
    """What matters more where a model is recommended, time or the picture."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


class BadTilePolicy(StrEnum):
    """What to do with a source tile that can't be decoded."""

    FAIL = "fail"
    MARK = "mark"


@dataclass(frozen=True, slots=True)
class UpscaleRequest:
    """One upscale, as the command line, the worker and Python ask for it.

    Attributes
    ----------
    slide, output
        Files of this machine; the output's suffix names its format (.ome.tiff, .ome.tif, .ome.zarr).
    model
        A name of the catalog, a file of weights, or "auto" for what `service.pipeline.recommendation` answers.
    effort
        What "auto" gives more weight to: time or the picture.
    mpp
        The source's µm per pixel at level 0: given where the slide does not say, or to confirm what it says.
    target_mpp
        Wanted µm per pixel of the result; None for the source level's divided by the model's scale.
    level
        Source level; None to choose by target_mpp, else level 0.
    region
        (x, y, width, height) in level-0 pixels; None for the whole slide.
    roi
        Polygons in level-0 pixels: the result is their bounding box, and tiles that none touches are resampled plainly.
    entropy
        Least Shannon entropy in bits of a tissue patch; None for the default, 0 to reject nothing.
    quality
        JPEG quality of an OME-TIFF, 1 to 100.
    scheduler
        Address of a Dask scheduler whose workers make the stripes; None to make them here.
    slide_sha256
        The slide's content hash where the caller already has it.
    chosen_because
        The reason that came with a recommended model; None where the user named the model.
    slide_name
        How messages call the slide; None for the name of its file.

    Raises
    ------
    ServiceError
        A value is out of its range (request.invalid), or both a region and a roi are given (request.roi).
    """

    slide: Path
    output: Path
    model: str = AUTO
    effort: Effort = Effort.BALANCED
    mpp: float | None = None
    target_mpp: float | None = None
    level: int | None = None
    region: tuple[int, int, int, int] | None = None
    entropy: float | None = None
    quality: int = 90
    on_bad_tile: BadTilePolicy = BadTilePolicy.FAIL
    device: str = "auto"
    scheduler: str | None = None
    slide_sha256: str | None = None
    roi: Roi | None = None
    chosen_because: str | None = None
    slide_name: str | None = None

    def __post_init__(self) -> None:
        for name in ("mpp", "target_mpp"):
            value = getattr(self, name)
            if value is not None and not _LEAST_MPP <= value <= _GREATEST_MPP:
                raise _wrong(f"{name} {value:g} is not between {_LEAST_MPP:g} and {_GREATEST_MPP:g} µm per pixel")
        if not 1 <= self.quality <= 100:
            raise _wrong(f"quality {self.quality} is not between 1 and 100")
        if self.entropy is not None and not 0 <= self.entropy <= 8:
            raise _wrong(f"entropy {self.entropy:g} is not between 0 and 8 bits")
        if self.roi is not None and self.region is not None:
            raise ServiceError(problem("request.roi", "give a region or a region of interest, not both"))


def _wrong(detail: str) -> ServiceError:
    return ServiceError(problem("request.invalid", detail))
