"""The worker: claims jobs one after another and runs each to its result.

Two threads. The main thread claims a job, runs an attempt (`service.attempts.attempt`), whose pipeline decodes and
computes in a child process, and writes its outcome. The other (`service.attempts.heartbeat`) keeps the lease and
cancels the attempt if it must end early.
"""

import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

from slidelift.service.attempts.attempt import Attempt, AttemptRunner, EarlyEnd, Pipeline, WorkerState
from slidelift.service.attempts.heartbeat import Heartbeat
from slidelift.service.errors import EXIT_DONE, EXIT_FAILED
from slidelift.service.jobs.job import Job
from slidelift.service.jobs.open_store import open_store
from slidelift.service.jobs.store import LeaseLostError, Store, StoreFullError, StoreUnavailableError, WorkerStatus
from slidelift.service.logs import configure, logged_job
from slidelift.service.settings import Settings
from slidelift.service.storage.data_identity import require_same_identity
from slidelift.service.storage.files import Storage
from slidelift.service.storage.start_checks import require_usable

STOP_SECONDS = 28
"""When a stopped worker exits in any case; supervisors kill after 30. Longer than
`service.processes.runner.CANCEL_SECONDS`, so that the end of a cancelled attempt can still be written."""

log = logging.getLogger(__name__)


class Worker:
    """Runs jobs of a store one at a time; owns the pipeline and the heartbeat, and closes both.

    Parameters
    ----------
    make_pipeline
        Makes the Pipeline; called again after one has failed.
    stop
        Set from outside to hand back the running job and return.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        storage: Storage,
        make_pipeline: Callable[[], Pipeline],
        stop: threading.Event,
    ) -> None:
        self._settings, self._store, self._storage, self._stop = settings, store, storage, stop
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._state = WorkerState(WorkerStatus(self._name, 0))
        self._runner = AttemptRunner(settings, store, storage, make_pipeline, self._state)

    def work(self) -> None:
        """Claim and run jobs until `stop` is set."""
        heartbeat = Heartbeat(self._settings, self._store, self._state, self._runner, self._stop)
        heartbeat.start()
        try:
            while not self._stop.is_set():
                job = self._claim()
                if job is None:
                    self._stop.wait(self._settings.poll_seconds)
                else:
                    with logged_job(job.id):
                        self._run(job)
        finally:
            heartbeat.finish()
            self._runner.close_pipeline()

    def _claim(self) -> Job | None:
        try:
            return self._store.claim(self._name)
        except (StoreUnavailableError, StoreFullError):
            log.exception("no job can be claimed")
            return None

    def _run(self, job: Job) -> None:
        log.info("job %s: attempt %d", job.id, job.attempt)
        self._state.attempt = attempt = Attempt(job)
        try:
            outcome = self._runner.run(attempt)
            if attempt.early_end is EarlyEnd.LEASE_LOST:
                raise LeaseLostError(EarlyEnd.LEASE_LOST)
            settled = self._store.settle(job.id, job.attempt, outcome)
        except LeaseLostError:
            log.warning("job %s: %s", job.id, EarlyEnd.LEASE_LOST)
            return
        except (StoreUnavailableError, StoreFullError):
            log.exception("job %s: its end can't be written; its lease expires and it is claimed again", job.id)
            return
        finally:
            self._state.attempt = None
            self._state.sign = replace(self._state.sign, tiles_per_second=None)
        log.info("job %s: %s", job.id, settled.state)
        if (current := self._store.job(job.id)) is not None:  # it may have been retried since
            self._storage.tidy_job(current)


def work(settings: Settings, stop: threading.Event, make_pipeline: Callable[[], Pipeline] | None = None) -> None:
    """Run jobs of a data folder until `stop` is set; returns within 30 seconds of that."""
    if make_pipeline is None:
        from slidelift.service.processes.runner import Runner

        make_pipeline = Runner
    storage = Storage(settings.data_dir, disk_reserve_bytes=settings.disk_reserve_bytes)
    store = open_store(settings)
    try:
        require_same_identity(storage, store)
        Worker(settings, store, storage, make_pipeline, stop).work()
    finally:
        store.close()


def main(settings: Settings | None = None, make_pipeline: Callable[[], Pipeline] | None = None) -> int:
    """Run a worker until SIGTERM or SIGINT; the running job is queued again with its finished stripes."""
    settings = settings or Settings()
    configure(settings.log_format)
    require_usable(settings)
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            log.info("%s: handing back the running job", signal.Signals(number).name)
            stop.set()
            last_resort = threading.Timer(STOP_SECONDS, os._exit, (EXIT_FAILED,))
            last_resort.daemon = True
            last_resort.start()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    work(settings, stop, make_pipeline)
    return EXIT_DONE
