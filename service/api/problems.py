"""Error responses as problems (RFC 9457).

Routes raise ServiceError or let a StoreError through. `install` adds handlers that convert these, FastAPI's own errors
and unexpected exceptions to problems, and a middleware that replaces error bodies which libraries send themselves.
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

from slidelift.service.errors import Problem, ServiceError, phrase, title
from slidelift.service.errors import problem as make_problem
from slidelift.service.jobs.job import ForbiddenTransitionError
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
"""Limit of JSON bodies. A region of interest of 20,000 points has 1 MB; validating larger bodies takes seconds."""
_MAX_ERRORS = 20
_STORE_ERROR_CODES: dict[type[Exception], str] = {
    UnknownSlideError: "slide.unknown",
    UnknownJobError: "job.unknown",
    SlideInUseError: "slide.in-use",
    UnknownTokenError: "token.unknown",
    ForbiddenTransitionError: "job.state",
    KeyReusedError: "request.idempotency-key",
    StoreFullError: "storage.full",
    StoreUnavailableError: "store.unavailable",
}
_CODE_BY_STATUS = {
    408: "request.timeout",
    404: "route.unknown",
    405: "method.not-allowed",
    413: "request.too-large",
    416: "request.range",
}
_RETRY_SECONDS = {429: "30", 503: "5", 507: "60"}
"""`Retry-After` in seconds by status: for a full queue, an unavailable database and a full disk."""
_DETAILS = {
    413: "the body is too large for this address; upload slides to /v1/slides",
    404: "this address does not exist; /openapi.json lists all addresses",
    408: "the rest of the body did not arrive in time; send the request again",
    405: "the Allow header lists the methods of this address",
    416: "the Content-Range header contains the size of the file",
    500: "an internal error; the service's log has the details",
}

log = logging.getLogger(__name__)


def error_responses() -> dict[int | str, dict[str, Any]]:
    """Error responses of a router in the OpenAPI document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": "A problem (RFC 9457).", "content": content} for status in ("4XX", "5XX")}


def problem_body(problem: Problem, instance: str, **extensions: Any) -> dict[str, Any]:
    """JSON members of a problem, with extension members (RFC 9457 §3.2)."""
    return {
        "type": f"urn:slidelift:problem:{problem.code}",
        "title": title(problem.code, problem.status),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "instance": instance,
        **extensions,
    }


def problem_response(
    problem: Problem, request: Request, headers: dict[str, str] | None = None, **extensions: Any
) -> JSONResponse:
    """Make the response to a request that failed with a problem."""
    content = problem_body(problem, request.url.path, **extensions)
    retry = {"Retry-After": _RETRY_SECONDS[problem.status]} if problem.status in _RETRY_SECONDS else {}
    return JSONResponse(content, problem.status, headers=retry | (headers or {}), media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make an application return every error as a problem."""
    app.add_middleware(_ProblemMiddleware)

    @app.exception_handler(ServiceError)
    def from_service(request: Request, error: ServiceError) -> JSONResponse:
        return problem_response(error.problem, request)

    for store_error, code in _STORE_ERROR_CODES.items():
        app.add_exception_handler(store_error, _store_error_handler(code))

    @app.exception_handler(RequestValidationError)
    def from_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {"loc": list(one["loc"]), "msg": one["msg"], "type": one["type"]} for one in error.errors()[:_MAX_ERRORS]
        ]
        places = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in errors)
        return problem_response(make_problem("request.invalid", places), request, errors=errors)

    @app.exception_handler(HTTPException)
    def from_framework(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_methods(request))
        return problem_response(_of_status(error.status_code), request, headers)


def _methods(request: Request) -> list[str]:
    """All methods of a path; Starlette lists only those of the first route that matches it."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    routes = iter_route_contexts(request.app.routes)
    return sorted({method for one in routes if one.methods and one.path_regex.match(path) for method in one.methods})


def _store_error_handler(code: str) -> Callable[[Request, Exception], JSONResponse]:
    def from_store(request: Request, error: Exception) -> JSONResponse:
        # The message of an unknown-id error is the id alone.
        detail = f"{error}: no such id" if code.endswith(".unknown") else str(error)
        return problem_response(make_problem(code, detail), request)

    return from_store


def _of_status(status: int) -> Problem:
    """Make the problem of an error that has only a status, as libraries raise or send them."""
    code = "internal" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _CODE_BY_STATUS.get(status, "request.invalid")
    return Problem(code, _DETAILS.get(status, phrase(status)), status, by_user=code != "internal")


class _ProblemMiddleware:
    """ASGI middleware: replaces error bodies that are not problems, and responds to unhandled exceptions."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = is_replaced = False

        async def send_problems(message: Message) -> None:
            nonlocal has_started, is_replaced
            if message["type"] == "http.response.start":
                has_started = True
                headers = Headers(raw=message["headers"])
                is_problem = headers.get("content-type", "").startswith(MEDIA_TYPE)
                if message["status"] >= HTTPStatus.BAD_REQUEST and not is_problem:
                    is_replaced = True
                    await _send_problem(scope, send, message["status"], headers)
                    return
            if not is_replaced:
                await send(message)

        try:
            await self._app(scope, receive, send_problems)
        except ClientDisconnect:
            log.info("a client disconnected during a request")
        except Exception:
            log.exception("%s failed", getattr(scope.get("route"), "path", "a request"))
            if has_started:
                raise
            await _send_problem(scope, send, HTTPStatus.INTERNAL_SERVER_ERROR, Headers())


async def _send_problem(scope: Scope, send: Send, status: int, headers: Headers) -> None:
    content = json.dumps(problem_body(_of_status(status), scope["path"])).encode()
    kept = MutableHeaders(
        {name: headers[name] for name in ("allow", "content-range", "retry-after") if name in headers}
    )
    kept["content-type"], kept["content-length"] = MEDIA_TYPE, str(len(content))
    await send({"type": "http.response.start", "status": status, "headers": kept.raw})
    await send({"type": "http.response.body", "body": content})
