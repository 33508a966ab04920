"""Copies a source into an upload, in the background of the API."""

import http.client
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from slidelift.service.errors import ServiceError, refusal
from slidelift.service.uploads.closing import Closing
from slidelift.service.uploads.feed import Feed
from slidelift.service.uploads.inbox import Writer
from slidelift.service.uploads.sources import Checked

if TYPE_CHECKING:
    from slidelift.service.uploads.upload_service import UploadService

SYNC_EVERY_BYTES = 64 * 2**20
LEAST_BYTES_PER_SECOND, WINDOW_SECONDS = 16 * 2**10, 60.0
"""What a source must send in each such while: a slide of a gigabyte would take 18 hours so. A byte now and then holds
no fetch open."""


def fetch(checked: Checked) -> "Callable[[UploadService, Writer], None]":
    """Make the work of copying what has been checked; the work notes in the upload what goes wrong, and raises it."""

    def work(upload_service: "UploadService", writer: Writer) -> None:
        try:
            with Feed(checked) as feed:
                _copy(upload_service, feed, writer)
            writer.arrive()
        except Closing:
            writer.close()  # the service stops: the next start says so
            raise
        except ServiceError as error:
            _fail(writer, error)
            raise
        except Exception:
            _fail(writer, refusal("internal", "the service's log says more; the slide was not at fault"))
            raise

    return work


def _fail(writer: Writer, error: ServiceError) -> None:
    if writer.is_cancelled:
        writer.discard()
    else:
        writer.settle(None, error.problem)
        writer.close()


def _copy(upload_service: "UploadService", feed: Feed, writer: Writer) -> None:
    pace = _Pace(upload_service, writer)
    total = feed.total_bytes(pace.check)
    if total is not None:
        upload_service.announce(writer, total)
    synced = 0
    for piece in _read(feed, pace):
        writer.append(piece)
        if writer.bytes - synced > SYNC_EVERY_BYTES:  # in steps, so that the end is not one long wait
            writer.sync()
            synced = writer.bytes
    if total is not None and writer.bytes != total:
        raise refusal("upload.source", f"{writer.bytes} of {total} bytes came; ask again")


def _read(feed: Feed, pace: "_Pace") -> Iterator[bytes]:
    try:
        yield from feed.pieces(pace.check)
    except (OSError, http.client.HTTPException) as error:
        raise refusal("upload.source", f"the source breaks off ({type(error).__name__}); ask again") from error


class _Pace:
    """Says when a fetch must end before it is done."""

    def __init__(self, upload_service: "UploadService", writer: Writer) -> None:
        self._upload_service, self._writer = upload_service, writer
        self._deadline = time.monotonic() + upload_service.settings.upload_expiry_seconds
        self._since, self._bytes = time.monotonic(), writer.bytes

    def check(self) -> None:
        """Raise Closing, or ServiceError where it was deleted, took too long or comes too slowly."""
        self._upload_service.raise_if_closing()
        if self._writer.is_cancelled:
            raise refusal("upload.unknown", "the upload was deleted")
        now = time.monotonic()
        if now > self._deadline:
            raise refusal("upload.source", "fetching it took longer than an upload may lie unfinished")
        if now - self._since < WINDOW_SECONDS:
            return
        if self._writer.bytes - self._bytes < WINDOW_SECONDS * LEAST_BYTES_PER_SECOND:
            detail = f"the source sent less than {LEAST_BYTES_PER_SECOND} bytes a second for {WINDOW_SECONDS:g} s"
            raise refusal("upload.source", f"{detail}; ask again when it is faster, or upload the file")
        self._since, self._bytes = now, self._writer.bytes
