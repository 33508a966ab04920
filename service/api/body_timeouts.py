"""Middleware for request bodies: a timeout, and responses that reach a client that is still sending.

Closing a connection while the client sends causes a reset, which can reach the client before the response does. The
rest of the body is therefore read and discarded for a while before the connection is closed (RFC 9112 §9.6).
"""

import time

import anyio
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slidelift.service.api import request_body

MIN_BYTES_PER_SECOND = 1024
"""Minimum rate of a body after `request_body.IDLE_SECONDS`, so that a slow trickle cannot keep a request open."""

DRAIN_SECONDS, DRAIN_IDLE_SECONDS = 30.0, 5.0
"""Limits for discarding the rest of a body: in total, and without a byte. The same as in nginx."""


class BodyTimeout:
    """ASGI middleware: raises `BodyTimeoutError` (408) in a request whose body does not arrive in time.

    Only the time spent waiting for the client counts, not the time spent writing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        waited, received, is_whole = 0.0, 0, False

        async def receive_in_time() -> Message:
            nonlocal waited, received, is_whole
            if is_whole:
                return await receive()  # waits for the disconnect, without a limit
            idle = request_body.IDLE_SECONDS
            started = time.monotonic()
            try:
                with anyio.fail_after(min(idle, idle + received / MIN_BYTES_PER_SECOND - waited)):
                    message = await receive()
            except TimeoutError as error:
                raise request_body.BodyTimeoutError from error
            waited += time.monotonic() - started
            received += len(message.get("body", b""))
            is_whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)


class DrainBody:
    """Outermost ASGI middleware: sends a response immediately, and ends it after the request body has arrived.

    If a response is complete before the request body is, its last message is held back while the body is discarded.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        body = _Body(receive)
        is_early, held_back = False, False

        async def send_early(message: Message) -> None:
            nonlocal is_early, held_back
            if message["type"] == "http.response.start":
                is_early = not body.is_whole
                if is_early:
                    MutableHeaders(scope=message)["Connection"] = "close"
            elif is_early and not message.get("more_body", False):
                held_back, message = True, {**message, "more_body": True}
            await send(message)

        await self._app(scope, body.receive, send_early)
        if held_back:
            await body.discard()
            await send({"type": "http.response.body", "body": b""})


class _Body:
    """Tracks whether a request body has arrived completely."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_whole = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def discard(self) -> None:
        with anyio.move_on_after(DRAIN_SECONDS):
            while not self.is_whole:
                with anyio.move_on_after(DRAIN_IDLE_SECONDS) as idle:
                    await self.receive()
                if idle.cancelled_caught:
                    return


def _has_body(scope: Scope) -> bool:
    headers = {name.lower(): value for name, value in scope["headers"]}
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0") != b""
