"""Reads a source on a thread, so that the copying thread can stop at any moment."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator

from slidelift.service.storage.disk import CHUNK_BYTES
from slidelift.service.uploads.sources import CheckedSource

POLL_SECONDS = 0.25
"""How often a waiting thread calls its check, and how long bytes are gathered before they are passed on."""


class SourceReader:
    """The bytes of a source, read ahead by at most three chunks of 1 MiB. A context manager that stops the reading.

    Leaving the context shuts a connection down, which wakes the reading thread. A thread that reads from a hanging disk
    or object store ends when the read returns, or with the process.
    """

    def __init__(self, source: CheckedSource) -> None:
        self._source = source
        self._queue: queue.Queue[int | bytes | Exception | None] = queue.Queue(maxsize=1)
        self._stopped = threading.Event()
        self._socket: socket.socket | None = None
        threading.Thread(target=self._read, name="reading", daemon=True).start()

    def total_bytes(self, check: Callable[[], None]) -> int | None:
        """Return the size of the source, None if unknown; call it once, before `chunks`."""
        total = self._next(check)
        assert not isinstance(total, bytes)  # noqa: S101 - the reader sends it first
        return total

    def chunks(self, check: Callable[[], None]) -> Iterator[bytes]:
        """Yield the bytes as they arrive; `check` is called repeatedly and may raise to stop."""
        while isinstance(chunk := self._next(check), bytes) and chunk:
            yield chunk

    def __enter__(self) -> "SourceReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._shut_down()

    def _next(self, check: Callable[[], None]) -> int | bytes | None:
        while True:
            check()
            try:
                item = self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if not isinstance(item, Exception):
                return item
            try:
                raise item
            finally:
                del item  # the traceback holds this frame, and with it everything that the reader had open

    def _read(self) -> None:
        try:
            with self._source.opened(on_socket=self._keep_socket) as source:
                self._put(source.total_bytes)
                read = getattr(source.stream, "read1", source.stream.read)  # read1 returns what is available
                gathered, since = bytearray(), time.monotonic()
                while not self._stopped.is_set() and (data := read(CHUNK_BYTES)):
                    gathered += data
                    if len(gathered) >= CHUNK_BYTES or time.monotonic() - since > POLL_SECONDS:
                        self._put(bytes(gathered))
                        gathered, since = bytearray(), time.monotonic()
                if gathered:
                    self._put(bytes(gathered))
            self._put(b"")
        except Exception as error:  # noqa: BLE001 - raised again in the copying thread
            self._put(error)

    def _put(self, item: int | bytes | Exception | None) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=POLL_SECONDS)
                return

    def _keep_socket(self, connection: socket.socket) -> None:
        self._socket = connection
        if self._stopped.is_set():
            self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # already shut down, or never connected
                # SSLSocket.shutdown would take the TLS state away from the reading thread.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
