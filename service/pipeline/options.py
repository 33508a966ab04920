"""Options of an upscale and their defaults, defined once for the API, the command line, the client and the pipeline."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from slidelift.service.errors import refusal

AUTO = "auto"
"""Model name that selects the recommended model (`service.pipeline.recommendation`)."""

MIN_MPP, MAX_MPP = 0.001, 1000
"""µm per pixel. Wider than any microscope, so that an unusual value can be confirmed; others are typing errors."""
MIN_QUALITY, MAX_QUALITY = 1, 100
MAX_ENTROPY = 8
"""Entropy in bits of 256 equally frequent grey levels."""


class Effort(StrEnum):
    """Whether a recommendation favours short computing time or image quality."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


class BadTilePolicy(StrEnum):
    """What to do with a source tile that can't be decoded."""

    FAIL = "fail"
    MARK = "mark"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscaleOptions:
    """Options that every way of requesting an upscale offers.

    A region of interest is not among them, since a batch has none and each layer holds it in another form: GeoJSON in
    the API and the client, polygons in `UpscaleRequest`, possibly not loaded in `JobOrder`.

    Attributes
    ----------
    model
        Name in the catalog, or "auto" for the recommended model. A local request may also name a file of weights.
    effort
        What "auto" favours: computing time or image quality.
    mpp
        µm per pixel of level 0, where the slide does not state it, or to confirm what the slide states.
    target_mpp
        Wanted µm per pixel of the result; None for the source level's value divided by the model's scale.
    level
        Source level; None to choose it by `target_mpp`, else level 0.
    region
        (x, y, width, height) in level-0 pixels; None for the whole slide.
    entropy
        Minimum Shannon entropy of a tissue patch in bits; None for the default, 0 to reject nothing.
    quality
        JPEG quality of an OME-TIFF, 1 to 100.
    on_bad_tile
        What to do with a source tile that can't be decoded.
    """

    model: str = AUTO
    effort: Effort = Effort.BALANCED
    mpp: float | None = None
    target_mpp: float | None = None
    level: int | None = None
    region: tuple[int, int, int, int] | None = None
    entropy: float | None = None
    quality: int = 90
    on_bad_tile: BadTilePolicy = BadTilePolicy.FAIL

    def option_values(self) -> dict[str, Any]:
        """The options by name, without the fields that a subclass adds."""
        return {name: getattr(self, name) for name in OPTION_NAMES}

    def require_valid(self) -> None:
        """Raise ServiceError (request.invalid) if a number is out of its range."""
        for name in ("mpp", "target_mpp"):
            value = getattr(self, name)
            if value is not None and not MIN_MPP <= value <= MAX_MPP:
                raise refusal(
                    "request.invalid", f"{name} {value:g} is not between {MIN_MPP:g} and {MAX_MPP:g} µm per pixel"
                )
        if not MIN_QUALITY <= self.quality <= MAX_QUALITY:
            raise refusal("request.invalid", f"quality {self.quality} is not between {MIN_QUALITY} and {MAX_QUALITY}")
        if self.entropy is not None and not 0 <= self.entropy <= MAX_ENTROPY:
            raise refusal("request.invalid", f"entropy {self.entropy:g} is not between 0 and {MAX_ENTROPY:g} bits")


OPTION_NAMES = tuple(field.name for field in fields(UpscaleOptions))
DEFAULTS = UpscaleOptions()
