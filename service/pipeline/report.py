"""The report of a finished job: which slide, model and plan made the result, and the outcome of each tile.

`Report.as_bytes` is ``report.json``, which the REST API, the command line and the viewer read.
"""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from slidelift.service.pipeline.json_values import JsonMismatchError, from_json, to_json
from slidelift.wsi.geometry import Region

Box = tuple[int, int, int, int]
"""x, y, width and height in pixels."""


class ReportError(ValueError):
    """A file or value is not a report, or is damaged."""


class _Documented:
    """Lets the OpenAPI document describe each member by the docstring below it."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, bool]] = {"use_attribute_docstrings": True}


@dataclass(frozen=True, slots=True)
class LevelReport(_Documented):
    """A level of the slide."""

    width: int
    height: int
    downsample: float
    """Pixels of level 0 per pixel of this level."""


@dataclass(frozen=True, slots=True)
class CompressionReport(_Documented):
    """The compression of the slide's level 0."""

    codec: str
    """`jpeg`, `jpeg-2000`, `lossless` or `other`."""
    quality: int | None
    """Nearest libjpeg quality; null where the codec is not JPEG."""
    sampling: str | None
    """Chroma sampling, or `RGB`; null where it is unknown or the codec is not JPEG."""


@dataclass(frozen=True, slots=True)
class SlideReport(_Documented):
    """The source slide."""

    sha256: str
    """Hash of the slide's files."""
    width: int
    height: int
    mpp: tuple[float, float] | None
    """µm per pixel of level 0 along x and y, as stated by the file; null if it states none."""
    objective: float | None
    """Magnification of the scan."""
    vendor: str | None
    reader: str
    levels: tuple[LevelReport, ...]
    bounds: Box | None
    """Scanned part of level 0: x, y, width, height; null where the format has no empty frame."""
    icc_profile_bytes: int
    warnings: tuple[str, ...]
    compression: CompressionReport | None
    """Null if the reader does not know it."""
    mpp_used: tuple[float, float]
    """µm per pixel of level 0 that the result is scaled by."""


@dataclass(frozen=True, slots=True)
class ModelReport(_Documented):
    """The model's card, and how the model was run."""

    name: str
    fingerprint: str
    """Hash of the weights' content."""
    weights_sha256: str | None
    """Hash of the weights' file; null where the model has none."""
    precision: str
    device: str
    tiles_join_exactly: bool
    """False where tiles are cross-faded."""
    kind: str
    """`network` or `interpolation`."""
    architecture: str | None
    parameters: int | None
    scale: int
    source_mpp: tuple[float, float] | None
    """Least and greatest µm per pixel of the sources that the model was trained for."""
    chosen_because: str | None
    """Why the model was recommended; null where the request named it."""
    expectation: str | None
    """What the model gained on sources that are compressed as this slide is."""
    brightfield_only: bool
    back_projection: bool
    """True if a back-projection step follows the network."""
    trained_on: str | None
    licence: str | None
    citation: str | None
    description: str
    notes: str | None


@dataclass(frozen=True, slots=True)
class OutputReport(_Documented):
    """The result."""

    format: str
    suffix: str
    quality: int
    """JPEG quality; used by OME-TIFF alone."""
    uuid: str
    sha256: str
    """Hash of the OME-TIFF, or of the listing of the OME-Zarr's files."""
    width: int
    height: int
    levels: tuple[tuple[int, int], ...]
    """Width and height of each level."""
    mpp: tuple[float, float]
    """µm per pixel along x and y."""
    magnification: float | None
    icc_profile_carried_over: bool


@dataclass(frozen=True, slots=True)
class PlanReport(_Documented):
    """How the source was cut into tiles."""

    level: int
    """Source level."""
    source: Region
    """Region of that level, in its pixels."""
    scale: int
    halo: int
    """Source pixels of context around a tile."""
    fade: int
    """Source pixels over which tiles are cross-faded."""
    batch: int
    entropy: float
    """Least entropy of tissue in bits."""
    core: int
    """Side of a tile in source pixels."""
    rows_per_stripe: int


@dataclass(frozen=True, slots=True)
class WorstTileReport(_Documented):
    """The tile whose result differs most from its source."""

    rmse: float
    """RMSE in grey levels."""
    row: int
    column: int
    region: Box
    """x, y, width, height in pixels of the source level."""
    output_region: Box
    """x, y, width, height in pixels of the result."""


@dataclass(frozen=True, slots=True)
class ConsistencyReport(_Documented):
    """RMSE in grey levels between the source tiles and the result reduced to their size."""

    measured: int
    """Number of tiles that were measured."""
    mean: float
    median: float
    p95: float
    worst: WorstTileReport
    grid: tuple[tuple[float | None, ...], ...]
    """RMSE of each tile, row by row; null where the model did not make the tile."""
    explanation: str


@dataclass(frozen=True, slots=True)
class BadTileReport(_Documented):
    """A tile that was not read or not computed as planned."""

    row: int
    column: int
    region: Box
    """The tile: x, y, width, height in pixels of the source level."""
    affected: Box
    """The part that was affected: x, y, width, height in pixels of the source level."""
    cause: str
    remedy: str
    """What the result contains instead."""


@dataclass(frozen=True, slots=True)
class TilesReport(_Documented):
    """Outcome of the tiles."""

    total: int
    tissue: int
    """Tiles with tissue; those that could not be read count."""
    enhanced: int
    """Tissue tiles that the model made."""
    strayed: int
    """Tissue tiles where the model's output was too far from the source, and was replaced."""
    failed: int
    """Tissue tiles that could not be read or computed."""
    rejected: int
    """Tiles rejected by the entropy threshold."""
    glass: int
    """Tiles that are glass in the low-resolution mask."""
    outside: int
    """Tiles outside the region of interest."""
    few_enhanced: bool
    """True where fewer than nine in ten tissue tiles were enhanced."""
    map: tuple[str, ...]
    """One string per row, with one letter per tile."""
    consistency: ConsistencyReport | None
    """Null where the model made no tile."""
    bad: tuple[BadTileReport, ...]


@dataclass(frozen=True, slots=True)
class SeamReport(_Documented):
    """Visibility of the borders of tiles."""

    figure: float | None
    """Ratio of the result divided by the ratio of the source; null where no border could be measured."""
    result: float | None
    source: float | None
    pixels: int
    """Pixels along the borders that were measured."""
    explanation: str


@dataclass(frozen=True, slots=True)
class StripesReport(_Documented):
    """The stripes of the result."""

    total: int
    resumed: int
    """Stripes that an interrupted run had made."""


@dataclass(frozen=True, slots=True)
class StageSeconds(_Documented):
    """Seconds that each stage took."""

    opening: float
    planning: float
    upscaling: float
    joining: float
    verifying: float


@dataclass(frozen=True, slots=True)
class Report(_Documented):
    """How a result was made: slide, model, plan, tiles, times and warnings."""

    summary: str
    """One sentence: how many of the tissue tiles the model enhanced."""
    software: str
    statement: str
    """Statement that the image is computed and not for primary diagnosis."""
    slide: SlideReport
    model: ModelReport
    output: OutputReport
    plan: PlanReport
    tiles: TilesReport
    seam: SeamReport
    stripes: StripesReport
    seconds_by_stage: StageSeconds
    device_busy: float | None
    """Share of the upscaling stage in which the model computed, 0 to 1; null where a cluster made the stripes."""
    warnings: tuple[str, ...]
    incidents: tuple[str, ...]
    """Deviations from the plan, such as a halved batch."""
    seconds: float
    """Seconds from the opening of the slide to the published result."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values: dict[str, Any] = to_json(self)
        return values

    @classmethod
    def from_dict(cls, values: Any) -> "Report":
        """Inverse of `as_dict`; unknown members are ignored.

        Raises
        ------
        ReportError
            A member is missing or has another type.
        """
        try:
            return from_json(cls, values)
        except JsonMismatchError as error:
            raise ReportError(f"not a slidelift report: {error}") from error

    def as_bytes(self) -> bytes:
        """The text of ``report.json``."""
        return report_text(self.as_dict())

    @classmethod
    def from_bytes(cls, text: bytes) -> "Report":
        """Parse and check the text of ``report.json``; raises ReportError."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ReportError("not a slidelift report: not JSON") from error
        return cls.from_dict(values)


def report_text(values: dict[str, Any]) -> bytes:
    """JSON in UTF-8; each byte of a file name that is not UTF-8 becomes a JSON escape, which Python reads back."""
    return json.dumps(values, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")
