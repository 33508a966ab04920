"""The parent's side of looking at slides: child processes that decode tiles for viewers, lent out one question each.

A crash of a decoder costs the tile that it met. The children are started at the first question and end when nobody has
looked for a minute; what they read, and how, is `service.pipeline.tile_decoder`.
"""

import asyncio
import base64
import logging
import queue
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from slidelift.service.errors import Problem, ServiceError, problem, refusal
from slidelift.service.processes.runner import Child

CHILDREN = 3
"""Tiles decoded at a time: a viewer asks for six, and a machine that upscales has other work for its cores."""
_FOR_ONE = CHILDREN - 1
"""Tiles of one slide at a time: one that takes half a minute for each must not keep everybody from theirs."""
_MOST_WAITING = 200
_TIMEOUT_SECONDS = 30.0
_IDLE_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """What is looked at.

    Attributes
    ----------
    kind
        "slide", "result" or "stripes" (of a result in the making).
    path
        The slide's file, the result's, or where the result will be.
    format
        The name of the output's format; None of a slide.
    slide, mpp
        Of stripes: the file of their slide, and its µm per pixel where the job says it.
    report
        Of a result: the file of its report.
    """

    kind: str
    path: str
    format: str | None = None
    slide: str | None = None
    mpp: tuple[float, float] | None = None
    report: str | None = None

    def without_folders(self, said: str) -> str:
        """What was said of these files, without where they lie."""
        for path in (self.path, self.slide, self.report):
            said = said.replace(f"{Path(path).parent}/", "") if path else said
        return said


class DecoderPool:
    """The children; `tile`, `size` and `map` belong to the event loop, and so does `close`."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(CHILDREN)
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._idle: list[Child] = []
        self._lock = threading.Lock()
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    async def tile(
        self,
        source: ImageSource,
        level: int,
        column: int,
        row: int,
        image_format: str,
        is_given_up: Callable[[], Awaitable[bool]],
    ) -> bytes:
        """One encoded tile of Deep Zoom.

        Parameters
        ----------
        image_format
            "jpeg" or "png".
        is_given_up
            Asked when it is this tile's turn: a viewer that has moved on wants it no longer.

        Raises
        ------
        ServiceError
            view.tile, view.busy, or what kept the slide from being opened or decoded.
        ClientDisconnect
            Given up.
        """
        question = {"what": "tile", "level": level, "column": column, "row": row, "format": image_format}
        return base64.b64decode((await self._ask(source, question, is_given_up))["tile"])

    async def size(self, source: ImageSource) -> tuple[int, int]:
        """Width and height of the finest level."""
        width, height = (await self._ask(source, {"what": "size"}))["size"]
        return width, height

    async def map(self, source: ImageSource) -> dict[str, Any]:
        """Where a result lies on its slide, and what became of each of its tiles."""
        found: dict[str, Any] = (await self._ask(source, {"what": "map"}))["map"]
        return found

    def close(self) -> None:
        """End all children that nobody has."""
        if self._timer is not None:
            self._timer.cancel()
        self._end_idle()

    async def _ask(
        self, source: ImageSource, question: dict[str, Any], is_given_up: Callable[[], Awaitable[bool]] | None = None
    ) -> dict[str, Any]:
        if self._waiting >= _MOST_WAITING:
            raise refusal("view.busy", f"{self._waiting} tiles are waited for; ask again in a moment")
        self._waiting += 1
        turn = self._turns.setdefault(source.path, asyncio.Semaphore(_FOR_ONE))
        try:
            async with turn, self._free:
                if is_given_up is not None and await is_given_up():
                    raise ClientDisconnect
                return await run_in_threadpool(self._asked, {"look": {**question, "of": asdict(source)}}, source)
        finally:
            self._waiting -= 1
            self._end_later()

    def _asked(self, question: dict[str, Any], source: ImageSource) -> dict[str, Any]:
        child = self._taken() or Child("slidelift.service.processes.child", "look")
        try:
            child.send(question)
            message = child.messages.get(timeout=_TIMEOUT_SECONDS)
        except queue.Empty:
            _end(child)
            raise refusal(
                "view.busy", f"{Path(source.path).name}: no answer after {_TIMEOUT_SECONDS:g} s; ask again"
            ) from None
        except BaseException:
            _end(child)
            raise
        if message is None:
            _end(child)
            # Its last words may be of a question before this, and of somebody else's slide.
            detail = f"the process that decodes died of {child.cause_of_death()}; this part of it may be damaged"
            raise ServiceError(problem("slide.tile-unreadable", f"{Path(source.path).name}: {detail}"))
        with self._lock:
            self._idle.append(child)
        if "problem" in message:
            found = Problem(**message["problem"])
            found = replace(found, detail=source.without_folders(found.detail))
            if not found.by_user:
                log.error("looking at a %s failed: %s: %s", source.kind, found.code, found.detail)
            raise ServiceError(found)
        return message

    def _taken(self) -> Child | None:
        """A child that waits; one that has died since its last answer costs no tile."""
        while True:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            if child is None or child.process.poll() is None:
                return child
            _end(child)

    def _end_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_IDLE_SECONDS, lambda: loop.run_in_executor(None, self._end_idle))

    def _end_idle(self) -> None:
        with self._lock:
            ended, self._idle = self._idle, []
        for child in ended:
            _end(child)


def _end(child: Child) -> None:
    child.kill()
    child.close()
