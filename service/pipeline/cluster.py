"""Makes stripes on the workers of a Dask cluster, one task per stripe.

The slide, the result and a user's own weights must have the same paths on all machines. Only tasks and problems are
sent, no pixels: each worker reads the slide and writes the segments itself. A segment gets its file name when it is
complete. If a stripe is made twice, because its first worker seemed dead, the second file replaces an identical one.
"""

import ipaddress
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

from distributed import Client, Future, KilledWorker, Security
from distributed.comm import CommClosedError

from slidelift.models.upscaler import OpenedModel, UpscalerFacts
from slidelift.service.errors import Problem, ServiceError, problem
from slidelift.service.pipeline.cluster_task import ClusterTask, Model, file_stamps, load_on_worker, make_on_worker
from slidelift.service.pipeline.finished import require_finished
from slidelift.service.pipeline.prepare import versions
from slidelift.service.pipeline.progress import CancelToken, Tally
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.stripe import StripeSettings
from slidelift.service.pipeline.stripe_record import segment_tally
from slidelift.service.pipeline.tile_upscaling import Advance
from slidelift.service.pipeline.workspace import Workspace
from slidelift.wsi.slide import SlideReader
from slidelift.wsi.tiling import Stripe, TilePlan
from slidelift.wsi.writers.segment import Segment

PATIENCE_SECONDS = 120.0
"""Maximum time without a scheduler or a worker before a job fails."""

_POLL_SECONDS = 0.2
_KEEP_ALIVE_SECONDS = 15.0
_TIMEOUT_SECONDS = 10.0
_CONNECTION_ERRORS = (CommClosedError, ConnectionError, CancelledError, TimeoutError)
"""Errors after the connection to the scheduler is lost. TimeoutError: a result was lost together with its worker."""


class ClusterExecutor:
    """Makes stripes on a cluster; implements `service.pipeline.local.StripeExecutor`. A context manager.

    Parameters
    ----------
    address
        Address of the scheduler: ``tls://host:port``, or ``tcp://host:port`` on this machine. The certificates are
        those of Dask's configuration (``distributed.comm.tls``).
    cancel
        Checked whenever the executor waits.
    on_wait
        Called every 15 seconds while a model is loaded. Loading takes long if the workers are making other stripes.
    patience_seconds
        How long to wait for a scheduler and a worker, at the start and whenever they are lost.

    Raises
    ------
    ServiceError
        cluster.address: the address is invalid or names another machine without TLS, or no certificates are
        configured.
    """

    def __init__(
        self,
        address: str,
        cancel: CancelToken,
        on_wait: Callable[[], None],
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._host, self._port, self._security = _endpoint(address)
        self._address, self._cancel, self._patience = address, cancel, patience_seconds
        self._on_wait = on_wait
        self._client: Client | None = None
        self._without_workers_since: float | None = None
        self._on_gpus = False

    def __enter__(self) -> "ClusterExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        self._disconnect()

    def load(self, model: OpenedModel, *, scale: int, device: str, precision: str = "auto") -> UpscalerFacts:
        """Load a model on one worker and return its facts.

        Raises
        ------
        ServiceError
            The problem of `models.upscaler.load_upscaler` on that worker; cluster.unreachable if the scheduler or all
            workers remain unavailable.
        """
        path = Path(model.model)
        self._model = Model(str(path.absolute()) if path.is_file() else model.model, scale, device, precision)
        answer = None
        while answer is None:
            self._on_gpus = False
            client = self._connected()
            with self._disconnect_if_lost(client):
                self._on_gpus = device != "cpu" and any(_has_gpu(worker) for worker in self._workers(client))
                future = client.submit(load_on_worker, self._model, versions(), pure=False, resources=self._resources)
                last_report = time.monotonic()
                while future.status == "pending":
                    self._require_workers(client)
                    self._pause()
                    if time.monotonic() - last_report > _KEEP_ALIVE_SECONDS:
                        last_report = time.monotonic()
                        self._on_wait()
                if future.status == "error":
                    raise _failure(future.exception(timeout=_TIMEOUT_SECONDS), f"loading {model.model}")
                answer = future.result(timeout=_TIMEOUT_SECONDS)
        if "problem" in answer:
            raise ServiceError(Problem(**answer["problem"]))
        facts = cast(UpscalerFacts, SimpleNamespace(**answer["facts"]))
        self._model = Model(self._model.model, scale, facts.device, facts.precision)
        self._fingerprint = facts.fingerprint
        self._on_gpus = self._on_gpus and facts.device != "cpu"
        return facts

    def trial(self, plan: TilePlan, passed: int) -> float | None:  # noqa: ARG002 - part of the protocol
        """Return None: the speed of one worker does not predict the speed of the cluster."""
        return None

    def make(
        self,
        request: UpscaleRequest,
        reader: SlideReader,  # noqa: ARG002 - each worker opens its own
        settings: StripeSettings,
        stripes: Sequence[Stripe],
        workspace: Workspace,
        advance: Advance,
    ) -> None:
        """See `StripeExecutor`. Continues when lost workers or a lost scheduler are available again.

        Raises
        ------
        ServiceError
            The problem of a worker; cluster.unreachable, cluster.workers or runner.crashed for faults of the cluster.
        """
        marker = workspace.folder.absolute() / f"cluster-{uuid.uuid4().hex[:8]}"
        task = ClusterTask(
            slide=str(request.slide.absolute()),
            slide_name=request.slide_name,
            files=file_stamps(request.slide),
            model=self._model,
            fingerprint=self._fingerprint,
            settings=settings,
            marker=str(marker),
            versions=versions(),
        )
        for old in workspace.folder.glob("cluster-*"):
            old.unlink()
        marker.touch()
        try:
            waiting = {stripe.number: stripe for stripe in stripes}
            while waiting:
                client = self._connected()
                with self._disconnect_if_lost(client):
                    self._make_waiting(client, task, waiting, workspace, advance)
        finally:
            marker.unlink(missing_ok=True)

    def _make_waiting(
        self,
        client: Client,
        task: ClusterTask,
        waiting: dict[int, Stripe],
        workspace: Workspace,
        advance: Advance,
    ) -> None:
        """Make the stripes in `waiting`. Each is removed when it is finished, and not repeated after a reconnection."""
        running: dict[int, Future] = {}
        last_report = time.monotonic()
        while waiting:
            threads = sum(int(worker["nthreads"]) for worker in self._require_workers(client))
            max_running = 2 * threads  # the rest is left for workers that join later
            for number in waiting:
                if number not in running and len(running) < max_running:
                    running[number] = client.submit(make_on_worker, task, number, pure=False, resources=self._resources)
            self._pause()
            if time.monotonic() - last_report > _KEEP_ALIVE_SECONDS:  # so that a long stripe does not count as a stall
                last_report = time.monotonic()
                advance(Tally(), None)
            for number, future in list(running.items()):
                if future.status == "pending":
                    continue
                del running[number]
                if future.status == "error":
                    raise _failure(future.exception(timeout=_TIMEOUT_SECONDS), f"stripe {number}")
                answer = future.result(timeout=_TIMEOUT_SECONDS)
                segment = self._open_segment(answer, task.settings, waiting[number], workspace)
                del waiting[number]
                advance(segment_tally(segment), None)

    def _open_segment(
        self, answer: Mapping[str, Any] | None, settings: StripeSettings, stripe: Stripe, workspace: Workspace
    ) -> Segment:
        """Open the segment that a worker has written, or raise the worker's problem."""
        if answer is not None:
            raise ServiceError(Problem(**answer))
        deadline = time.monotonic() + _TIMEOUT_SECONDS  # a new file may appear late in a network file system

        def require(segment: Segment) -> None:
            require_finished(segment, settings, stripe)

        while (segment := workspace.finished_segment(stripe.number, require)) is None:
            if time.monotonic() > deadline:
                raise ServiceError(
                    problem(
                        "cluster.workers",
                        f"a worker has made stripe {stripe.number}, but its file does not appear in "
                        f"{workspace.folder.parent} on this machine; mount that folder under the same path "
                        "on all machines",
                    )
                )
            self._pause()
        return segment

    def _connected(self) -> Client:
        """Return a client of a scheduler with workers; reconnect if the connection was lost."""
        deadline = time.monotonic() + self._patience
        missing = "no scheduler"
        while True:
            try:
                if self._client is None:
                    # A Client that can't connect leaks resources, so the port is tested first.
                    socket.create_connection((self._host, self._port), timeout=5).close()
                    self._client = Client(
                        self._address, security=self._security, timeout=5, set_as_default=False, name="slidelift"
                    )
                if self._workers(self._client):
                    self._without_workers_since = None
                    return self._client
                missing = self._no_worker
            except _CONNECTION_ERRORS as error:
                self._disconnect()
                missing = f"no scheduler ({error})"
            if time.monotonic() > deadline:
                raise self._unreachable(missing)
            self._pause()

    @contextmanager
    def _disconnect_if_lost(self, client: Client) -> Iterator[None]:
        """Disconnect and continue after errors of a lost connection; the caller reconnects."""
        try:
            yield
        except _CONNECTION_ERRORS:
            self._disconnect()
        except RuntimeError:  # raised by a client that has noticed the loss
            if client.status == "running":
                raise
            self._disconnect()

    def _workers(self, client: Client) -> list[dict[str, Any]]:
        """Return the workers that can make a stripe now."""
        try:
            info = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=_TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise CommClosedError("it does not respond") from error
        workers = [worker for worker in info["workers"].values() if worker.get("status", "running") == "running"]
        return [worker for worker in workers if _has_gpu(worker) or not self._on_gpus]

    def _require_workers(self, client: Client) -> list[dict[str, Any]]:
        """Return `_workers`; raise cluster.unreachable if there have been none for `patience_seconds`."""
        workers = self._workers(client)
        self._without_workers_since = None if workers else self._without_workers_since or time.monotonic()
        if self._without_workers_since and time.monotonic() - self._without_workers_since > self._patience:
            raise self._unreachable(self._no_worker)
        return workers

    @property
    def _no_worker(self) -> str:
        return "no worker with a GPU" if self._on_gpus else "no worker"

    @property
    def _resources(self) -> dict[str, int] | None:
        """Dask resources of a task: one GPU, if the model was loaded on workers that declare GPUs."""
        return {"GPU": 1} if self._on_gpus else None

    def _pause(self) -> None:
        self._cancel.raise_if_cancelled()
        time.sleep(_POLL_SECONDS)

    def _unreachable(self, missing: str) -> ServiceError:
        detail = f"{self._address}: {missing} for {self._patience:g} s; start it, then try again"
        return ServiceError(problem("cluster.unreachable", detail))

    def _disconnect(self) -> None:
        if self._client is not None:
            with suppress(TimeoutError):
                self._client.close(timeout=2)
            self._client = None


def _endpoint(address: str) -> tuple[str, int, Security | None]:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
        is_bare = not (parts.path or parts.query or parts.fragment or parts.username)
    except ValueError:
        host = port = is_bare = None
    if not (host and port and is_bare and address.startswith(("tcp://", "tls://"))):
        raise ServiceError(problem("cluster.address", f"{address}: not tls://HOST:PORT or tcp://HOST:PORT"))
    if parts.scheme == "tcp":
        if not _is_loopback(host):
            raise ServiceError(
                problem(
                    "cluster.address",
                    f"{address}: without TLS, slides are sent unencrypted and anyone can run code on the workers; use "
                    "tls:// (docs/cluster.md), or tcp:// on this machine only",
                )
            )
        return host, port, None
    try:
        security = Security(require_encryption=True)
        if security.get_connection_args("client").get("ssl_context") is None:
            raise ValueError("none are configured")
    except (OSError, TypeError, ValueError) as error:
        raise ServiceError(
            problem("cluster.address", f"{address}: certificates can't be used ({error}); see docs/cluster.md")
        ) from error
    return host, port, security


def _has_gpu(worker: Mapping[str, Any]) -> bool:
    return bool(worker["resources"].get("GPU", 0) >= 1)


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
                f"{work}: {error.allowed_failures + 1} workers died one after another; the slide may be damaged, or "
                "memory ran out; the same job continues from the finished stripes",
            )
        )
    return ServiceError(
        problem("cluster.workers", f"{work}: {error}; is the same slidelift installed on every worker?")
    )
