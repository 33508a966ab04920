"""A stripe as an errand: what a cluster's worker is told, and what it does."""

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


def stamps(slide: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, bytes and second of change of each of a slide's files: a worker must see the same."""
    return tuple((file.name, (stat := file.stat()).st_size, int(stat.st_mtime)) for file in companion_files(slide))


@dataclass(frozen=True, slots=True)
class Model:
    """What `models.upscaler.load_upscaler` is asked for."""

    model: str
    scale: int
    device: str
    precision: str

    def load(self) -> PatchUpscaler:
        """Load it here."""
        return load_upscaler(self.model, scale=self.scale, device=self.device, precision=self.precision)


@dataclass(frozen=True, slots=True)
class ClusterTask:
    """All that a worker needs to make a stripe; it is made as long as the file `sign` is there, in its folder."""

    slide: str
    slide_name: str | None
    files: tuple[tuple[str, int, int], ...]
    model: Model
    fingerprint: str
    settings: StripeSettings
    sign: str
    versions: tuple[str, ...]


class _Sign(CancelToken):
    """Set when the errand's sign is gone: its job ended, or began anew."""

    def __init__(self, errand: ClusterTask) -> None:
        super().__init__()
        self._path = Path(errand.sign)

    @property
    def is_set(self) -> bool:
        """Whether the errand is still wanted."""
        return not self._path.exists()


class _Keeper:
    """Keeps the last model of a worker's process; one stripe at a time uses it.

    No plugin of Dask's: a scheduler that was restarted may know of none, and a frozen worker holds up the others'.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: tuple[Model, PatchUpscaler, int] | None = None

    @contextmanager
    def upscaler(self, model: Model) -> Iterator[PatchUpscaler]:
        with self._lock:
            if self._held is None or self._held[0] != model or self._held[1].batch != self._held[2]:
                self._held = None  # the old one's memory goes first; a batch that was halved is tried whole again
                fresh = model.load()
                self._held = model, fresh, fresh.batch
            upscaler = self._held[1]
            upscaler.incidents.clear()
            yield upscaler


_KEEPER = _Keeper()


def load_there(model: Model, wanted: tuple[str, ...]) -> dict[str, Any]:
    """A worker's task: make the model ready; its ``facts`` (`UpscalerFacts`), or the ``problem`` that was met."""
    try:
        _require_versions(wanted)
        with _KEEPER.upscaler(model) as upscaler:
            return {"facts": {name: getattr(upscaler, name) for name in get_type_hints(UpscalerFacts)}}
    except Exception as error:  # noqa: BLE001 - the client is told, whatever it is
        traceback.print_exc()
        return {"problem": describe(error).as_dict()}


def make_there(errand: ClusterTask, number: int) -> dict[str, Any] | None:
    """A worker's task: make one stripe's segment; None, or the problem that was met."""
    try:
        _require_versions(errand.versions)
        with _KEEPER.upscaler(errand.model) as upscaler:
            _make_alone(errand, number, upscaler)
    except Cancelled:  # nobody waits for the answer, unless only this worker thinks so
        return _unseen(Path(errand.sign).parent).as_dict()
    except Exception as error:  # noqa: BLE001 - as above
        traceback.print_exc()
        return describe(error).as_dict()
    return None


def _make_alone(errand: ClusterTask, number: int, upscaler: PatchUpscaler) -> None:
    slide, folder = Path(errand.slide), Path(errand.sign).parent
    name = errand.slide_name or str(slide)
    here = f"worker {get_worker().name}"
    if upscaler.fingerprint != errand.fingerprint:
        raise ServiceError(problem("cluster.workers", f"{here} has other weights of {upscaler.name}"))
    try:
        same = stamps(slide) == errand.files
    except OSError as error:
        raise ServiceError(problem("cluster.workers", f"{here} can't read {name}: {error.strerror}")) from error
    if not same:
        raise ServiceError(problem("cluster.workers", f"{here} sees another {name} than was asked for"))
    cancel = _Sign(errand)
    if cancel.is_set:
        raise ServiceError(_unseen(folder))
    path = folder / Workspace.segment_name(number)
    stripe = next(stripe for stripe in errand.settings.plan.stripes() if stripe.number == number)
    with suppress(FileNotFoundError, SegmentDamagedError):  # made by one that could not say so any more
        require_finished(Segment(path), errand.settings, stripe)
        return
    reader = open_slide(slide, errand.slide_name)
    try:
        with open_stripe_maker(errand.settings, reader, upscaler, lambda *_: None, cancel) as maker:
            maker.make(stripe, path)
    finally:
        reader.close()


def _unseen(folder: Path) -> Problem:
    return problem(
        "cluster.workers",
        f"worker {get_worker().name} does not see {folder.parent} as the job's own machine does; let all machines see "
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
