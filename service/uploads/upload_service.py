"""Shared entry point of all upload methods."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any

from slidelift.service.errors import ServiceError
from slidelift.service.jobs.slide import Slide
from slidelift.service.jobs.store import Store
from slidelift.service.settings import Settings
from slidelift.service.storage.files import Storage
from slidelift.service.uploads import sources
from slidelift.service.uploads.admission import Admission
from slidelift.service.uploads.errors import ServiceStoppingError
from slidelift.service.uploads.fair_executor import FairExecutor, WorkQueue
from slidelift.service.uploads.fetch import Fetcher
from slidelift.service.uploads.inbox import Inbox
from slidelift.service.uploads.names import require_name
from slidelift.service.uploads.slide_intake import Probe, SlideIntake
from slidelift.service.uploads.upload import UploadMethod
from slidelift.service.uploads.writer import Writer

MAX_FINISHING = 2
"""Each probe is a child process with decoders; the limit bounds memory when many uploads end at once."""

SLOW_AFTER_SECONDS = 10.0
"""A probe takes 2 s. One that takes longer, because of a large slide or a hanging disk, must not block the others."""

MAX_SLOW, MAX_SLOW_PER_OWNER = 4, 2
"""Limits of slow probes. These mostly wait for a disk, so four of them do not take four times the processor time."""

MAX_FETCHES, MAX_FETCHES_PER_OWNER = 32, 2
"""Two fetches fill most connections and disks. The limit per owner keeps slow sources from blocking other owners."""

MAX_CHECKS, MAX_CHECKS_PER_OWNER = 32, 8
"""Limits of address checks. A name server may take 30 s, which must not occupy the threads that answer requests."""

log = logging.getLogger(__name__)


class UploadService:
    """Receives uploads and makes slides of them. Thread-safe; `close` ends its threads.

    Parameters
    ----------
    on_slide
        Called with each new slide.
    clock
        Seconds since 1970, by which uploads expire.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        storage: Storage,
        probe: Probe,
        on_slide: Callable[[Slide], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self.storage = settings, storage
        self.inbox = Inbox(
            settings.data_dir / "uploads",
            max_bytes=settings.max_upload_bytes,
            expiry_seconds=settings.upload_expiry_seconds,
            require_space=storage.require_space,
            clock=clock,
        )
        self.admission = Admission(settings, store, storage, self.inbox)
        self.fetcher = Fetcher(self.set_total_bytes, self.raise_if_stopping, settings.upload_expiry_seconds)
        self._intake = SlideIntake(
            *(settings, store, storage, self.inbox),
            probe=probe,
            on_slide=on_slide,
            raise_if_stopping=self.raise_if_stopping,
        )
        quick, slow = WorkQueue(MAX_FINISHING, MAX_FINISHING), WorkQueue(MAX_SLOW, MAX_SLOW_PER_OWNER)
        self._finishing = FairExecutor("finishing", quick, slow, SLOW_AFTER_SECONDS)
        self._fetching = FairExecutor("fetching", WorkQueue(MAX_FETCHES, MAX_FETCHES_PER_OWNER))
        self._checking = FairExecutor("checking", WorkQueue(MAX_CHECKS, MAX_CHECKS_PER_OWNER), daemon=True)
        self._stopping = threading.Event()

    def begin(
        self,
        name: str,
        method: UploadMethod,
        *,
        owner: str | None = None,
        total_bytes: int | None = None,
        expected_bytes: int = 0,
        metadata: str = "",
    ) -> Writer:
        """Begin an upload of any method, before its first byte is read.

        Parameters
        ----------
        total_bytes
            Announced size, None if unknown.
        expected_bytes
            Upper bound of the size if `total_bytes` is None, 0 if unknown.

        Raises
        ------
        ServiceError
            upload.name, slide.multi-file, upload.too-large, quota.uploads, quota.bytes, storage.full.
        """
        require_name(name)
        with self.inbox.exclusive():
            self.admission.admit(total_bytes if total_bytes is not None else expected_bytes, owner)
            return self.inbox.create(
                name, method, owner=owner, total_bytes=total_bytes, expected_bytes=expected_bytes, metadata=metadata
            )

    def set_total_bytes(self, writer: Writer, total_bytes: int) -> None:
        """Record a size that was unknown when the upload began; raises as `begin` does."""
        with self.inbox.exclusive():
            self._admit_again(writer, total_bytes)
            writer.set_total_bytes(total_bytes)

    def resume(self, writer: Writer) -> None:
        """Admit an upload again that had stalled and lost its reservation; raises ServiceError storage.full."""
        upload = writer.upload
        if upload.is_complete or upload.is_finished or not writer.has_stalled:
            return
        with self.inbox.exclusive():
            try:
                self._admit_again(writer, upload.expected_bytes)
            except ServiceError as error:
                if error.problem.code != "storage.full":
                    raise
                kept = f"the {writer.bytes} bytes received so far are kept: continue when there is space"
                raise ServiceError(replace(error.problem, detail=f"{error.problem.detail}; {kept}")) from error
            writer.touch()

    def finish(self, writer: Writer) -> Future[Slide]:
        """Make a slide of a complete upload, on a thread that continues if the client disconnects.

        The thread closes the writer.
        """
        work = self._finishing.submit(writer.upload.owner, lambda check: self._intake.finish(writer, check))
        work.add_done_callback(lambda _: writer.close())  # also if the work was cancelled before it began
        return work

    def finish_interrupted(self, upload_id: str) -> None:
        """Finish in the background an upload whose finishing was interrupted; does nothing if it is locked."""
        try:
            writer = self.inbox.open(upload_id)
        except ServiceError:
            return
        upload = writer.upload
        is_tus = upload.method is UploadMethod.TUS
        if is_tus and writer.has_announced_size and not upload.is_complete and not upload.is_finished:
            writer.mark_complete()
        if writer.upload.is_complete and not upload.is_finished:
            self._finish_in_background(writer)
        else:
            writer.close()

    def check_source(self, uri: str, name: str | None, owner: str | None) -> "Future[sources.CheckedSource]":
        """Check an address on a thread; raises as `service.uploads.sources.check` does."""
        return self._checking.submit(owner, lambda _: sources.check(uri, name, self._settings))

    def fetch(self, source: sources.CheckedSource, writer: Writer) -> None:
        """Copy a source into the upload on a thread, and finish the upload."""

        def work(_: Callable[[], None]) -> None:
            self.fetcher.fetch(source, writer)
            self._finish_in_background(writer)

        _log_failure(self._fetching.submit(writer.upload.owner, work), writer)

    def delete_expired(self) -> None:
        """Delete uploads that have expired or that nobody can continue, and finish interrupted ones.

        Call it at start and periodically. Safe beside requests and other processes on the same folder.
        """
        for upload_id in self.inbox.delete_expired():
            self.finish_interrupted(upload_id)

    def raise_if_stopping(self) -> None:
        """Raise ServiceStoppingError if the service is stopping."""
        if self._stopping.is_set():
            raise ServiceStoppingError

    def close(self) -> None:
        """Stop. Interrupted uploads are finished by the next start, or when a client asks for them."""
        self._stopping.set()
        self._checking.close()
        self._fetching.close()
        self._finishing.close()

    def _admit_again(self, writer: Writer, expected_bytes: int) -> None:
        upload = writer.upload
        self.admission.admit(expected_bytes, upload.owner, upload_id=upload.id, received_bytes=writer.bytes)

    def _finish_in_background(self, writer: Writer) -> None:
        _log_failure(self.finish(writer), writer)


def _log_failure(work: "Future[Any]", writer: Writer) -> None:
    """Log an unexpected error of background work; a ServiceError is recorded in the upload."""

    def log_failure(done: "Future[Any]") -> None:
        if done.cancelled():
            writer.close()
            return
        error = done.exception()
        if error is not None and not isinstance(error, (ServiceError, CancelledError)):
            log.error("upload %s", writer.upload.id, exc_info=error)

    work.add_done_callback(log_failure)
