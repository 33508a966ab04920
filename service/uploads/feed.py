"""Reads a source on a thread of its own, so that whoever copies it can leave at any moment."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator

from slidelift.service.storage.files import CHUNK_BYTES
from slidelift.service.uploads.sources import Checked

LOOK_SECONDS = 0.25
"""How often who waits for a source looks round, and how long bytes are gathered before they are handed on."""


class Feed:
    """The bytes of a source; holds at most three pieces of a MiB. A context manager; leaving it ends the reading.

    A connection is shut, which wakes its reader. A disk or an object store that hangs keeps its thread, which ends when
    it answers, or with the process.
    """

    def __init__(self, checked: Checked) -> None:
        self._checked = checked
        self._found: queue.Queue[int | bytes | Exception | None] = queue.Queue(maxsize=1)
        self._left = threading.Event()
        self._socket: socket.socket | None = None
        threading.Thread(target=self._read, name="reading", daemon=True).start()

    def total_bytes(self, between: Callable[[], None]) -> int | None:
        """How many bytes will come, None where the source does not say; call it once, before `pieces`."""
        found = self._next(between)
        assert not isinstance(found, bytes)  # noqa: S101 - the reader sends it first
        return found

    def pieces(self, between: Callable[[], None]) -> Iterator[bytes]:
        """What comes, as it comes; `between` is called all the while, and may raise to stop."""
        while isinstance(piece := self._next(between), bytes) and piece:
            yield piece

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._shut()

    def _next(self, between: Callable[[], None]) -> int | bytes | None:
        while True:
            between()
            try:
                found = self._found.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            if not isinstance(found, Exception):
                return found
            try:
                raise found
            finally:
                del found  # the error's traceback holds this frame, and with it all that the reader had open

    def _read(self) -> None:
        try:
            with self._checked.opened(hold=self._hold) as source:
                self._hand_on(source.total_bytes)
                read = getattr(source.stream, "read1", source.stream.read)  # what is there, not what is wanted
                gathered, since = bytearray(), time.monotonic()
                while not self._left.is_set() and (came := read(CHUNK_BYTES)):
                    gathered += came
                    if len(gathered) >= CHUNK_BYTES or time.monotonic() - since > LOOK_SECONDS:
                        self._hand_on(bytes(gathered))
                        gathered, since = bytearray(), time.monotonic()
                if gathered:
                    self._hand_on(bytes(gathered))
            self._hand_on(b"")
        except Exception as error:  # noqa: BLE001 - it belongs to who waits
            self._hand_on(error)

    def _hand_on(self, found: int | bytes | Exception | None) -> None:
        while not self._left.is_set():
            with contextlib.suppress(queue.Full):
                self._found.put(found, timeout=LOOK_SECONDS)
                return

    def _hold(self, connection: socket.socket) -> None:
        self._socket = connection
        if self._left.is_set():
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is shut already, or was never connected
                socket.socket.shutdown(
                    self._socket, socket.SHUT_RDWR
                )  # an SSLSocket's own would pull it from its reader
