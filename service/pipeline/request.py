"""Request for one upscale on this machine: slide, output and options."""

from dataclasses import dataclass
from pathlib import Path

from slidelift.service.errors import refusal
from slidelift.service.pipeline.options import UpscaleOptions
from slidelift.wsi.errors import RoiError
from slidelift.wsi.roi import Roi, require_single_area


@dataclass(frozen=True, slots=True)
class UpscaleRequest(UpscaleOptions):
    """One upscale, as the command line, the worker and Python code pass it to the pipeline.

    Attributes
    ----------
    slide, output
        Files of this machine; the output's suffix selects its format (.ome.tiff, .ome.tif, .ome.zarr).
    device
        "auto", "cpu", "cuda" or "cuda:N".
    scheduler
        Address of a Dask scheduler whose workers make the stripes; None to make them here.
    slide_sha256
        Content hash of the slide, if the caller knows it.
    roi
        Polygons in level-0 pixels: the result covers their bounding box, and tiles outside them are only resampled.
    chosen_because
        Reason for the recommended model; None if the user named the model.
    slide_name
        Name of the slide in messages; None for the name of its file.

    Raises
    ------
    ServiceError
        A value is out of its range (request.invalid), or both a region and a region of interest are given
        (request.roi).
    """

    slide: Path
    output: Path
    device: str = "auto"
    scheduler: str | None = None
    slide_sha256: str | None = None
    roi: Roi | None = None
    chosen_because: str | None = None
    slide_name: str | None = None

    def __post_init__(self) -> None:
        self.require_valid()
        try:
            require_single_area(self.region, self.roi)
        except RoiError as error:
            raise refusal("request.roi", str(error)) from error
