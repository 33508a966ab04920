"""Child processes that decode tiles for viewers; each is lent to one request at a time.

A crash of a decoder costs only the tile that it was decoding. Children are started for the first request and end when
there has been none for a minute. `service.pipeline.tile_decoder` does the decoding.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from slidelift.service.errors import ServiceError, problem, refusal
from slidelift.service.pipeline.image_source import ImageSource, TileFormat
from slidelift.service.processes.child_process import CHILD_MODULE, ChildEndedError, ChildProcess
from slidelift.service.processes.protocol import (
    Answer,
    DecodeRequest,
    DecodeTile,
    Failed,
    MapRead,
    ReadMap,
    ReadSize,
    SizeRead,
    TileDecoded,
)
from slidelift.service.processes.runner import error_of

CHILDREN = 3
"""Tiles decoded at a time: a viewer requests six, and a machine that upscales has other work for its cores."""
_CHILDREN_PER_IMAGE = CHILDREN - 1
"""Limit per image, so that one slow slide cannot block the others."""
_MAX_WAITING = 200
_TIMEOUT_SECONDS = 30.0
_IDLE_SECONDS = 60.0

log = logging.getLogger(__name__)

A = TypeVar("A", TileDecoded, SizeRead, MapRead)


class DecoderPool:
    """The child processes. `tile`, `size`, `map` and `close` must be called from the event loop."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(CHILDREN)
        self._image_limits: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._idle: list[ChildProcess] = []
        self._lock = threading.Lock()
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    async def tile(
        self,
        source: ImageSource,
        level: int,
        column: int,
        row: int,
        image_format: TileFormat,
        is_disconnected: Callable[[], Awaitable[bool]],
    ) -> bytes:
        """Decode one Deep Zoom tile.

        Parameters
        ----------
        is_disconnected
            Called when a child is free for this tile, which is then decoded only if the viewer still waits.

        Raises
        ------
        ServiceError
            view.tile, view.busy, or the reason why the image can't be opened or the tile not decoded.
        ClientDisconnect
            `is_disconnected` returned True.
        """
        request = DecodeTile(source, level, column, row, image_format)
        return (await self._request(request, TileDecoded, is_disconnected)).data

    async def size(self, source: ImageSource) -> tuple[int, int]:
        """Return width and height of the finest level in pixels."""
        size = await self._request(ReadSize(source), SizeRead)
        return size.width, size.height

    async def map(self, source: ImageSource) -> dict[str, Any]:
        """Return the tile map of a result, see `service.pipeline.tile_decoder.TileDecoder.map`."""
        return (await self._request(ReadMap(source), MapRead)).map

    def close(self) -> None:
        """End all idle children."""
        if self._timer is not None:
            self._timer.cancel()
        self._end_idle()

    async def _request(
        self,
        request: DecodeRequest,
        expected: type[A],
        is_disconnected: Callable[[], Awaitable[bool]] | None = None,
    ) -> A:
        if self._waiting >= _MAX_WAITING:
            raise refusal("view.busy", f"{self._waiting} requests for tiles are waiting; try again in a moment")
        self._waiting += 1
        image_limit = self._image_limits.setdefault(str(request.source.path), asyncio.Semaphore(_CHILDREN_PER_IMAGE))
        try:
            async with image_limit, self._free:
                if is_disconnected is not None and await is_disconnected():
                    raise ClientDisconnect
                answer = await run_in_threadpool(self._answer, request)
        finally:
            self._waiting -= 1
            self._end_idle_later()
        if not isinstance(answer, expected):
            raise error_of(answer)
        return answer

    def _answer(self, request: DecodeRequest) -> Answer:
        source = request.source
        child = self._idle_child() or ChildProcess(CHILD_MODULE, "decode")
        try:
            child.send(request)
            answer = child.receive(_TIMEOUT_SECONDS)
        except TimeoutError:
            _end(child)
            detail = f"{source.name}: no answer after {_TIMEOUT_SECONDS:g} s; try again"
            raise refusal("view.busy", detail) from None
        except ChildEndedError:
            _end(child)
            # Without the child's last error output, which may be about an earlier request and another user's slide.
            death = child.cause_of_death()
            detail = f"{source.name}: the process that decodes {death}; this part of the image may be damaged"
            raise ServiceError(problem("slide.tile-unreadable", detail)) from None
        except BaseException:
            _end(child)
            raise
        with self._lock:
            self._idle.append(child)
        if isinstance(answer, Failed) and not answer.problem.by_user:
            log.error("decoding a %s failed: %s: %s", source.kind, answer.problem.code, answer.problem.detail)
        return answer

    def _idle_child(self) -> ChildProcess | None:
        """Take an idle child that is alive; one that has died since its last answer is discarded."""
        while True:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            if child is None or child.process.poll() is None:
                return child
            _end(child)

    def _end_idle_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_IDLE_SECONDS, lambda: loop.run_in_executor(None, self._end_idle))

    def _end_idle(self) -> None:
        with self._lock:
            ended, self._idle = self._idle, []
        for child in ended:
            _end(child)


def _end(child: ChildProcess) -> None:
    child.kill()
    child.close()
