"""Routes of the browser session: exchange a token for a cookie that scripts cannot read."""

from contextlib import suppress

from fastapi import APIRouter, Request, Response

from slidelift.service.api import schemas
from slidelift.service.api.access import ANONYMOUS, CHALLENGE, COOKIE, Caller, identify
from slidelift.service.api.context import InContext
from slidelift.service.api.problems import error_responses, problem_response
from slidelift.service.api.responses import ResponseDocs, get_and_head, url_path
from slidelift.service.auth import tokens
from slidelift.service.auth.sessions import new_session, read_or_make_key
from slidelift.service.errors import Problem, problem
from slidelift.service.jobs.store import UnknownTokenError
from slidelift.service.storage.disk import map_disk_full

_BODY_MAX_BYTES = 4096

router = APIRouter(prefix="/v1/session", tags=["session"], responses=error_responses(), max_body_size=_BODY_MAX_BYTES)

_NO_STORE = {"Cache-Control": "no-store"}
_SIGNED_IN: ResponseDocs = {
    204: {
        "headers": {"Set-Cookie": {"schema": {"type": "string"}, "description": "The session."}},
        "description": "Signed in.",
    }
}


@get_and_head(router, "", operation_id="get_session", summary="Get the session", response_description="The caller.")
def get_session(request: Request, response: Response, context: InContext) -> schemas.Session:
    """Return whether the service requires a token, and who the caller is."""
    response.headers.update(_NO_STORE)
    needed = context.settings.asks_for_tokens
    caller = identify(request, context) if needed else ANONYMOUS
    if isinstance(caller, Problem):
        return schemas.Session(needed=needed, signed_in=False, name=None, scopes=[], expires=None)
    return schemas.Session(
        needed=needed,
        signed_in=True,
        name=caller.token.name if caller.token else None,
        scopes=[scope for scope in tokens.Scope if caller.may(scope)],
        expires=schemas.utc(caller.expires) if caller.expires is not None else None,
    )


@router.post(
    "", operation_id="sign_in", status_code=204, responses=_SIGNED_IN, response_class=Response, summary="Sign in"
)
def sign_in(credentials: schemas.Credentials, request: Request, context: InContext) -> Response:
    """Start a session with the scopes of the token. It ends after twelve hours, or when the token expires.

    Requests of the session that change something also need the header `X-Slidelift: page`.
    """
    now, sha256 = context.clock(), tokens.hash_of(credentials.token.get_secret_value().strip())
    token = context.store.token(sha256)
    if token is None or not token.is_valid(now):
        invalid = problem("access.token-invalid", "the token is unknown, was revoked or has expired")
        return problem_response(invalid, request, CHALLENGE | _NO_STORE)
    session = new_session(sha256, now, token.expires, token.generation)
    with map_disk_full():
        cookie = session.cookie(read_or_make_key(context.settings.data_dir))
    response = Response(status_code=204, headers=_NO_STORE)
    _send_cookie(response, request, cookie, int(session.expires - now))
    return response


@router.delete("", operation_id="sign_out", status_code=204, response_class=Response, summary="Sign out")
def sign_out(request: Request, context: InContext) -> Response:
    """End all sessions of the token, also in other browsers. Succeeds without a session.

    The token remains valid; revoke it if it may have been disclosed.
    """
    caller = identify(request, context) if context.settings.asks_for_tokens else ANONYMOUS
    if isinstance(caller, Caller) and caller.token is not None and caller.by_cookie:
        with suppress(UnknownTokenError):  # revoked meanwhile
            context.store.end_sessions(caller.token.id)
    clear_cache = {"Clear-Site-Data": '"cache"'}  # removes cached tiles from a shared computer
    response = Response(status_code=204, headers=_NO_STORE | clear_cache)
    _send_cookie(response, request, "", 0)
    return response


def _send_cookie(response: Response, request: Request, value: str, seconds: int) -> None:
    """Set the cookie for this service only, inaccessible to scripts and other sites; 0 seconds delete it."""
    response.set_cookie(
        COOKIE,
        value,
        max_age=seconds,
        path=url_path(request, "/"),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
