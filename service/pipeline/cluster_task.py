"""The tasks of a cluster's workers: load a model, make a stripe."""

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from distributed import get_worker

from slidelift.models.upscaler import PatchUpscaler, UpscalerFacts, load_upscaler
from slidelift.service.errors import Cancelled, Problem, ServiceError, problem
from slidelift.service.pipeline.failures import describe
from slidelift.service.pipeline.finished import require_finished
from slidelift.service.pipeline.prepare import versions
from slidelift.service.pipeline.progress import CancelToken
from slidelift.service.pipeline.stripe import StripeSettings, open_stripe_maker
from slidelift.service.pipeline.workspace import Workspace
from slidelift.wsi.companions import companion_files
from slidelift.wsi.errors import SegmentDamagedError
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.writers.segment import Segment


def file_stamps(slide: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and modification time of each of a slide's files; a worker must see the same ones."""
    return tuple((file.name, (stat := file.stat()).st_size, int(stat.st_mtime)) for file in companion_files(slide))


@dataclass(frozen=True, slots=True)
class Model:
    """Arguments of `models.upscaler.load_upscaler`."""

    model: str
    scale: int
    device: str
    precision: str

    def load(self) -> PatchUpscaler:
        """Load the model in this process."""
        return load_upscaler(self.model, scale=self.scale, device=self.device, precision=self.precision)


@dataclass(frozen=True, slots=True)
class ClusterTask:
    """Everything that a worker needs to make a stripe.

    The task is valid as long as the file `marker`, in the job's workspace, exists.
    """

    slide: str
    slide_name: str | None
    files: tuple[tuple[str, int, int], ...]
    model: Model
    fingerprint: str
    settings: StripeSettings
    marker: str
    versions: tuple[str, ...]


class _MarkerToken(CancelToken):
    """Set when the task's marker is gone: its job ended or began anew."""

    def __init__(self, task: ClusterTask) -> None:
        super().__init__()
        self._path = Path(task.marker)

    @property
    def is_set(self) -> bool:
        """Whether the job no longer needs the task."""
        return not self._path.exists()


class _ModelCache:
    """Keeps the last model of a worker's process; one stripe at a time uses it.

    Not a plugin of Dask: a restarted scheduler may have lost it, and a frozen worker delays the plugins of the others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cached: tuple[Model, PatchUpscaler, int] | None = None

    @contextmanager
    def upscaler(self, model: Model) -> Iterator[PatchUpscaler]:
        with self._lock:
            if self._cached is None or self._cached[0] != model or self._cached[1].batch != self._cached[2]:
                self._cached = None  # frees the memory first; a batch that was halved is tried whole again
                fresh = model.load()
                self._cached = model, fresh, fresh.batch
            upscaler = self._cached[1]
            upscaler.incidents.clear()
            yield upscaler


_MODELS = _ModelCache()


def load_on_worker(model: Model, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Load the model; return its ``facts`` (`UpscalerFacts`) or a ``problem``."""
    try:
        _require_versions(wanted)
        with _MODELS.upscaler(model) as upscaler:
            return {"facts": {name: getattr(upscaler, name) for name in get_type_hints(UpscalerFacts)}}
    except Exception as error:  # noqa: BLE001 - the client reports any error
        traceback.print_exc()
        return {"problem": describe(error).as_dict()}


def make_on_worker(task: ClusterTask, number: int) -> dict[str, Any] | None:
    """Make one stripe's segment; return None or a problem."""
    try:
        _require_versions(task.versions)
        with _MODELS.upscaler(task.model) as upscaler:
            _make_segment(task, number, upscaler)
    except Cancelled:  # the client waits for the answer only if this worker alone does not see the marker
        return _invisible_folder(Path(task.marker).parent).as_dict()
    except Exception as error:  # noqa: BLE001 - as above
        traceback.print_exc()
        return describe(error).as_dict()
    return None


def _make_segment(task: ClusterTask, number: int, upscaler: PatchUpscaler) -> None:
    slide, folder = Path(task.slide), Path(task.marker).parent
    name = task.slide_name or str(slide)
    here = f"worker {get_worker().name}"
    if upscaler.fingerprint != task.fingerprint:
        raise ServiceError(problem("cluster.workers", f"{here} has other weights of {upscaler.name}"))
    try:
        is_same = file_stamps(slide) == task.files
    except OSError as error:
        raise ServiceError(problem("cluster.workers", f"{here} can't read {name}: {error.strerror}")) from error
    if not is_same:
        raise ServiceError(problem("cluster.workers", f"{here} has other files at {name} than the job's machine"))
    cancel = _MarkerToken(task)
    if cancel.is_set:
        raise ServiceError(_invisible_folder(folder))
    path = folder / Workspace.segment_name(number)
    stripe = next(stripe for stripe in task.settings.plan.stripes() if stripe.number == number)
    with suppress(FileNotFoundError, SegmentDamagedError):  # made by a worker that was lost before it answered
        require_finished(Segment(path), task.settings, stripe)
        return
    reader = open_slide(slide, task.slide_name)
    try:
        with open_stripe_maker(task.settings, reader, upscaler, lambda *_: None, cancel) as maker:
            maker.make(stripe, path)
    finally:
        reader.close()


def _invisible_folder(folder: Path) -> Problem:
    return problem(
        "cluster.workers",
        f"worker {get_worker().name} has other files in {folder.parent} than the job's machine; let all machines see "
        "that folder under the same path",
    )


def _require_versions(wanted: tuple[str, ...]) -> None:
    other = [f"{here} instead of {there}" for here, there in zip(versions(), wanted, strict=True) if here != there]
    if other:
        raise ServiceError(
            problem(
                "cluster.workers", f"worker {get_worker().name} has {', '.join(other)}; install the same everywhere"
            )
        )
