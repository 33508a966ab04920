"""Slides, jobs, models and recommendations as frozen dataclasses, made from the service's JSON.

Unknown members are ignored, so that a client works with a newer service.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, TypedDict, TypeVar

from slidelift.service.client.errors import UnexpectedAnswerError
from slidelift.service.errors import Problem

Value = TypeVar("Value")
ENDED = frozenset({"succeeded", "failed", "cancelled"})
_SUFFIXES = {"ome-tiff": ".ome.tiff", "ome-zarr": ".ome.zarr.zip"}


class JobOptions(TypedDict, total=False):
    """Options of a job; the service chooses those that are left out. See `JobRequest` in docs/reference.md."""

    model: str
    effort: Literal["fast", "balanced", "best"]
    mpp: float
    target_mpp: float
    level: int
    region: tuple[int, int, int, int]
    roi: Mapping[str, Any]
    format: Literal["ome-tiff", "ome-zarr"]
    on_bad_tile: Literal["fail", "mark"]
    entropy: float
    quality: int


class RecommendationOptions(TypedDict, total=False):
    """Options of a recommendation, a part of `JobOptions`."""

    mpp: float
    target_mpp: float
    level: int
    effort: Literal["fast", "balanced", "best"]


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a slide; `downsample` is the number of level-0 pixels per pixel, along each axis."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True, slots=True)
class Slide:
    """A slide on the service; `mpp` is µm per pixel (x, y) of level 0, None if the slide does not state it."""

    id: str
    name: str
    bytes: int
    sha256: str
    width: int
    height: int
    mpp: tuple[float, float] | None
    objective: float | None
    vendor: str | None
    levels: tuple[Level, ...]
    warnings: tuple[str, ...]
    created: datetime


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The recommended model for a slide and the reason; `model` is None if no model would improve the slide.

    Attributes
    ----------
    level, scale
        The source level, and output pixels per source pixel.
    mpp
        µm per pixel of the result.
    """

    model: str | None
    level: int | None
    scale: int | None
    mpp: float | None
    reason: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Progress of a job; `eta_seconds` is the remaining time of upscaling, None while unknown."""

    tiles_done: int
    tiles_total: int
    tiles_per_second: float | None
    eta_seconds: float | None
    resumed_tiles: int


@dataclass(frozen=True, slots=True)
class JobResult:
    """Address, size and SHA-256 of a result, and how much of the tissue the model enhanced."""

    href: str
    format: str
    bytes: int
    sha256: str
    media_type: str
    summary: str | None
    few_enhanced: bool


@dataclass(frozen=True, slots=True)
class Job:
    """A job at one moment: its options, state, progress and result.

    Attributes
    ----------
    state
        ``queued``, ``running``, ``paused``, ``succeeded``, ``failed`` or ``cancelled``.
    revision
        Number of the job's changes so far.
    error
        Why the job failed, else None.
    result
        None until the job has succeeded, and after its result was deleted.
    """

    id: str
    slide: str
    model: str
    chosen_because: str | None
    mpp: float | None
    target_mpp: float | None
    level: int | None
    region: tuple[int, int, int, int] | None
    format: str
    on_bad_tile: str
    entropy: float | None
    quality: int
    state: str
    stage: str | None
    progress: JobProgress
    attempt: int
    batch: str | None
    revision: int
    cancel_requested: bool
    pause_requested: bool
    created: datetime
    started: datetime | None
    finished: datetime | None
    warnings: tuple[str, ...]
    error: Problem | None
    result: JobResult | None

    @property
    def is_ended(self) -> bool:
        """Whether the job has succeeded, failed or been cancelled."""
        return self.state in ENDED

    @property
    def result_suffix(self) -> str:
        """Suffix of the downloaded result."""
        return _SUFFIXES.get(self.format, "")


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the service; `source_mpp` is the range of µm per pixel that it was trained for."""

    name: str
    kind: str
    description: str
    architecture: str | None
    scales: tuple[int, ...]
    default_scale: int
    parameters: int | None
    source_mpp: tuple[float, float] | None
    exact: bool
    licence: str | None
    citation: str | None
    sha256: str | None


def from_json(kind: type[Value], values: Any) -> Value:
    """Make a dataclass from its JSON object.

    Raises
    ------
    UnexpectedAnswerError
        A member is missing or has another type.
    """
    try:
        members = {field.name: _member(field.name, values[field.name]) for field in fields(kind)}  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnexpectedAnswerError(
            f"the answer is not a {kind.__name__.lower()} of slidelift ({type(error).__name__}: {error}); is this the "
            "address of a slidelift service, and is the client as new as the service?"
        ) from error
    return kind(**members)


def parse_problem(body: Mapping[str, Any]) -> Problem:
    """Make a Problem from an RFC 9457 body."""
    status = int(body["status"])
    return Problem(str(body["code"]), str(body["detail"]), status, by_user=status < 500)


def _member(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _NESTED:
        return _NESTED[name](value)
    return tuple(value) if isinstance(value, list) else value


_NESTED: dict[str, Callable[[Any], Any]] = {
    "created": datetime.fromisoformat,
    "started": datetime.fromisoformat,
    "finished": datetime.fromisoformat,
    "levels": lambda levels: tuple(from_json(Level, level) for level in levels),
    "progress": lambda progress: from_json(JobProgress, progress),
    "result": lambda result: from_json(JobResult, result),
    "error": parse_problem,
}
