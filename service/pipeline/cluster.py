"""Makes stripes on the workers of a Dask cluster, one task per stripe.

All machines must see the slide, the result and a user's own weights under the same paths. Tasks and problems are sent,
never pixels: a worker reads the slide and writes the segments itself. A complete segment is renamed to its final name.
If a stripe is made twice, because its first worker was considered dead, the second file replaces an identical one.
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
"""Longest time without a scheduler or a worker before a job fails."""

_POLL_SECONDS = 0.2
_SIGN_OF_LIFE_SECONDS = 15.0
_ANSWER_SECONDS = 10.0
_LOST = (CommClosedError, ConnectionError, CancelledError, TimeoutError)
"""Errors of calls to a lost scheduler; TimeoutError is a result that was lost with its worker."""


class ClusterExecutor:
    """Makes stripes on a cluster; implements `service.pipeline.local.StripeExecutor`. A context manager.

    Parameters
    ----------
    address
        Of the scheduler: ``tls://host:port``, or ``tcp://host:port`` on this machine. Certificates are those of Dask's
        own configuration (``distributed.comm.tls``).
    cancel
        Checked wherever the executor waits.
    on_wait
        Called now and then while a model is loaded, which takes long where workers make other stripes.
    patience_seconds
        How long to wait for a scheduler and a worker, at the beginning and whenever they are lost.

    Raises
    ------
    ServiceError
        cluster.address: the address is not valid, or is another machine's without TLS, or no certificates are
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
            As `models.upscaler.load_upscaler` on that worker; cluster.unreachable where no cluster answers.
        """
        path = Path(model.model)
        self._model = Model(str(path.absolute()) if path.is_file() else model.model, scale, device, precision)
        answer = None
        while answer is None:
            self._on_gpus = False
            client = self._connected()
            with self._unless_lost(client):
                self._on_gpus = device != "cpu" and any(_has_gpu(worker) for worker in self._workers(client))
                future = client.submit(load_on_worker, self._model, versions(), pure=False, resources=self._needs)
                last_sign = time.monotonic()
                while future.status == "pending":
                    self._require_workers(client)
                    self._pause()
                    if time.monotonic() - last_sign > _SIGN_OF_LIFE_SECONDS:
                        last_sign = time.monotonic()
                        self._on_wait()
                if future.status == "error":
                    raise _failure(future.exception(timeout=_ANSWER_SECONDS), f"loading {model.model}")
                answer = future.result(timeout=_ANSWER_SECONDS)
        if "problem" in answer:
            raise ServiceError(Problem(**answer["problem"]))
        facts = cast(UpscalerFacts, SimpleNamespace(**answer["facts"]))
        self._model = Model(self._model.model, scale, facts.device, facts.precision)
        self._fingerprint = facts.fingerprint
        self._on_gpus = self._on_gpus and facts.device != "cpu"
        return facts

    def trial(self, plan: TilePlan, passed: int) -> float | None:  # noqa: ARG002 - part of the protocol
        """None: one worker's seconds per patch do not predict the cluster's."""
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
        """See `StripeExecutor`; continues after workers or the scheduler were lost and came back.

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
                with self._unless_lost(client):
                    self._make_some(client, task, waiting, workspace, advance)
        finally:
            marker.unlink(missing_ok=True)

    def _make_some(
        self,
        client: Client,
        task: ClusterTask,
        waiting: dict[int, Stripe],
        workspace: Workspace,
        advance: Advance,
    ) -> None:
        """Make the waiting stripes; a made one is removed from `waiting`, even if the connection is lost afterwards."""
        running: dict[int, Future] = {}
        last_sign = time.monotonic()
        while waiting:
            threads = sum(int(worker["nthreads"]) for worker in self._require_workers(client))
            ahead = 2 * threads  # not all, so that a worker that joins late gets some
            for number in waiting:
                if number not in running and len(running) < ahead:
                    running[number] = client.submit(make_on_worker, task, number, pure=False, resources=self._needs)
            self._pause()
            if time.monotonic() - last_sign > _SIGN_OF_LIFE_SECONDS:  # a stripe may take longer than the stall limit
                last_sign = time.monotonic()
                advance(Tally(), None)
            for number, future in list(running.items()):
                if future.status == "pending":
                    continue
                del running[number]
                if future.status == "error":
                    raise _failure(future.exception(timeout=_ANSWER_SECONDS), f"stripe {number}")
                answer = future.result(timeout=_ANSWER_SECONDS)
                segment = self._accepted(answer, task.settings, waiting[number], workspace)
                del waiting[number]
                advance(segment_tally(segment), None)

    def _accepted(
        self, answer: Mapping[str, Any] | None, settings: StripeSettings, stripe: Stripe, workspace: Workspace
    ) -> Segment:
        if answer is not None:
            raise ServiceError(Problem(**answer))
        deadline = time.monotonic() + _ANSWER_SECONDS  # a network file system may show a new name late

        def require(segment: Segment) -> None:
            require_finished(segment, settings, stripe)

        while (segment := workspace.finished_segment(stripe.number, require)) is None:
            if time.monotonic() > deadline:
                raise ServiceError(
                    problem(
                        "cluster.workers",
                        f"a worker has made stripe {stripe.number}, but it is not in {workspace.folder.parent} on "
                        "this machine; let all machines see that folder under the same path",
                    )
                )
            self._pause()
        return segment

    def _connected(self) -> Client:
        """Return a connection to a scheduler with a worker; reconnect where it was lost."""
        deadline = time.monotonic() + self._patience
        missing = "no scheduler"
        while True:
            try:
                if self._client is None:
                    socket.create_connection((self._host, self._port), timeout=5).close()  # a failed Client leaks
                    self._client = Client(
                        self._address, security=self._security, timeout=5, set_as_default=False, name="slidelift"
                    )
                if self._workers(self._client):
                    self._without_workers_since = None
                    return self._client
                missing = self._no_worker
            except _LOST as error:
                self._disconnect()
                missing = f"no scheduler ({error})"
            if time.monotonic() > deadline:
                raise self._unreachable(missing)
            self._pause()

    @contextmanager
    def _unless_lost(self, client: Client) -> Iterator[None]:
        """Drop the connection where it was lost; the caller reconnects and continues."""
        try:
            yield
        except _LOST:
            self._disconnect()
        except RuntimeError:  # a client that noticed the loss itself
            if client.status == "running":
                raise
            self._disconnect()

    def _workers(self, client: Client) -> list[dict[str, Any]]:
        """Return the workers that can make a stripe now."""
        try:
            info = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=_ANSWER_SECONDS)
        except TimeoutError as error:
            raise CommClosedError("it does not answer") from error
        workers = [worker for worker in info["workers"].values() if worker.get("status", "running") == "running"]
        return [worker for worker in workers if _has_gpu(worker) or not self._on_gpus]

    def _require_workers(self, client: Client) -> list[dict[str, Any]]:
        """As `_workers`; raises cluster.unreachable where there were none for too long."""
        workers = self._workers(client)
        self._without_workers_since = None if workers else self._without_workers_since or time.monotonic()
        if self._without_workers_since and time.monotonic() - self._without_workers_since > self._patience:
            raise self._unreachable(self._no_worker)
        return workers

    @property
    def _no_worker(self) -> str:
        return "no worker with a GPU" if self._on_gpus else "no worker"

    @property
    def _needs(self) -> dict[str, int] | None:
        """One task per GPU, where the job began on workers that declare GPUs."""
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
        bare = not (parts.path or parts.query or parts.fragment or parts.username)
    except ValueError:
        host = port = bare = None
    if not (host and port and bare and address.startswith(("tcp://", "tls://"))):
        raise ServiceError(problem("cluster.address", f"{address}: not tls://HOST:PORT or tcp://HOST:PORT"))
    if parts.scheme == "tcp":
        if not _is_loopback(host):
            raise ServiceError(
                problem(
                    "cluster.address",
                    f"{address}: without TLS, anybody could read the data and send code to the workers; use tls:// "
                    "(docs/cluster.md), or tcp:// on this machine alone",
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
                f"{work}: {error.allowed_failures + 1} workers died during this task; the slide may be damaged, or "
                "memory ran out; the same job continues from the finished stripes",
            )
        )
    return ServiceError(
        problem("cluster.workers", f"{work}: {error}; is the same slidelift installed on every worker?")
    )
