"""Where every upload comes in, whichever way it took: what the ways share, handed to them as one object."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from slidelift.service.errors import ServiceError
from slidelift.service.jobs.slide import Slide
from slidelift.service.jobs.store import Store
from slidelift.service.settings import Settings
from slidelift.service.storage.files import Storage
from slidelift.service.uploads import accept, sources
from slidelift.service.uploads.admission import admit
from slidelift.service.uploads.closing import Closing
from slidelift.service.uploads.inbox import Inbox, Way, Writer
from slidelift.service.uploads.names import require_name
from slidelift.service.uploads.turns import Lane, Turns

Probe = Callable[[Path, str, Callable[[], None]], Mapping[str, Any]]
"""Path of a slide -> its facts as plain values; raises ServiceError. Decodes in a process of its own, and meanwhile
calls the second argument, which may raise to stop."""

FINISHING_AT_ONCE = 2
"""Each probe is a process with decoders in it; uploads may end together, memory must not."""

FINISHING_PATIENCE_SECONDS = 10.0
"""A probe takes two seconds; what takes longer, by its size or since it hangs, must not keep others waiting."""

SLOWLY_AT_ONCE, SLOWLY_OF_ONE = 4, 2
"""What takes longer: in all, and of one owner. Mostly it waits for a disk, so that four are not four times the work."""

FETCHES_AT_ONCE, FETCHES_OF_ONE = 32, 2
"""A fetch keeps a connection or a disk busy; two fill most of either, and one owner's sources delay nobody else's."""

CHECKS_AT_ONCE, CHECKS_OF_ONE = 32, 8
"""Of addresses: a name server may take half a minute, and requests of all kinds share the threads of the API."""

log = logging.getLogger(__name__)


class UploadService:
    """Takes uploads in; callable from any thread. It owns its threads, and `close` ends them.

    Parameters
    ----------
    on_slide
        Hears of each slide that was taken into the service, whichever way it came.
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
        self.settings, self.store, self.storage, self.probe = settings, store, storage, probe
        self.on_slide = on_slide
        self.inbox = Inbox(
            settings.data_dir / "uploads",
            max_bytes=settings.max_upload_bytes,
            expiry_seconds=settings.upload_expiry_seconds,
            require_room=storage.require_room,
            clock=clock,
        )
        quick, slow = Lane(FINISHING_AT_ONCE, FINISHING_AT_ONCE), Lane(SLOWLY_AT_ONCE, SLOWLY_OF_ONE)
        self._finishing = Turns("finishing", quick, slow, FINISHING_PATIENCE_SECONDS)
        self._fetching = Turns("fetching", Lane(FETCHES_AT_ONCE, FETCHES_OF_ONE))
        self._checking = Turns("checking", Lane(CHECKS_AT_ONCE, CHECKS_OF_ONE), may_be_left=True)
        self._closing = threading.Event()

    def begin(
        self,
        name: str,
        way: Way,
        *,
        owner: str | None = None,
        total_bytes: int | None = None,
        booked_bytes: int = 0,
        metadata: str = "",
    ) -> Writer:
        """Begin an upload, before a byte of it is read; every way comes through here.

        Parameters
        ----------
        total_bytes, booked_bytes
            What the sender announced; where that is nothing exact, the most that it can be, 0 if unknown.

        Raises
        ------
        ServiceError
            upload.name, slide.multi-file, upload.too-large, storage.full.
        """
        require_name(name)
        with self.inbox.alone():
            admit(self, total_bytes if total_bytes is not None else booked_bytes, owner)
            return self.inbox.begin(
                name, way, owner=owner, total_bytes=total_bytes, booked_bytes=booked_bytes, metadata=metadata
            )

    def announce(self, writer: Writer, total_bytes: int) -> None:
        """Note a size that was not known when the upload began; raises as `begin` does."""
        with self.inbox.alone():
            admit(self, total_bytes, writer.upload.owner, but_for=writer.upload.id, received_bytes=writer.bytes)
            writer.announce(total_bytes)

    def resume(self, writer: Writer) -> None:
        """Ask once more for the room of an upload that had stalled; raises ServiceError storage.full before a byte."""
        upload = writer.upload
        if upload.arrived or upload.is_settled or not writer.has_stalled:
            return
        with self.inbox.alone():
            try:
                admit(self, upload.booked_bytes, upload.owner, but_for=upload.id, received_bytes=writer.bytes)
            except ServiceError as error:
                if error.problem.code != "storage.full":
                    raise
                kept = (
                    f"{error.problem.detail}; the {writer.bytes} bytes that have arrived stay: go on when there is room"
                )
                raise ServiceError(replace(error.problem, detail=kept)) from error
            writer.touch()

    def finish(self, writer: Writer) -> Future[Slide]:
        """Make a slide of what has arrived, on a thread of our own that goes on if the client goes away.

        The writer is closed when that is done.
        """

        def finished(check: Callable[[], None]) -> Slide:
            return accept.finish(self, writer, check)

        work = self._finishing.submit(writer.upload.owner, finished)
        work.add_done_callback(lambda _: writer.close())  # also where its turn never came
        return work

    def finish_interrupted(self, upload_id: str) -> None:
        """Finish, in the background, an upload whose finishing was cut short; does nothing if somebody is at it."""
        try:
            writer = self.inbox.open(upload_id)
        except ServiceError:
            return
        upload = writer.upload
        if not upload.arrived and not upload.is_settled and upload.way is Way.TUS and writer.is_whole:
            writer.arrive()
        if writer.upload.arrived and not upload.is_settled:
            self._finish_quietly(writer)
        else:
            writer.close()

    def check(self, uri: str, name: str | None, owner: str | None) -> "Future[sources.Checked]":
        """Look at an address on a thread of our own; raises as `service.uploads.sources.check` does."""
        return self._checking.submit(owner, lambda _: sources.check(uri, name, self.settings))

    def fetch(self, copy: Callable[["UploadService", Writer], None], writer: Writer) -> None:
        """Let a thread of our own copy something into the upload, and finish it."""

        def fetched(_: Callable[[], None]) -> None:
            copy(self, writer)
            self._finish_quietly(writer)

        self._quietly(self._fetching.submit(writer.upload.owner, fetched), writer)

    def raise_if_closing(self) -> None:
        """Raise Closing where the service is stopping."""
        if self._closing.is_set():
            raise Closing

    def close(self) -> None:
        """Stop; what is cut short is finished by the next start, or by whoever asks for the upload."""
        self._closing.set()
        self._checking.close()
        self._fetching.close()
        self._finishing.close()

    def _finish_quietly(self, writer: Writer) -> None:
        self._quietly(self.finish(writer), writer)

    @staticmethod
    def _quietly(work: "Future[Any]", writer: Writer) -> None:
        """Let it run in the background: what goes wrong stands in the upload, or in the log."""

        def log_failure(done: "Future[Any]") -> None:
            if done.cancelled():
                writer.close()
                return
            error = done.exception()
            if error is not None and not isinstance(error, (ServiceError, CancelledError)):  # noted in the upload
                log.error("upload %s", writer.upload.id, exc_info=error)

        work.add_done_callback(log_failure)


def sweep(upload_service: UploadService) -> None:
    """Remove uploads that have expired or that nobody can continue, and finish those that a crash cut short.

    Call it at start and from time to time. It is safe beside requests, and beside other processes on the same folder.
    """
    for upload_id in upload_service.inbox.sweep():
        upload_service.finish_interrupted(upload_id)
