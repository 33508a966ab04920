"""How long a request's body may take, and how an answer reaches a client that is still sending one.

A connection that is closed while the client's bytes are still on their way is reset, and a reset may overtake the
answer: the client then sees a broken connection in place of the refusal. So what is left of a body is read and dropped
for a while before the end (RFC 9112 §9.6).
"""

import time

import anyio
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slidelift.service.api import request_body as receiving

LEAST_BYTES_PER_SECOND = 1024
"""Of a body as a whole, after `receiving.IDLE_SECONDS` of patience: a byte now and then holds no request open."""

LINGER_SECONDS, LINGER_SILENT_SECONDS = 30.0, 5.0
"""How long a refused body is read and dropped, and for how long it may be silent meanwhile: those of nginx."""


class BodyTimeout:
    """ASGI middleware: a request whose body does not come in time ends with `receiving.SilentError` (408).

    Only the time in which the service waits for the client counts, not the time that it takes to write.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        waited, received, is_whole = 0.0, 0, False

        async def received_in_time() -> Message:
            nonlocal waited, received, is_whole
            if is_whole:
                return await receive()  # waits for the client to go away, which may take as long as it likes
            patience = receiving.IDLE_SECONDS
            started = time.monotonic()
            try:
                with anyio.fail_after(min(patience, patience + received / LEAST_BYTES_PER_SECOND - waited)):
                    message = await receive()
            except TimeoutError as error:
                raise receiving.SilentError from error
            waited += time.monotonic() - started
            received += len(message.get("body", b""))
            is_whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        await self._app(scope, received_in_time, send)


class DrainBody:
    """ASGI middleware around all others, for a real connection: answers at once, and closes when the body has come.

    It holds back the end of an answer that came before the end of the body; the answer itself is on its way by then.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        body = _Body(receive)
        is_early, held_back = False, False

        async def answered(message: Message) -> None:
            nonlocal is_early, held_back
            if message["type"] == "http.response.start":
                is_early = not body.is_whole
                if is_early:
                    MutableHeaders(scope=message)["Connection"] = "close"
            elif is_early and not message.get("more_body", False):
                held_back, message = True, {**message, "more_body": True}
            await send(message)

        await self._app(scope, body.receive, answered)
        if held_back:
            await body.drop()
            await send({"type": "http.response.body", "body": b""})


class _Body:
    """What of a request's body has come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_whole = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drop(self) -> None:
        with anyio.move_on_after(LINGER_SECONDS):
            while not self.is_whole:
                with anyio.move_on_after(LINGER_SILENT_SECONDS) as silence:
                    await self.receive()
                if silence.cancelled_caught:
                    return


def _has_body(scope: Scope) -> bool:
    named = {name.lower(): value for name, value in scope["headers"]}
    return b"transfer-encoding" in named or named.get(b"content-length", b"0").strip(b"0") != b""
