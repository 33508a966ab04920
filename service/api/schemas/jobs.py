"""Schemas of jobs: the requests that create them, and jobs as clients see them."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from slidelift.models.zoo.catalog import catalog
from slidelift.service.api.schemas.fields import Mpp, Pixel, Quality, utc
from slidelift.service.api.schemas.problems import Problem
from slidelift.service.errors import refusal
from slidelift.service.jobs import job as stored
from slidelift.service.jobs.job import JobOrder, JobState, ResultFormat
from slidelift.service.pipeline.options import AUTO, DEFAULTS, MAX_ENTROPY, OPTION_NAMES, BadTilePolicy, Effort
from slidelift.service.pipeline.progress import Stage
from slidelift.wsi.errors import RoiError
from slidelift.wsi.roi import Roi

ROI_MAX_POINTS = 20_000
"""Outlines that people draw have some thousand; the worker reads them once, the database keeps 40 bytes for each."""


class _OptionFields(BaseModel):
    """`UpscaleOptions` as JSON, with the descriptions that OpenAPI shows."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = Field(
        default=DEFAULTS.model,
        max_length=100,
        description="A name of GET /v1/models, or auto for the recommended one.",
        json_schema_extra={"enum": [AUTO, *catalog()]},
    )
    effort: Effort = Field(default=DEFAULTS.effort, description="Whether auto prefers speed or image quality.")
    mpp: Mpp | None = Field(default=None, description="µm per pixel of the source, to state or confirm it.")
    target_mpp: Mpp | None = Field(default=None, description="Wanted µm per pixel of the result.")
    level: Pixel | None = Field(default=None, description="Source level.")
    region: Annotated[list[Pixel], Field(min_length=4, max_length=4)] | None = Field(
        default=None, description="x, y, width, height in level-0 pixels.", examples=[[0, 0, 1024, 1024]]
    )
    format: ResultFormat = ResultFormat.OME_TIFF
    on_bad_tile: BadTilePolicy = Field(
        default=DEFAULTS.on_bad_tile, description="What to do with a tile that can't be decoded."
    )
    entropy: float | None = Field(
        default=None, ge=0, le=MAX_ENTROPY, description="Minimum entropy of tissue in bits; 0 rejects nothing."
    )
    quality: Quality = Field(default=DEFAULTS.quality, description="JPEG quality of an OME-TIFF.")

    def _order(self, slide: str, roi: Roi | None = None) -> JobOrder:
        options = {name: getattr(self, name) for name in OPTION_NAMES}
        region = tuple(self.region) if self.region else None
        return JobOrder(slide=slide, format=self.format, roi=roi, **{**options, "region": region})


class JobRequest(_OptionFields):
    """Request for a job: a slide and the options."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"slide": "0" * 32, "region": [0, 0, 1024, 1024]}]})

    slide: str = Field(max_length=100, description="Id of an uploaded slide.")
    roi: dict[str, Any] | None = Field(
        default=None,
        description="GeoJSON of polygons in level-0 pixels, as QuPath exports it: the result is their bounding box, "
        "and only tiles that they touch go through the model. Not together with region.",
        examples=[{"type": "Polygon", "coordinates": [[[0, 0], [900, 0], [900, 700], [0, 0]]]}],
    )

    def order(self) -> JobOrder:
        """The order of this job."""
        return self._order(self.slide, _roi(self.roi))


class BatchRequest(_OptionFields):
    """Request for a batch: slides and the options."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"slides": ["0" * 32, "1" * 32], "model": "bicubic"}]})

    slides: list[Annotated[str, Field(max_length=100)]] = Field(
        min_length=1, max_length=10_000, description="Ids of uploaded slides."
    )

    def orders(self) -> list[JobOrder]:
        """One order for each slide."""
        return [self._order(slide) for slide in self.slides]


class JobProgress(BaseModel):
    """Progress of a job."""

    model_config = ConfigDict(from_attributes=True)

    tiles_done: int = 0
    tiles_total: int = 0
    tiles_per_second: float | None = None
    eta_seconds: float | None = Field(
        default=None, description="Seconds until upscaling ends, from the measured speed."
    )
    resumed_tiles: int = 0
    device_busy: float | None = Field(default=None, description="Share of time spent in the model, 0 to 1.")


class JobResult(BaseModel):
    """The result file of a job."""

    href: str = Field(description="URL of the file.")
    format: ResultFormat
    bytes: int
    sha256: str
    media_type: str
    summary: str | None = Field(description="A sentence that says how much of the tissue the model enhanced.")
    few_enhanced: bool = Field(description="Whether the model enhanced fewer than nine in ten tissue tiles.")


class Job(BaseModel):
    """A job: its options, state, progress and result."""

    id: str
    slide: str
    model: str
    chosen_because: str | None = Field(description="Why the model was recommended; null where the request named one.")
    mpp: float | None
    target_mpp: float | None
    level: int | None
    region: tuple[int, int, int, int] | None
    roi_points: int | None = Field(description="Number of points of the region of interest; null without one.")
    format: ResultFormat
    on_bad_tile: BadTilePolicy
    entropy: float | None
    quality: int
    state: JobState
    stage: Stage | None
    progress: JobProgress
    attempt: int
    batch: str | None
    revision: int = Field(description="Number of changes of the job so far; the id of its events.")
    cancel_requested: bool
    pause_requested: bool
    created: datetime
    started: datetime | None
    finished: datetime | None
    warnings: list[str]
    error: Problem | None
    result: JobResult | None = Field(description="Null until the job has succeeded, and after the result was deleted.")
    report: str | None = Field(description="URL of the report as JSON; null until the job has succeeded.")
    report_html: str | None = Field(description="URL of the report as an HTML page; deleted with the result.")
    tissue: str | None = Field(description="URL of the tissue outlines as GeoJSON; deleted with the result.")
    events: str = Field(description="URL of the job's event stream.")

    @classmethod
    def of(cls, job: stored.Job, url: str) -> Self:
        """Make the representation of a stored job whose URL is `url`."""
        order = job.order
        has_files = job.state is JobState.SUCCEEDED and job.result_deleted is None
        return cls(
            id=job.id,
            slide=order.slide,
            model=order.model,
            chosen_because=order.chosen_because,
            mpp=order.mpp,
            target_mpp=order.target_mpp,
            level=order.level,
            region=order.region,
            roi_points=order.roi_points,
            format=order.format,
            on_bad_tile=order.on_bad_tile,
            entropy=order.entropy,
            quality=order.quality,
            state=job.state,
            stage=job.progress.stage if job.progress else None,
            progress=JobProgress.model_validate(job.progress) if job.progress else JobProgress(),
            attempt=job.attempt,
            batch=job.batch,
            revision=job.revision,
            pause_requested=job.pause_requested,
            cancel_requested=job.cancel_requested,
            created=utc(job.created),
            started=utc(job.started) if job.started is not None else None,
            finished=utc(job.finished) if job.finished is not None else None,
            warnings=list(job.warnings),
            error=Problem.of(job.problem, url) if job.problem else None,
            result=_result(job, url),
            report=f"{url}/report" if job.state is JobState.SUCCEEDED else None,
            report_html=f"{url}/report.html" if has_files else None,
            tissue=f"{url}/tissue.geojson" if has_files else None,
            events=f"{url}/events",
        )


class JobList(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[Job]
    next: str | None = Field(description="URL of the next page; null on the last page.")


def _roi(geojson: dict[str, Any] | None) -> Roi | None:
    if geojson is None:
        return None
    try:
        roi = Roi.from_geojson(geojson)
    except RoiError as error:
        raise refusal("request.roi", str(error)) from error
    if roi.points > ROI_MAX_POINTS:
        raise refusal("request.roi", f"{roi.points} points; the maximum is {ROI_MAX_POINTS}: simplify the outlines")
    return roi


def _result(job: stored.Job, url: str) -> JobResult | None:
    if job.result is None or job.result_deleted is not None:
        return None
    return JobResult(
        href=f"{url}/result",
        format=job.order.format,
        bytes=job.result.bytes,
        sha256=job.result.sha256,
        media_type=job.order.format.media_type,
        summary=job.result.summary,
        few_enhanced=job.result.few_enhanced,
    )
