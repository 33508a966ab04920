"""Every error that leaves the service is a problem (RFC 9457), made here.

Rooms raise ServiceError or let a store's refusal through; `install` maps these, FastAPI's own errors and the unexpected
to one shape. Behind the handlers stands a middleware, so that no body of a library ever answers in their place.
"""

import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slidelift.service.errors import Problem, ServiceError, phrase, problem, title
from slidelift.service.jobs.job import ForbiddenMoveError
from slidelift.service.jobs.store import (
    KeyReusedError,
    SlideInUseError,
    StoreFullError,
    StoreUnavailableError,
    UnknownJobError,
    UnknownSlideError,
    UnknownTokenError,
)

MEDIA_TYPE = "application/problem+json"
BODY_MAX_BYTES = 2 * 2**20
"""Of a request in JSON: a region of interest of 20,000 points has 1 MB, and what is larger costs seconds to refuse."""
_ERRORS_TOLD = 20
_REFUSALS: dict[type[Exception], str] = {
    UnknownSlideError: "slide.unknown",
    UnknownJobError: "job.unknown",
    SlideInUseError: "slide.in-use",
    UnknownTokenError: "token.unknown",
    ForbiddenMoveError: "job.state",
    KeyReusedError: "request.idempotency-key",
    StoreFullError: "storage.full",
    StoreUnavailableError: "store.unavailable",
}
_BY_STATUS = {
    408: "request.timeout",
    404: "route.unknown",
    405: "method.not-allowed",
    413: "request.too-large",
    416: "request.range",
}
_RETRY_SECONDS = {429: "30", 503: "5", 507: "60"}
"""What `Retry-After` says: a queue moves by minutes, a database comes back in seconds, space is made by people."""
_DETAILS = {
    413: "its body is larger than this address takes; an upload goes to /v1/slides",
    404: "nothing is served here; /openapi.json lists all addresses",
    408: "the rest of its body did not come in time; send it again",
    405: "the Allow header names the methods of this address",
    416: "the Content-Range header says how long the file is",
    500: "the service's log says more; the request was not at fault",
}

log = logging.getLogger(__name__)


def error_responses() -> dict[int | str, dict[str, Any]]:
    """What a router says of its errors in the OpenAPI document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": "A problem (RFC 9457)", "content": content} for status in ("4XX", "5XX")}


def body(found: Problem, instance: str, **extensions: Any) -> dict[str, Any]:  # members as RFC 9457 §3.2 allows
    """The members of a problem, for JSON."""
    return {
        "type": f"urn:slidelift:problem:{found.code}",
        "title": title(found.code, found.status),
        "status": found.status,
        "detail": found.detail,
        "code": found.code,
        "instance": instance,
        **extensions,
    }


def problem_response(
    found: Problem, request: Request, headers: dict[str, str] | None = None, **extensions: Any
) -> JSONResponse:
    """Answer a request with a problem."""
    content = body(found, request.url.path, **extensions)
    retry = {"Retry-After": _RETRY_SECONDS[found.status]} if found.status in _RETRY_SECONDS else {}
    return JSONResponse(content, found.status, headers=retry | (headers or {}), media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make an application answer every error with a problem."""
    app.add_middleware(_OnlyProblems)

    @app.exception_handler(ServiceError)
    def known(request: Request, error: ServiceError) -> JSONResponse:
        return problem_response(error.problem, request)

    for refused, code in _REFUSALS.items():
        app.add_exception_handler(refused, _refusal_handler(code))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {"loc": list(one["loc"]), "msg": one["msg"], "type": one["type"]} for one in error.errors()[:_ERRORS_TOLD]
        ]
        places = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in errors)
        return problem_response(problem("request.invalid", places), request, errors=errors)

    @app.exception_handler(HTTPException)
    def from_framework(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_methods(request))
        return problem_response(_of_status(error.status_code), request, headers)


def _methods(request: Request) -> list[str]:
    """All methods of an address; the framework names those of the first route that it found there."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    routes = iter_route_contexts(request.app.routes)
    return sorted({method for one in routes if one.methods and one.path_regex.match(path) for method in one.methods})


def _refusal_handler(code: str) -> Callable[[Request, Exception], JSONResponse]:
    def refused(request: Request, error: Exception) -> JSONResponse:
        return problem_response(problem(code, _said(code, error)), request)

    return refused


def _said(code: str, error: Exception) -> str:
    """A store names what it misses by id alone; say it as a sentence."""
    return f"{error}: no such id" if code.endswith(".unknown") else str(error)


def _of_status(status: int) -> Problem:
    """The problem of a bare status, as libraries raise or send them."""
    code = "internal" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _BY_STATUS.get(status, "request.invalid")
    return Problem(code, _DETAILS.get(status, phrase(status)), status, by_user=code != "internal")


class _OnlyProblems:
    """Replaces the body of any error that is not a problem, and answers for what nobody caught."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = replaced = False

        async def checked(message: Message) -> None:
            nonlocal started, replaced
            if message["type"] == "http.response.start":
                started = True
                headers = Headers(raw=message["headers"])
                is_problem = headers.get("content-type", "").startswith(MEDIA_TYPE)
                if message["status"] >= HTTPStatus.BAD_REQUEST and not is_problem:
                    replaced = True
                    await _send_problem(scope, send, message["status"], headers)
                    return
            if not replaced:
                await send(message)

        try:
            await self._app(scope, receive, checked)
        except ClientDisconnect:
            log.info("a client went away in mid-request")
        except Exception:
            log.exception("%s failed", getattr(scope.get("route"), "path", "a request"))
            if started:
                raise
            await _send_problem(scope, send, HTTPStatus.INTERNAL_SERVER_ERROR, Headers())


async def _send_problem(scope: Scope, send: Send, status: int, headers: Headers) -> None:
    content = json.dumps(body(_of_status(status), scope["path"])).encode()
    kept = MutableHeaders(
        {name: headers[name] for name in ("allow", "content-range", "retry-after") if name in headers}
    )
    kept["content-type"], kept["content-length"] = MEDIA_TYPE, str(len(content))
    await send({"type": "http.response.start", "status": status, "headers": kept.raw})
    await send({"type": "http.response.body", "body": content})
