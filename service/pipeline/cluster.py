"""Stripes made by the workers of a Dask cluster, one task a stripe.

Source, result and a user's own weights lie where all machines see them under the same paths. What travels are orders
and problems, never pixels: a worker reads the slide and writes its segments by itself. A segment takes its name when it
is whole, so that a stripe made twice (its worker was thought dead) is the same file put in its own place.
"""

import ipaddress
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distributed import Client, Future, KilledWorker, Security, Worker, WorkerPlugin, get_worker

from models.upscaler import PatchUpscaler, UpscalerFacts, load_upscaler
from service.codes import problem
from service.errors import Problem, ServiceError
from service.pipeline.failures import describe
from service.pipeline.prepare import versions
from service.pipeline.stripe import StripeOrder, stripe_work
from service.pipeline.workspace import Workspace
from service.progress import CancelToken
from service.request import UpscaleRequest
from wsi.readers.open_slide import open_slide
from wsi.slide import SlideReader, companion_files
from wsi.tiling import Stripe

PATIENCE_SECONDS = 120.0
"""How long a cluster may be without a scheduler or a worker before a job gives up."""

_POLL_SECONDS = 0.2
_KEEPER = "slidelift-model"


class Cluster:
    """Makes stripes on a cluster; implements `service.pipeline.local.StripeMaker`. A context manager.

    Parameters
    ----------
    address
        Of the scheduler: ``tls://host:port``, or ``tcp://host:port`` on this machine. Certificates are those of Dask's
        own configuration (``distributed.comm.tls``).
    patience_seconds
        How long to wait for a scheduler and a worker, at the beginning and whenever they are gone.

    Raises
    ------
    ServiceError
        The address is none, or not of this machine and without TLS (cluster.address); no certificates are configured
        (cluster.address).
    """

    def __init__(self, address: str, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._address, self._patience = address, patience_seconds
        self._security = _security(address)
        self._client: Client | None = None

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self._disconnect()

    def load(self, model: str, *, scale: int, device: str, precision: str = "auto") -> UpscalerFacts:
        """Make a model ready on one worker and return what it is there.

        Raises
        ------
        ServiceError
            As `models.upscaler.load_upscaler` on that worker; or no cluster answers (cluster.unreachable).
        """
        path = Path(model)
        self._model = _Model(str(path.absolute()) if path.is_file() else model, scale, device, precision)
        client = self._connected(CancelToken())
        future = client.submit(_facts, self._model, versions(), pure=False, **self._where(client))
        try:
            answer = future.result()
        except Exception as error:
            raise _failure(error, f"loading {model}") from error
        if "problem" in answer:
            raise ServiceError(Problem(**answer["problem"]))
        facts = _Facts(**answer["facts"])
        self._model = _Model(self._model.model, scale, facts.device, facts.precision)
        self._fingerprint = facts.fingerprint
        return facts

    def make(
        self,
        request: UpscaleRequest,
        reader: SlideReader,  # noqa: ARG002 - each worker opens its own
        order: StripeOrder,
        stripes: Sequence[Stripe],
        workspace: Workspace,
        advance: Callable[[int], None],
        cancel: CancelToken,
    ) -> None:
        """See `StripeMaker`; goes on after workers or the scheduler were lost and came back.

        Raises
        ------
        ServiceError
            What a worker met; cluster.unreachable, cluster.workers or runner.crashed where the cluster is at fault.
        """
        sign = workspace.folder.absolute() / f"cluster-{uuid.uuid4().hex[:8]}"
        errand = _Errand(
            slide=str(request.slide.absolute()),
            files=_stamps(request.slide),
            model=self._model,
            fingerprint=self._fingerprint,
            order=order,
            sign=str(sign),
            versions=versions(),
        )
        for old in workspace.folder.glob("cluster-*"):
            old.unlink()
        sign.touch()
        try:
            waiting = {stripe.number: stripe for stripe in stripes}
            while waiting:
                client = self._connected(cancel)
                try:
                    self._make_some(client, errand, waiting, workspace, advance, cancel)
                except (OSError, RuntimeError):
                    if client.status == "running":
                        raise
        finally:
            sign.unlink(missing_ok=True)

    def _make_some(
        self,
        client: Client,
        errand: "_Errand",
        waiting: dict[int, Stripe],
        workspace: Workspace,
        advance: Callable[[int], None],
        cancel: CancelToken,
    ) -> None:
        """Make what is waiting, until all is made or the connection is lost; what is made no longer waits."""
        running: dict[int, Future] = {}
        where = self._where(client)
        lonely_since: float | None = None
        while waiting and client.status == "running":
            cancel.raise_if_cancelled()
            threads = sum(client.nthreads().values())
            lonely_since = None if threads else lonely_since or time.monotonic()
            if lonely_since and time.monotonic() - lonely_since > self._patience:
                raise self._unreachable("no worker")
            for number in waiting:  # a few ahead, so that a worker that joins late finds some left
                if number not in running and len(running) < 2 * threads:
                    running[number] = client.submit(_make, errand, number, pure=False, **where)
            time.sleep(_POLL_SECONDS)
            for number, future in list(running.items()):
                if future.status == "pending":
                    continue
                del running[number]
                if future.status == "finished":
                    self._accept(future.result(), number, workspace)
                    advance(waiting.pop(number).rows * errand.order.plan.columns)
                elif future.status == "error":
                    raise _failure(future.exception(), f"stripe {number}")

    def _accept(self, answer: Mapping[str, Any] | None, number: int, workspace: Workspace) -> None:
        if answer is not None:
            raise ServiceError(Problem(**answer))
        deadline = time.monotonic() + 10  # a network file system shows a new name late
        while workspace.finished_segment(number) is None:
            if time.monotonic() > deadline:
                raise ServiceError(
                    problem(
                        "cluster.workers",
                        f"a worker has made stripe {number}, but not in {workspace.folder.parent} as seen from here; "
                        "let all machines see that folder under the same path",
                    )
                )
            time.sleep(_POLL_SECONDS)

    def _connected(self, cancel: CancelToken) -> Client:
        """A connection to a scheduler that has a worker, made anew where it was lost."""
        deadline = time.monotonic() + self._patience
        missing = "no scheduler"
        while True:
            cancel.raise_if_cancelled()
            if self._client is None:
                try:
                    self._client = Client(
                        self._address, security=self._security, timeout=5, set_as_default=False, name="slidelift"
                    )
                    self._client.register_plugin(_Keeper())
                except ImportError as error:
                    raise _failure(error, "joining the cluster") from error
                except (OSError, TimeoutError) as error:
                    self._disconnect()
                    missing = f"no scheduler ({error})"
            elif self._client.status != "running":
                self._disconnect()
                continue
            elif self._client.nthreads():
                return self._client
            else:
                missing = "no worker"
            if time.monotonic() > deadline:
                raise self._unreachable(missing)
            time.sleep(_POLL_SECONDS)

    def _unreachable(self, missing: str) -> ServiceError:
        detail = f"{self._address}: {missing} for {self._patience:g} s; start it, then ask again"
        return ServiceError(problem("cluster.unreachable", detail))

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close(timeout=2)
            self._client = None

    def _where(self, client: Client) -> dict[str, Any]:
        """One task a GPU, where workers say that they have some."""
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        has_gpus = self._model.device != "cpu" and any(worker["resources"].get("GPU") for worker in workers)
        return {"resources": {"GPU": 1}} if has_gpus else {}


def _security(address: str) -> Security | None:
    try:
        parts = urlsplit(address)
        known = parts.scheme in {"tcp", "tls"} and parts.hostname and parts.port
    except ValueError:
        known = None
    if not known:
        raise ServiceError(problem("cluster.address", f"{address}: not tls://HOST:PORT or tcp://HOST:PORT"))
    if parts.scheme == "tcp":
        if not _is_loopback(str(parts.hostname)):
            raise ServiceError(
                problem(
                    "cluster.address",
                    f"{address}: slides would travel in the clear and anybody could send the workers code; use tls:// "
                    "(docs/cluster.md), or tcp:// on this machine alone",
                )
            )
        return None
    try:
        security = Security(require_encryption=True)
        if security.get_connection_args("client").get("ssl_context") is None:
            raise ValueError("none are configured")
    except (OSError, TypeError, ValueError) as error:
        raise ServiceError(
            problem("cluster.address", f"{address}: certificates can't be used ({error}); see docs/cluster.md")
        ) from error
    return security


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _failure(error: BaseException | None, work: str) -> ServiceError:
    if isinstance(error, KilledWorker):
        return ServiceError(
            problem(
                "runner.crashed",
                f"{work}: the workers that tried died, {error.allowed_failures + 1} of them; the slide may be damaged, "
                "or memory has run out; asking again continues from the finished stripes",
            )
        )
    return ServiceError(
        problem("cluster.workers", f"{work}: {error}; is the same slidelift installed on every worker?")
    )


def _stamps(slide: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, bytes and second of change of each of a slide's files: a worker must see the same."""
    return tuple((file.name, (stat := file.stat()).st_size, int(stat.st_mtime)) for file in companion_files(slide))


# What follows runs on workers.


@dataclass(frozen=True, slots=True)
class _Model:
    model: str
    scale: int
    device: str
    precision: str

    def load(self) -> PatchUpscaler:
        return load_upscaler(self.model, scale=self.scale, device=self.device, precision=self.precision)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a model is on a worker; implements `models.upscaler.UpscalerFacts`."""

    name: str
    scale: int
    halo: int
    exact: bool
    fade: int
    size_multiple: int
    precision: str
    device: str
    batch: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class _Errand:
    """All that a worker needs to make a stripe; it is made as long as the file `sign` is there, in its folder."""

    slide: str
    files: tuple[tuple[str, int, int], ...]
    model: _Model
    fingerprint: str
    order: StripeOrder
    sign: str
    versions: tuple[str, ...]


class _Sign(CancelToken):
    """Set when the errand's sign is gone: its job ended, or began anew."""

    def __init__(self, errand: _Errand) -> None:
        super().__init__()
        self._path = Path(errand.sign)

    @property
    def is_set(self) -> bool:
        """Whether the errand is still wanted."""
        return not self._path.exists()


class _Keeper(WorkerPlugin):  # type: ignore[misc]
    """Keeps the last model on a worker; one stripe at a time uses it."""

    name = _KEEPER
    idempotent = True

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 - Dask's
        self.lock = threading.Lock()
        self._held: tuple[_Model, PatchUpscaler] | None = None

    def upscaler(self, model: _Model) -> PatchUpscaler:
        if self._held is None or self._held[0] != model:
            self._held = None  # the old one's memory goes first
            self._held = model, model.load()
        return self._held[1]


def _keeper() -> _Keeper:
    keeper: _Keeper = get_worker().plugins[_KEEPER]
    return keeper


def _facts(model: _Model, wanted: tuple[str, ...]) -> dict[str, Any]:
    try:
        _require_versions(wanted)
        keeper = _keeper()
        with keeper.lock:
            upscaler = keeper.upscaler(model)
        return {"facts": {name: getattr(upscaler, name) for name in _Facts.__slots__}}
    except Exception as error:  # noqa: BLE001 - the client is told, whatever it is
        traceback.print_exc()
        return {"problem": describe(error).as_dict()}


def _make(errand: _Errand, number: int) -> dict[str, Any] | None:
    try:
        _require_versions(errand.versions)
        keeper = _keeper()
        with keeper.lock:
            _make_alone(errand, number, keeper.upscaler(errand.model))
    except Exception as error:  # noqa: BLE001 - as above
        traceback.print_exc()
        return describe(error).as_dict()
    return None


def _make_alone(errand: _Errand, number: int, upscaler: PatchUpscaler) -> None:
    slide, folder = Path(errand.slide), Path(errand.sign).parent
    here = f"worker {get_worker().name}"
    if upscaler.fingerprint != errand.fingerprint:
        raise ServiceError(problem("cluster.workers", f"{here} has other weights of {upscaler.name}"))
    try:
        same = _stamps(slide) == errand.files
    except OSError as error:
        raise ServiceError(problem("cluster.workers", f"{here} can't read {slide}: {error.strerror}")) from error
    if not same:
        raise ServiceError(problem("cluster.workers", f"{here} sees another {slide} than was asked for"))
    cancel = _Sign(errand)
    cancel.raise_if_cancelled()
    reader = open_slide(slide)
    try:
        with stripe_work(errand.order, reader, upscaler, lambda _: None, cancel) as work:
            stripe = next(stripe for stripe in errand.order.plan.stripes() if stripe.number == number)
            work.run(stripe, folder / Workspace.segment_name(number))
    finally:
        reader.close()


def _require_versions(wanted: tuple[str, ...]) -> None:
    other = [f"{here} instead of {there}" for here, there in zip(versions(), wanted, strict=True) if here != there]
    if other:
        raise ServiceError(
            problem(
                "cluster.workers", f"worker {get_worker().name} has {', '.join(other)}; install the same everywhere"
            )
        )
