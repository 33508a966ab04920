"""Authentication and authorisation by bearer token (RFC 6750) or session cookie, before any of the body is read.

Without tokens (a service that only this machine can reach) every caller may do everything, and nothing has an owner.

A page of another site can make a browser send requests (CSRF). A request that changes something is therefore refused if
its header Sec-Fetch-Site names another site. Browsers do not send that header over plain http; there, Origin is checked
instead. A request with the cookie must also have the header X-Slidelift. A page of another site can send that header
only after a CORS preflight, which the service refuses.

A service without tokens responds only to the names of this machine: an attacker's host name may resolve to it (DNS
rebinding), and the browser then treats the attacker's pages as pages of this service.
"""

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from slidelift.service.api.context import Context
from slidelift.service.api.problems import problem_response
from slidelift.service.auth import tokens
from slidelift.service.auth.sessions import claimed_token, read_key, verified_session
from slidelift.service.auth.tokens import Token
from slidelift.service.errors import Problem, problem, refusal
from slidelift.service.jobs.store import StoreUnavailableError

PUBLIC_PATHS = ("/health", "/docs", "/openapi.json", "/page", "/v1/session")
"""Paths without authentication: health checks, documentation, the static page (also at /), and signing in."""
COOKIE = "slidelift_session"
PAGE_HEADER = ("X-Slidelift", "page")
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="slidelift"'}
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_SAME_SITE = ("same-origin", "none")
_ORIGIN = re.compile(r"(https?)://([^/?#@]+)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_LOOPBACK_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request.

    Attributes
    ----------
    token
        None on a service without tokens.
    expires
        When the token or the session expires, in seconds since 1970; None for never.
    by_cookie
        Whether the caller was identified by a session cookie.
    """

    token: Token | None = None
    scopes: frozenset[tokens.Scope] = field(default_factory=lambda: frozenset(tokens.Scope))
    expires: float | None = None
    by_cookie: bool = False

    @property
    def owner(self) -> str | None:
        """Owner of what the caller creates."""
        return self.token.id if self.token else None

    @property
    def only(self) -> str | None:
        """The only owner whose slides and jobs the caller may see; None for all owners."""
        return None if tokens.Scope.ADMIN in self.scopes else self.owner

    def may(self, scope: tokens.Scope) -> bool:
        """Whether the caller's token has that scope or `admin`."""
        return scope in self.scopes or tokens.Scope.ADMIN in self.scopes

    def sees(self, owner: str | None) -> bool:
        """Whether the caller may see the slides and jobs of that owner. Those of others are reported as unknown."""
        return self.only is None or owner == self.only

    def is_still_valid(self, context: Context) -> bool:
        """Whether the token or session is still valid; for responses that last for hours."""
        if self.token is None:
            return True
        is_unexpired = self.expires is None or context.clock() < self.expires
        token = context.store.token(self.token.sha256)
        return is_unexpired and token is not None and (not self.by_cookie or token.generation == self.token.generation)


ANONYMOUS = Caller()


async def _of_request(request: Request) -> Caller:  # async, because FastAPI runs other functions in threads
    return cast(Caller, request.scope["slidelift.caller"])


InCaller = Annotated[Caller, Depends(_of_request)]


def require_admin(caller: Caller) -> None:
    """Raise ServiceError access.scope unless the caller may see everything."""
    if caller.only is not None:
        raise refusal("access.scope", "this requires a token with scope admin")


def identify(connection: HTTPConnection, context: Context) -> Caller | Problem:
    """Find the caller by the Authorization header, or by the session cookie if there is no such header."""
    authorization = connection.headers.get("authorization")
    if authorization is None and (cookie := connection.cookies.get(COOKIE)):
        return _identify_by_cookie(cookie, context)
    kind, _, secret = (authorization or "").partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        return problem("access.token-missing", "send the header Authorization: Bearer <token>; see `slidelift token`")
    token = context.store.token(tokens.hash_of(secret.strip()))
    if token is None or not token.is_valid(context.clock()):
        return problem("access.token-invalid", "the token is unknown, was revoked or has expired")
    return Caller(token, token.scopes, token.expires)


def _identify_by_cookie(cookie: str, context: Context) -> Caller | Problem:
    now, key, sha256 = context.clock(), read_key(context.settings.data_dir), claimed_token(cookie)
    token = context.store.token(sha256) if key and sha256 else None
    session = verified_session(cookie, key, token.generation) if key and token else None
    if token is None or session is None or not (session.is_valid(now) and token.is_valid(now)):
        return problem("access.token-invalid", "the session is unknown or has ended: sign in again")
    return Caller(token, token.scopes, float(session.expires), by_cookie=True)


class Access:
    """ASGI middleware: identifies the caller, or responds with 401 or 403."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = await self._authorise(HTTPConnection(scope))
        if isinstance(caller, Problem):
            headers = CHALLENGE if caller.status == HTTPStatus.UNAUTHORIZED else {}
            await problem_response(caller, Request(scope), headers)(scope, receive, send)
            return
        scope["slidelift.caller"] = caller
        await self._app(scope, receive, send)

    async def _authorise(self, connection: HTTPConnection) -> Caller | Problem:
        scope, context = connection.scope, connection.app.state.context
        is_safe, by_browser = scope["method"] in _SAFE_METHODS, "authorization" not in connection.headers
        if by_browser and not is_safe and _is_cross_site(connection, context.settings.cors_origins):
            detail = (
                "pages of other sites may not send this request; if a proxy changes the header Host, configure it to "
                "send X-Forwarded-Host"
            )
            return problem("access.cross-site", detail)
        if not context.settings.asks_for_tokens and not _LOOPBACK_HOST.fullmatch(
            connection.headers.get("host", "localhost")
        ):
            detail = "without tokens the service responds to localhost only; SLIDELIFT_AUTH=on allows any host name"
            return problem("access.cross-site", detail)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not context.settings.asks_for_tokens or _is_public(path):
            return ANONYMOUS
        if scope["method"] == "OPTIONS" and "access-control-request-method" in connection.headers:
            return ANONYMOUS  # a preflight has no token
        name, value = PAGE_HEADER
        if by_browser and not is_safe and COOKIE in connection.cookies and connection.headers.get(name) != value:
            return problem("access.cross-site", f"with a session cookie the request needs the header {name}: {value}")
        try:
            caller = await run_in_threadpool(identify, connection, context)
        except StoreUnavailableError as error:
            return problem("store.unavailable", str(error))
        if isinstance(caller, Problem):
            return caller
        needed = tokens.Scope.READ if is_safe else tokens.Scope.WRITE
        if not caller.may(needed):
            listed = ", ".join(sorted(caller.scopes)) or "none"
            return problem("access.scope", f"this requires a token with scope {needed}; the token has {listed}")
        return caller


def _is_cross_site(connection: HTTPConnection, allowed_origins: tuple[str, ...]) -> bool:
    """Whether a page of another site made the request, by the browser's headers; another port is another site."""
    site, origin = connection.headers.get("sec-fetch-site"), connection.headers.get("origin")
    if origin in allowed_origins:
        return False
    if site is not None:
        return site not in _SAME_SITE
    return origin is not None and not _is_own_origin(origin, connection)


def _is_own_origin(origin: str, connection: HTTPConnection) -> bool:
    """Whether an origin has the host name of the request, or of the proxy's request; "null" has no host name.

    A page cannot set Host or X-Forwarded-Host in a request without a preflight.
    """
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return False
    scheme, host = match[1].lower(), match[2].lower()
    names = [connection.headers.get("host", ""), connection.headers.get("x-forwarded-host", "").partition(",")[0]]
    port = _DEFAULT_PORTS[scheme]
    return host.removesuffix(port) in {name.strip().lower().removesuffix(port) for name in names} - {""}


def _is_public(path: str) -> bool:
    return path == "/" or any(path == public or path.startswith(f"{public}/") for public in PUBLIC_PATHS)
