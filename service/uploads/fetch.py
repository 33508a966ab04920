"""Copies a source into an upload, on a background thread of the API."""

import http.client
import time
from collections.abc import Callable, Iterator

from slidelift.service.errors import ServiceError, refusal
from slidelift.service.uploads.errors import ServiceStoppingError
from slidelift.service.uploads.source_reader import SourceReader
from slidelift.service.uploads.sources import CheckedSource
from slidelift.service.uploads.writer import Writer

SYNC_EVERY_BYTES = 64 * 2**20
MIN_BYTES_PER_SECOND, WINDOW_SECONDS = 16 * 2**10, 60.0
"""Minimum mean rate of a source in each window; 1 GB takes 18 hours at this rate. Stops sources that send a byte now
and then to keep a fetch open."""


class Fetcher:
    """Copies sources into uploads.

    Parameters
    ----------
    set_total_bytes
        Called with the size of the source; raises ServiceError if the upload is not admitted.
    raise_if_stopping
        Raises ServiceStoppingError once the service is stopping.
    max_seconds
        Time limit of one fetch.
    """

    def __init__(
        self,
        set_total_bytes: Callable[[Writer, int], None],
        raise_if_stopping: Callable[[], None],
        max_seconds: float,
    ) -> None:
        self._set_total_bytes, self._raise_if_stopping = set_total_bytes, raise_if_stopping
        self._max_seconds = max_seconds

    def fetch(self, source: CheckedSource, writer: Writer) -> None:
        """Copy a source into the upload and mark that complete; an error is recorded in the upload and raised."""
        try:
            with SourceReader(source) as reader:
                self._copy(reader, writer)
            writer.mark_complete()
        except ServiceStoppingError:
            writer.close()  # the next start records the interruption
            raise
        except ServiceError as error:
            _fail(writer, error)
            raise
        except Exception:
            _fail(writer, refusal("internal", "the error is in the service's log; the slide is not at fault"))
            raise

    def _copy(self, reader: SourceReader, writer: Writer) -> None:
        progress = _Progress(writer, self._raise_if_stopping, self._max_seconds)
        total = reader.total_bytes(progress.check)
        if total is not None:
            self._set_total_bytes(writer, total)
        synced = 0
        for chunk in _chunks(reader, progress):
            writer.append(chunk)
            if writer.bytes - synced > SYNC_EVERY_BYTES:  # in steps, so that the last sync does not take long
                writer.sync()
                synced = writer.bytes
        if total is not None and writer.bytes != total:
            raise refusal("upload.source", f"the source sent {writer.bytes} of {total} bytes; try again")


def _fail(writer: Writer, error: ServiceError) -> None:
    if writer.is_cancelled:
        writer.discard()
    else:
        writer.set_outcome(None, error.problem)
        writer.close()


def _chunks(reader: SourceReader, progress: "_Progress") -> Iterator[bytes]:
    try:
        yield from reader.chunks(progress.check)
    except (OSError, http.client.HTTPException) as error:
        raise refusal("upload.source", f"reading the source failed ({type(error).__name__}); try again") from error


class _Progress:
    """Checks that a fetch may go on: not cancelled, within its time limit and above the minimum rate."""

    def __init__(self, writer: Writer, raise_if_stopping: Callable[[], None], max_seconds: float) -> None:
        self._writer, self._raise_if_stopping = writer, raise_if_stopping
        self._deadline = time.monotonic() + max_seconds
        self._window_start, self._window_bytes = time.monotonic(), writer.bytes

    def check(self) -> None:
        """Raise ServiceStoppingError, or ServiceError if the upload was deleted, takes too long or is too slow."""
        self._raise_if_stopping()
        if self._writer.is_cancelled:
            raise refusal("upload.unknown", "the upload was deleted")
        now = time.monotonic()
        if now > self._deadline:
            raise refusal("upload.source", "fetching took longer than the expiry time of unfinished uploads")
        if now - self._window_start < WINDOW_SECONDS:
            return
        if self._writer.bytes - self._window_bytes < WINDOW_SECONDS * MIN_BYTES_PER_SECOND:
            detail = f"the source sent less than {MIN_BYTES_PER_SECOND} bytes a second for {WINDOW_SECONDS:g} s"
            raise refusal("upload.source", f"{detail}; try again when it is faster, or upload the file")
        self._window_start, self._window_bytes = now, self._writer.bytes
