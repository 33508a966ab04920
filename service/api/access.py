"""Who calls, and may they: bearer tokens (RFC 6750) or a session's cookie, looked at before any of a body is read.

Without tokens (a service that only this machine can reach) every caller may do everything, and nothing has an owner.

What a browser sends by itself, a page of another site can make it send. So a request that changes something is refused
where the browser says that another site's page has made it: by Sec-Fetch-Site, or by Origin where it does not send
that, as to a plain http address; and with the cookie it must carry a header that such a page
can't send without asking the service first (CORS), which says no. And a service without tokens answers to this
machine's own names alone: a site may let its name lead here (DNS rebinding), and its pages are then no other site's.
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

OPEN = ("/health", "/docs", "/openapi.json", "/page", "/v1/session")
"""For anybody: a balancer asks for health, how to call the service is no secret, the page holds nothing but the means
to ask, and who signs in is not signed in. At / the page opens likewise, but nothing below it."""
COOKIE = "slidelift_session"
FROM_THE_PAGE = ("X-Slidelift", "page")
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="slidelift"'}
_READING = ("GET", "HEAD", "OPTIONS")
_FROM_HERE = ("same-origin", "none")
_ORIGIN = re.compile(r"(https?)://([^/?#@]+)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_THIS_MACHINE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes
    ----------
    token
        None where none is asked for.
    expires
        When the token ends, or the session before it, in seconds since 1970; None for never.
    by_cookie
        Whether a session was shown in the place of the token.
    """

    token: Token | None = None
    scopes: frozenset[tokens.Scope] = field(default_factory=lambda: frozenset(tokens.Scope))
    expires: float | None = None
    by_cookie: bool = False

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

    def is_still_known(self, context: Context) -> bool:
        """Whether the caller would be let in again; for answers that go on for hours."""
        if self.token is None:
            return True
        in_time = self.expires is None or context.clock() < self.expires
        found = context.store.token(self.token.sha256)
        return in_time and found is not None and (not self.by_cookie or found.generation == self.token.generation)


EVERYBODY = Caller()


async def _of_request(request: Request) -> Caller:  # async: it would take a thread otherwise
    return cast(Caller, request.scope["slidelift.caller"])


InCaller = Annotated[Caller, Depends(_of_request)]


def require_admin(caller: Caller) -> None:
    """Raise ServiceError access.scope unless the caller may see what is everybody's."""
    if caller.only is not None:
        raise refusal("access.scope", "this needs a token of scope admin")


def identified(connection: HTTPConnection, context: Context) -> Caller | Problem:
    """Find whose token or cookie a request brings; the cookie counts where there is no Authorization header."""
    authorization = connection.headers.get("authorization")
    if authorization is None and (cookie := connection.cookies.get(COOKIE)):
        return _by_cookie(cookie, context)
    kind, _, secret = (authorization or "").partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        return problem("access.token-missing", "send the header Authorization: Bearer <token>; see `slidelift token`")
    token = context.store.token(tokens.hash_of(secret.strip()))
    if token is None or not token.is_valid(context.clock()):
        return problem("access.token-invalid", "the token is not known here, was revoked or has expired")
    return Caller(token, token.scopes, token.expires)


def _by_cookie(cookie: str, context: Context) -> Caller | Problem:
    now, key, sha256 = context.clock(), read_key(context.settings.data_dir), claimed_token(cookie)
    token = context.store.token(sha256) if key and sha256 else None
    session = verified_session(cookie, key, token.generation) if key and token else None
    if token is None or session is None or not (session.is_valid(now) and token.is_valid(now)):
        return problem("access.token-invalid", "the session is not one of this service, or is over: sign in again")
    return Caller(token, token.scopes, float(session.expires), by_cookie=True)


class Access:
    """ASGI middleware: finds the caller, or answers 401 or 403 in the application's place."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found = await self._found(HTTPConnection(scope))
        if isinstance(found, Problem):
            headers = CHALLENGE if found.status == HTTPStatus.UNAUTHORIZED else {}
            await problem_response(found, Request(scope), headers)(scope, receive, send)
            return
        scope["slidelift.caller"] = found
        await self._app(scope, receive, send)

    async def _found(self, connection: HTTPConnection) -> Caller | Problem:
        scope, context = connection.scope, connection.app.state.context
        is_reading, by_browser = scope["method"] in _READING, "authorization" not in connection.headers
        if by_browser and not is_reading and _says_another_site(connection, context.settings.cors_origins):
            detail = (
                "a page of another site may not do that; where a proxy calls the service by another name than browsers "
                "do, let it send X-Forwarded-Host"
            )
            return problem("access.cross-site", detail)
        if not context.settings.asks_for_tokens and not _THIS_MACHINE.fullmatch(
            connection.headers.get("host", "localhost")
        ):
            detail = "without tokens the service answers to localhost alone; with SLIDELIFT_AUTH=on to any name"
            return problem("access.cross-site", detail)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not context.settings.asks_for_tokens or _is_open(path):
            return EVERYBODY
        if scope["method"] == "OPTIONS" and "access-control-request-method" in connection.headers:
            return EVERYBODY  # a browser's preflight carries no token
        name, value = FROM_THE_PAGE
        if by_browser and not is_reading and COOKIE in connection.cookies and connection.headers.get(name) != value:
            return problem("access.cross-site", f"with a session's cookie that takes the header {name}: {value} too")
        try:
            caller = await run_in_threadpool(identified, connection, context)
        except StoreUnavailableError as error:
            return problem("store.unavailable", str(error))
        if isinstance(caller, Problem):
            return caller
        needed = tokens.Scope.READ if is_reading else tokens.Scope.WRITE
        if not caller.may(needed):
            listed = ", ".join(sorted(caller.scopes)) or "none"
            return problem("access.scope", f"this needs a token of scope {needed}; this one has {listed}")
        return caller


def _says_another_site(connection: HTTPConnection, welcome: tuple[str, ...]) -> bool:
    """What a browser says of the page that makes it ask; another port of this machine is another site too."""
    site, origin = connection.headers.get("sec-fetch-site"), connection.headers.get("origin")
    if origin in welcome:
        return False
    if site is not None:
        return site not in _FROM_HERE
    return origin is not None and not _is_own(origin, connection)


def _is_own(origin: str, connection: HTTPConnection) -> bool:
    """Whether an origin has the name by which the service was called, or a proxy before it; "null" has none.

    A page can set neither Host nor X-Forwarded-Host in a request that its browser sends without asking first.
    """
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return False
    scheme, place = found[1].lower(), found[2].lower()
    names = [connection.headers.get("host", ""), connection.headers.get("x-forwarded-host", "").partition(",")[0]]
    port = _DEFAULT_PORTS[scheme]
    return place.removesuffix(port) in {name.strip().lower().removesuffix(port) for name in names} - {""}


def _is_open(path: str) -> bool:
    return path == "/" or any(path == one or path.startswith(f"{one}/") for one in OPEN)
