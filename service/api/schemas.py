"""What travels over the wire, and how it is made of what the rooms keep."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, StrictInt

from slidelift.models.zoo.catalog import ModelKind, catalog
from slidelift.service.auth.tokens import Scope
from slidelift.service.errors import Problem, refusal, title
from slidelift.service.jobs.job import Job, JobOrder, JobState, ResultFormat
from slidelift.service.jobs.slide import Slide
from slidelift.service.pipeline.options import (
    AUTO,
    DEFAULTS,
    MAX_ENTROPY,
    MAX_MPP,
    MAX_QUALITY,
    MIN_MPP,
    MIN_QUALITY,
    OPTION_NAMES,
    BadTilePolicy,
    Effort,
)
from slidelift.service.pipeline.progress import Stage
from slidelift.service.uploads.inbox import Seen, UploadState
from slidelift.wsi.errors import RoiError
from slidelift.wsi.roi import Roi
from slidelift.wsi.slide import Codec


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 37.0 is 37, and neither "37" nor true is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


Mpp = Annotated[float, Field(ge=MIN_MPP, le=MAX_MPP, allow_inf_nan=False)]
Pixel = Annotated[StrictInt, Field(ge=0, lt=2**31), BeforeValidator(_whole)]
Quality = Annotated[StrictInt, Field(ge=MIN_QUALITY, le=MAX_QUALITY), BeforeValidator(_whole)]


ROI_MAX_POINTS = 20_000
"""Outlines that people draw have some thousand; the worker reads them once, the database keeps 40 bytes for each."""


class ProblemOut(BaseModel):
    """A problem, RFC 9457; branch on `code`, which is stable."""

    type: str = Field(examples=["urn:slidelift:problem:slide.mpp-missing"])
    title: str
    status: int
    detail: str = Field(description="What happened and what to try.")
    code: str = Field(examples=["slide.mpp-missing"])
    instance: str
    errors: list[dict[str, Any]] | None = Field(default=None, description="With request.invalid: each wrong place.")

    @classmethod
    def of(cls, found: Problem, instance: str) -> Self:
        """What a client sees of a problem that was met earlier."""
        return cls(
            type=f"urn:slidelift:problem:{found.code}",
            title=title(found.code, found.status),
            status=found.status,
            detail=found.detail,
            code=found.code,
            instance=instance,
        )


class LevelOut(BaseModel):
    """One resolution of a slide."""

    model_config = ConfigDict(from_attributes=True)

    width: int
    height: int
    downsample: float


class CompressionOut(BaseModel):
    """How a slide's finest level is compressed."""

    model_config = ConfigDict(from_attributes=True)

    codec: Codec
    quality: int | None = Field(description="The libjpeg quality whose quantisation table is nearest to the file's.")
    sampling: str | None = Field(description="Chroma sampling, or RGB for no colour transform.")


class SlideOut(BaseModel):
    """A slide that was uploaded."""

    id: str
    name: str
    bytes: int
    sha256: str
    width: int
    height: int
    mpp: tuple[float, float] | None = Field(description="µm per pixel (x, y) of level 0, as the slide says.")
    objective: float | None
    vendor: str | None
    levels: list[LevelOut]
    compression: CompressionOut | None = Field(description="Null where the file does not tell.")
    is_dark: bool = Field(description="Whether it is mostly black, as in fluorescence.")
    warnings: list[str]
    created: datetime

    @classmethod
    def of(cls, slide: Slide) -> Self:
        """What a client sees of a slide."""
        facts = slide.facts
        return cls(
            id=slide.id,
            name=slide.name,
            bytes=slide.bytes,
            sha256=slide.sha256,
            width=facts.width,
            height=facts.height,
            mpp=facts.mpp,
            objective=facts.objective,
            vendor=facts.vendor,
            levels=[LevelOut.model_validate(level) for level in facts.levels],
            compression=CompressionOut.model_validate(facts.compression) if facts.compression else None,
            is_dark=facts.is_dark,
            warnings=list(facts.warnings),
            created=moment(slide.created),
        )


class SlidesOut(BaseModel):
    """A page of slides, the newest first."""

    slides: list[SlideOut]
    next: str | None = Field(description="Address of the next page.")


class UriIn(BaseModel):
    """Where a slide is to be fetched from."""

    model_config = ConfigDict(extra="forbid")

    uri: str = Field(
        min_length=1,
        max_length=4096,
        description="A file, s3 or https address; the service's settings say which are allowed.",
        examples=["https://example.org/slide.svs"],
    )
    name: str | None = Field(
        default=None, max_length=255, description="The slide's name; by default the address's end."
    )


class UploadOut(BaseModel):
    """An upload: how much of it is there, and what became of it."""

    id: str
    state: UploadState
    bytes: int = Field(description="What has arrived.")
    total_bytes: int | None = Field(description="Null while nobody has said.")
    expires: datetime = Field(description="When it goes away if nobody touches it.")
    slide: str | None = Field(description="Id of the slide that it became.")
    error: ProblemOut | None = Field(description="Why it failed.")

    @classmethod
    def of(cls, seen: Seen, here: str) -> Self:
        """What a client sees of an upload whose address is `here`."""
        upload, error = seen.upload, seen.upload.error
        return cls(
            id=upload.id,
            state=seen.state,
            bytes=seen.bytes,
            total_bytes=upload.total_bytes,
            expires=moment(seen.expires),
            slide=upload.slide,
            error=None if error is None else ProblemOut.of(error, here),
        )


class _OptionsIn(BaseModel):
    """`UpscaleOptions` as JSON, with the descriptions that OpenAPI shows."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = Field(
        default=DEFAULTS.model,
        max_length=100,
        description="A name of GET /v1/models, or auto for the recommended one.",
        json_schema_extra={"enum": [AUTO, *catalog()]},
    )
    effort: Effort = Field(default=DEFAULTS.effort, description="What auto gives more weight to: time or the picture.")
    mpp: Mpp | None = Field(default=None, description="The source's µm per pixel: gives or confirms it.")
    target_mpp: Mpp | None = Field(default=None, description="Wanted µm per pixel of the result.")
    level: Pixel | None = Field(default=None, description="Source level.")
    region: Annotated[list[Pixel], Field(min_length=4, max_length=4)] | None = Field(
        default=None, description="x, y, width, height in level-0 pixels.", examples=[[0, 0, 1024, 1024]]
    )
    format: ResultFormat = ResultFormat.OME_TIFF
    on_bad_tile: BadTilePolicy = Field(
        default=DEFAULTS.on_bad_tile, description="What a tile that can't be decoded does to the job."
    )
    entropy: float | None = Field(
        default=None, ge=0, le=MAX_ENTROPY, description="Minimum entropy of tissue in bits; 0 takes all."
    )
    quality: Quality = Field(default=DEFAULTS.quality, description="JPEG quality of an OME-TIFF.")

    def _order(self, slide: str, roi: Roi | None = None) -> JobOrder:
        options = {name: getattr(self, name) for name in OPTION_NAMES}
        region = tuple(self.region) if self.region else None
        return JobOrder(slide=slide, format=self.format, roi=roi, **{**options, "region": region})


class JobIn(_OptionsIn):
    """What to make of which slide."""

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


class BatchIn(_OptionsIn):
    """What to make of which slides."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"slides": ["0" * 32, "1" * 32], "model": "bicubic"}]})

    slides: list[Annotated[str, Field(max_length=100)]] = Field(
        min_length=1, max_length=10_000, description="Ids of uploaded slides."
    )

    def orders(self) -> list[JobOrder]:
        """One order for each slide."""
        return [self._order(slide) for slide in self.slides]


class ProgressOut(BaseModel):
    """How far a job is."""

    model_config = ConfigDict(from_attributes=True)

    tiles_done: int = 0
    tiles_total: int = 0
    tiles_per_second: float | None = None
    eta_seconds: float | None = Field(default=None, description="Of upscaling, from the measured speed.")
    resumed_tiles: int = 0
    device_busy: float | None = Field(default=None, description="Share of the time in which the model computed.")


class ResultOut(BaseModel):
    """Where a result can be downloaded, and what proves it whole."""

    href: str
    format: ResultFormat
    bytes: int
    sha256: str
    media_type: str
    summary: str | None = Field(description="How much of the tissue the model enhanced, a sentence.")
    few_enhanced: bool = Field(description="Whether that is less than nine tiles in ten.")


class JobOut(BaseModel):
    """A job: what was asked, where it stands, what came of it."""

    id: str
    slide: str
    model: str
    chosen_because: str | None = Field(description="The reason that came with a recommended model.")
    mpp: float | None
    target_mpp: float | None
    level: int | None
    region: tuple[int, int, int, int] | None
    roi_points: int | None = Field(description="Points of the region of interest, null where none was given.")
    format: ResultFormat
    on_bad_tile: BadTilePolicy
    entropy: float | None
    quality: int
    state: JobState
    stage: Stage | None
    progress: ProgressOut
    attempt: int
    batch: str | None
    revision: int = Field(description="Counts the job's changes; the id of its events.")
    cancel_requested: bool
    pause_requested: bool
    created: datetime
    started: datetime | None
    finished: datetime | None
    warnings: list[str]
    error: ProblemOut | None
    result: ResultOut | None = Field(description="Null until the job has succeeded, and after its deletion.")
    report: str | None = Field(description="Address of the report.")
    report_html: str | None = Field(description="Address of the report as a page, which goes with the result.")
    tissue: str | None = Field(description="Address of the tissue's outlines, which go with the result.")
    events: str = Field(description="Address of the stream of its changes.")

    @classmethod
    def of(cls, job: Job, here: str, error: ProblemOut | None) -> Self:
        """What a client sees of a job whose address is `here`."""
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
            progress=ProgressOut.model_validate(job.progress) if job.progress else ProgressOut(),
            attempt=job.attempt,
            batch=job.batch,
            revision=job.revision,
            pause_requested=job.pause_requested,
            cancel_requested=job.cancel_requested,
            created=moment(job.created),
            started=moment(job.started) if job.started is not None else None,
            finished=moment(job.finished) if job.finished is not None else None,
            warnings=list(job.warnings),
            error=error,
            result=_result(job, here),
            report=f"{here}/report" if job.state is JobState.SUCCEEDED else None,
            report_html=f"{here}/report.html" if has_files else None,
            tissue=f"{here}/tissue.geojson" if has_files else None,
            events=f"{here}/events",
        )


class JobsOut(BaseModel):
    """A page of jobs, the newest first."""

    jobs: list[JobOut]
    next: str | None = Field(description="Address of the next page.")


class BatchOut(BaseModel):
    """A batch: how its jobs stand."""

    id: str
    total: int
    states: dict[JobState, int] = Field(description="How many jobs are in each state that has any.")
    ended: bool = Field(description="True when every job has ended.")
    jobs: str = Field(description="Address of the list of its jobs.")

    @classmethod
    def of(cls, batch: str, jobs: Sequence[Job], href: str) -> Self:
        """What a client sees of a batch."""
        states = Counter(job.state for job in jobs)
        return cls(
            id=batch, total=len(jobs), states=dict(states), ended=all(state.is_ended for state in states), jobs=href
        )


class BadTileOut(BaseModel):
    """A tile that could not be read or computed."""

    row: int
    column: int
    cause: str
    remedy: str


class MapOut(BaseModel):
    """Where a result lies on its slide, and what became of each of its tiles."""

    complete: bool = Field(description="False while the job runs.")
    stripes: list[bool] = Field(description="Which stripes are finished, from top to bottom.")
    place: tuple[float, float, float, float] = Field(
        description="x, y, width, height of the result in pixels of the slide's level 0."
    )
    width: int
    height: int
    scale: int
    tile: int = Field(description="Side of a tile in pixels of the result.")
    mpp: tuple[float, float] | None = Field(description="µm per pixel (x, y) of the result.")
    map: list[str] = Field(
        description="A string a row of tiles, a letter a tile: t tissue, r rejected by its entropy, g glass, o outside "
        "of the region of interest, s where the model strayed from its source and was not believed, b bad, . not yet."
    )
    consistency: list[list[float | None]] = Field(
        description="Of each tile that the model made, RMSE in grey levels between its source and itself reduced."
    )
    bad: list[BadTileOut]


class ModelOut(BaseModel):
    """A model on offer and its facts."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    kind: ModelKind
    description: str
    architecture: str | None
    scales: list[int]
    default_scale: int
    parameters: int | None
    source_mpp: tuple[float, float] | None = Field(description="Trained for sources of this range of µm per pixel.")
    brightfield_only: bool
    exact: bool = Field(description="True where the seams of tiles can't be told from the rest.")
    seam: str | None
    back_projection: bool = Field(description="True where a step after the network holds it to the source.")
    effort: str | None = Field(description="fast, balanced or best for a model that may be recommended.")
    metrics: dict[str, dict[str, float]]
    gains: dict[str, dict[str, float]] = Field(
        description="Evaluation set -> source (none, or Q and the JPEG quality) -> dB of PSNR above bicubic."
    )
    precision_loss: dict[str, float] = Field(description="Precision -> dB of PSNR below fp32.")
    computed_on: str | None = Field(description="Processor and precision of the measurements.")
    recipe: str | None
    iterations: int | None
    degradation: str | None
    commit: str | None
    trained_on: str | None
    licence: str | None
    citation: str | None
    notes: str | None
    sha256: str | None


class RecommendationOut(BaseModel):
    """Which model suits a slide, and why; without a model where none is worth its time."""

    model_config = ConfigDict(from_attributes=True)

    model: str | None
    level: int | None = Field(description="Source level.")
    scale: int | None
    mpp: float | None = Field(description="µm per pixel of the result.")
    reason: str
    warnings: list[str]


class ModelsOut(BaseModel):
    """The models on offer."""

    default: str = Field(description="What a job takes that names none: auto.")
    models: list[ModelOut]


class SessionIn(BaseModel):
    """What a page signs in with."""

    model_config = ConfigDict(extra="forbid")

    token: SecretStr = Field(min_length=1, max_length=200, description="An access token.")


class SessionOut(BaseModel):
    """Who the service takes the caller for."""

    needed: bool = Field(description="Whether the service asks for tokens.")
    signed_in: bool = Field(description="Whether the caller may go on; true where no token is needed.")
    name: str | None = Field(description="As the token's creator called it.")
    scopes: list[Scope] = Field(description="What the caller may do; all that `admin` brings with it, too.")
    expires: datetime | None = Field(description="When the session ends, or the token; null for never.")


class CheckOut(BaseModel):
    """One thing that the service needs to work."""

    ok: bool
    detail: str


class ReadyOut(BaseModel):
    """All that the service needs is there."""

    status: str = "ready"
    checks: dict[str, CheckOut]


class LiveOut(BaseModel):
    """The process answers."""

    status: str = "live"


def moment(seconds: float) -> datetime:
    """A time as it travels."""
    return datetime.fromtimestamp(seconds, UTC)


def _roi(geojson: dict[str, Any] | None) -> Roi | None:
    if geojson is None:
        return None
    try:
        roi = Roi.from_geojson(geojson)
    except RoiError as error:
        raise refusal("request.roi", str(error)) from error
    if roi.points > ROI_MAX_POINTS:
        raise refusal("request.roi", f"{roi.points} points; {ROI_MAX_POINTS} are the most here: simplify the outlines")
    return roi


def _result(job: Job, here: str) -> ResultOut | None:
    if job.result is None or job.result_deleted is not None:
        return None
    return ResultOut(
        href=f"{here}/result",
        format=job.order.format,
        bytes=job.result.bytes,
        sha256=job.result.sha256,
        media_type=job.order.format.media_type,
        summary=job.result.summary,
        few_enhanced=job.result.few_enhanced,
    )
