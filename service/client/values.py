"""What the service tells, as values: slides, jobs, models.

They are made tolerantly: members that a later service adds are passed over, so that an older client goes on working.
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
    """What to make of a slide; what is left out is the service's to choose. See `JobRequest` in docs/reference.md."""

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
    """What a recommendation is asked for: a part of `JobOptions`."""

    mpp: float
    target_mpp: float
    level: int
    effort: Literal["fast", "balanced", "best"]


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a slide; `downsample` is level 0's pixels per pixel of this one."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True, slots=True)
class Slide:
    """A slide that lies with the service; `mpp` is µm per pixel (x, y) of level 0, None where it does not say."""

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
    """Which model suits a slide, and why; `model` is None where none is worth its time.

    Attributes
    ----------
    level, scale
        The source level, and the enlargement.
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
    """How far a job is; `eta_seconds` is of the upscaling, None while unknown."""

    tiles_done: int
    tiles_total: int
    tiles_per_second: float | None
    eta_seconds: float | None
    resumed_tiles: int


@dataclass(frozen=True, slots=True)
class JobResult:
    """Where a result lies, what proves a download whole, and how much of the tissue the model enhanced."""

    href: str
    format: str
    bytes: int
    sha256: str
    media_type: str
    summary: str | None
    few_enhanced: bool


@dataclass(frozen=True, slots=True)
class Job:
    """A job at one moment: what was asked, where it stands, what came of it.

    Attributes
    ----------
    state
        ``queued``, ``running``, ``paused``, ``succeeded``, ``failed`` or ``cancelled``.
    revision
        Counts the job's changes.
    error
        Why it failed, else None.
    result
        None until it has succeeded, and after the deletion of its result.
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
        """True where nothing more happens unless somebody asks for it."""
        return self.state in ENDED

    @property
    def result_suffix(self) -> str:
        """Suffix of the file that a download of its result gives."""
        return _SUFFIXES.get(self.format, "")


@dataclass(frozen=True, slots=True)
class Model:
    """A model on offer; `source_mpp` is the range of µm per pixel that it was trained for."""

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


def built(kind: type[Value], found: Any) -> Value:
    """Make a value of the JSON that tells it.

    Raises
    ------
    UnexpectedAnswerError
        A member is missing, or is not what it should be.
    """
    try:
        given = {field.name: _member(field.name, found[field.name]) for field in fields(kind)}  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnexpectedAnswerError(
            f"the answer is no {kind.__name__.lower()} as slidelift tells it ({type(error).__name__}: {error}); "
            "is this the address of a slidelift service, and is the client as new as it?"
        ) from error
    return kind(**given)


def problem_of(found: Mapping[str, Any]) -> Problem:
    """Make the Problem of a body as RFC 9457 has it."""
    status = int(found["status"])
    return Problem(str(found["code"]), str(found["detail"]), status, by_user=status < 500)


def _member(name: str, found: Any) -> Any:
    if found is None:
        return None
    if name in _NESTED:
        return _NESTED[name](found)
    return tuple(found) if isinstance(found, list) else found


_NESTED: dict[str, Callable[[Any], Any]] = {
    "created": datetime.fromisoformat,
    "started": datetime.fromisoformat,
    "finished": datetime.fromisoformat,
    "levels": lambda found: tuple(built(Level, one) for one in found),
    "progress": lambda found: built(JobProgress, found),
    "result": lambda found: built(JobResult, found),
    "error": problem_of,
}
