"""The thread of a worker that keeps its lease and ends attempts early."""

import logging
import threading
import time

from slidelift.service.attempts.attempt import Attempt, AttemptRunner, EarlyEnd, WorkerState
from slidelift.service.jobs.store import HeartbeatReply, LeaseLostError, Store, StoreFullError, StoreUnavailableError
from slidelift.service.settings import Settings

_ENDING_SECONDS = 0.5
"""Longest time between two heartbeats while an attempt is ending."""

log = logging.getLogger(__name__)


class Heartbeat(threading.Thread):
    """Reports to the store that the worker is alive, and cancels its attempt when the attempt must end.

    An attempt must end when its lease is lost, it was cancelled or paused, the worker stops, the disk is full, or the
    pipeline makes no progress.

    Parameters
    ----------
    stop
        Set when the worker must stop.
    """

    def __init__(
        self, settings: Settings, store: Store, state: WorkerState, runner: AttemptRunner, stop: threading.Event
    ) -> None:
        super().__init__(name="heartbeat")
        self._settings, self._store, self._state, self._runner, self._stop_worker = settings, store, state, runner, stop
        self._finished = threading.Event()
        self._last_beat = time.monotonic()

    def finish(self) -> None:
        """Stop the thread and wait for its end."""
        self._finished.set()
        self.join()

    def run(self) -> None:
        """Send heartbeats until `finish` is called."""
        while True:
            attempt = self._state.attempt
            self._beat(attempt)
            if attempt is not None and attempt is self._state.attempt:
                self._end_if_needed(attempt)
            if self._finished.wait(self._pause_seconds()):
                return

    def _beat(self, attempt: Attempt | None) -> None:
        """Send a heartbeat to the store, and end the attempt if the store requests it."""
        try:
            self._store.record_worker(self._state.sign)
            if attempt is not None:
                reply = self._store.heartbeat(attempt.job.id, attempt.job.attempt)
                if reply is not HeartbeatReply.CONTINUE:
                    attempt.finish_early(EarlyEnd.CANCELLED if reply is HeartbeatReply.CANCEL else EarlyEnd.PAUSED)
            self._last_beat = time.monotonic()
        except LeaseLostError:
            if attempt is not None and attempt is self._state.attempt:
                attempt.finish_early(EarlyEnd.LEASE_LOST)
        except (StoreUnavailableError, StoreFullError):
            log.exception("the heartbeat can't be written")
            if attempt is not None and time.monotonic() - self._last_beat > self._settings.lease_seconds:
                attempt.finish_early(EarlyEnd.LEASE_LOST)

    def _end_if_needed(self, attempt: Attempt) -> None:
        """End the attempt if the disk is full or the worker stops; end the process of a stalled pipeline."""
        self._runner.require_reserve(attempt)
        if self._stop_worker.is_set():
            attempt.finish_early(EarlyEnd.STOPPED)
        last_progress = attempt.last_progress
        if last_progress is not None and time.monotonic() - last_progress > self._settings.stall_seconds:
            log.warning("job %s: %s and is ended", attempt.job.id, self._runner.stalled_problem().detail)
            attempt.last_progress, attempt.is_stalled = None, True
            self._runner.close_pipeline()

    def _pause_seconds(self) -> float:
        """Seconds until the next heartbeat; fewer while an attempt is ending, so that its end is noticed soon."""
        attempt, seconds = self._state.attempt, self._settings.heartbeat_seconds
        is_ending = self._stop_worker.is_set() or (attempt is not None and attempt.early_end is not None)
        return min(_ENDING_SECONDS, seconds) if is_ending else seconds
