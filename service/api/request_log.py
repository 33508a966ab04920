"""Counts and logs every request: method, route, status, seconds, ids; never the raw URL, which may name a patient."""

import logging
import re
import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slidelift.service.api.counters import Counters

REQUEST_ID = "X-Request-Id"
_ID = re.compile(r"[0-9a-f]{32}")
_UNKNOWN = "(none)"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

log = logging.getLogger(__name__)


class RequestLog:
    """Outermost ASGI middleware of the application; adds X-Request-Id, which the log also contains."""

    def __init__(self, app: ASGIApp, counters: Counters) -> None:
        self._app, self._counters = app, counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, request_id, status, sent = time.monotonic(), uuid.uuid4().hex[:16], 0, 0

        async def send_counted(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            self._record(scope, request_id, status, sent, time.monotonic() - started)

    def _record(self, scope: Scope, request_id: str, status: int, sent: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", _UNKNOWN)
        # An invented method would create a time series of its own and put arbitrary text into the log.
        method = scope["method"] if scope["method"] in _METHODS else "(other)"
        self._counters.count_request(method, route, status, seconds)
        # Only ids: the path of a PUT ends in the slide's name.
        parameters = scope.get("path_params", {}).items()
        ids = {name: value for name, value in parameters if isinstance(value, str) and _ID.fullmatch(value)}
        caller = scope.get("slidelift.caller")
        owner = {"token": caller.owner} if caller is not None and caller.owner else {}
        fields = {"request": request_id, "method": method, "route": route, "status": status, **ids, **owner}
        is_quiet = route.startswith("/health") or "_files/" in route  # a viewer requests hundreds of tiles
        suffix = "".join(f" {name}={value}" for name, value in (ids | owner).items())
        log.log(
            logging.DEBUG if is_quiet else logging.INFO,
            "%s %s %d %.3f s %s%s",
            *(method, route, status, seconds, request_id, suffix),
            extra={**fields, "seconds": round(seconds, 4), "bytes_sent": sent},
        )
