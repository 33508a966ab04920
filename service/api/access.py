"""Who calls, and may they: bearer tokens (RFC 6750), looked at before any of a request's body is read.

Without tokens (a service that only this machine can reach) every caller may do everything, and nothing has an owner.
"""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import response
from service.codes import problem, refusal
from service.errors import Problem
from service.jobs import token as tokens
from service.jobs.store import StoreUnavailableError
from service.jobs.token import Token

OPEN = ("/health", "/docs", "/openapi.json", "/page")
"""What anybody may see: a balancer asks for health, how to call the service is no secret, and the page holds nothing
but the means to ask; at / it opens likewise, but nothing below it."""
_READING = ("GET", "HEAD", "OPTIONS")
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="slidelift"'}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes
    ----------
    token
        None where none is asked for.
    """

    token: Token | None = None
    scopes: frozenset[tokens.Scope] = field(default_factory=lambda: frozenset(tokens.Scope))

    @property
    def owner(self) -> str | None:
        """The owner of what the caller makes."""
        return self.token.id if self.token else None

    @property
    def only(self) -> str | None:
        """The one owner whose things the caller may see; None for everybody's."""
        return None if tokens.Scope.ADMIN in self.scopes else self.owner

    def may(self, scope: tokens.Scope) -> bool:
        """Whether the caller's token has that scope, or all."""
        return scope in self.scopes or tokens.Scope.ADMIN in self.scopes

    def sees(self, owner: str | None) -> bool:
        """Whether what belongs to that owner is the caller's to see; what is not does not exist for them."""
        return self.only is None or owner == self.only


EVERYBODY = Caller()


def _of_request(request: Request) -> Caller:
    return cast(Caller, request.scope["slidelift.caller"])


InCaller = Annotated[Caller, Depends(_of_request)]


def require_admin(caller: Caller) -> None:
    """Raise ServiceError access.scope unless the caller may see what is everybody's."""
    if caller.only is not None:
        raise refusal("access.scope", "this needs a token of scope admin")


class Access:
    """ASGI middleware: finds the caller, or answers 401 or 403 in the application's place."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found = await self._found(scope)
        if isinstance(found, Problem):
            headers = _CHALLENGE if found.status == HTTPStatus.UNAUTHORIZED else {}
            await response(found, Request(scope), headers)(scope, receive, send)
            return
        scope["slidelift.caller"] = found
        await self._app(scope, receive, send)

    async def _found(self, scope: Scope) -> Caller | Problem:
        context = scope["app"].state.context
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not context.settings.asks_for_tokens or _is_open(path):
            return EVERYBODY
        if scope["method"] == "OPTIONS" and "access-control-request-method" in Headers(scope=scope):
            return EVERYBODY  # a browser's preflight carries no token
        kind, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            return problem(
                "access.token-missing", "send the header Authorization: Bearer <token>; see `slidelift token`"
            )
        try:
            token = await run_in_threadpool(context.store.token, tokens.hash_of(secret.strip()))
        except StoreUnavailableError as error:
            return problem("store.unavailable", str(error))
        if token is None or not token.is_valid(context.clock()):
            return problem("access.token-invalid", "the token is not known here, was revoked or has expired")
        caller = Caller(token, token.scopes)
        needed = tokens.Scope.READ if scope["method"] in _READING else tokens.Scope.WRITE
        if not caller.may(needed):
            return problem("access.scope", f"this needs a token of scope {needed}; this one has {_listed(token)}")
        return caller


def _is_open(path: str) -> bool:
    return path == "/" or any(path == one or path.startswith(f"{one}/") for one in OPEN)


def _listed(token: Token) -> str:
    return ", ".join(sorted(token.scopes)) or "none"
