"""Signing in: a page shows a token once, and from then on its browser sends a cookie that no script can read."""

from contextlib import suppress

from fastapi import APIRouter, Request, Response

from slidelift.service.api import schemas
from slidelift.service.api.access import CHALLENGE, COOKIE, EVERYBODY, Caller, identified
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

_PRIVATE = {"Cache-Control": "no-store"}
_SIGNED_IN: ResponseDocs = {
    204: {
        "headers": {"Set-Cookie": {"schema": {"type": "string"}, "description": "The session."}},
        "description": "Signed in.",
    }
}


@get_and_head(router, "", operation_id="get_session", summary="Who am I?")
def get_session(request: Request, answer: Response, context: InContext) -> schemas.Session:
    """Tell whether the service asks for tokens, and whom it takes the caller for."""
    answer.headers.update(_PRIVATE)
    needed = context.settings.asks_for_tokens
    found = identified(request, context) if needed else EVERYBODY
    if isinstance(found, Problem):
        return schemas.Session(needed=needed, signed_in=False, name=None, scopes=[], expires=None)
    return schemas.Session(
        needed=needed,
        signed_in=True,
        name=found.token.name if found.token else None,
        scopes=[scope for scope in tokens.Scope if found.may(scope)],
        expires=schemas.utc(found.expires) if found.expires is not None else None,
    )


@router.post(
    "", operation_id="sign_in", status_code=204, responses=_SIGNED_IN, response_class=Response, summary="Sign in"
)
def sign_in(shown: schemas.SignIn, request: Request, context: InContext) -> Response:
    """Begin a session that may do what the token may, until it ends after twelve hours, or the token before that.

    Where the session changes anything, a request must carry the header `X-Slidelift: page` as well.
    """
    now, sha256 = context.clock(), tokens.hash_of(shown.token.get_secret_value().strip())
    token = context.store.token(sha256)
    if token is None or not token.is_valid(now):
        refused = problem("access.token-invalid", "the token is not known here, was revoked or has expired")
        return problem_response(refused, request, CHALLENGE | _PRIVATE)
    started = new_session(sha256, now, token.expires, token.generation)
    with map_disk_full():
        sealed = started.cookie(read_or_make_key(context.settings.data_dir))
    answer = Response(status_code=204, headers=_PRIVATE)
    _send_cookie(answer, request, sealed, int(started.expires - now))
    return answer


@router.delete("", operation_id="sign_out", status_code=204, response_class=Response, summary="Sign out")
def sign_out(request: Request, context: InContext) -> Response:
    """End the session, and with it all sessions of its token, in other browsers too; there need not be one.

    The token itself stays: revoke it where it may be in other hands.
    """
    found = identified(request, context) if context.settings.asks_for_tokens else EVERYBODY
    if isinstance(found, Caller) and found.token is not None and found.by_cookie:
        with suppress(UnknownTokenError):  # it was revoked in between
            context.store.end_sessions(found.token.id)
    cached = {"Clear-Site-Data": '"cache"'}  # who comes next to this browser must not find tiles there
    answer = Response(status_code=204, headers=_PRIVATE | cached)
    _send_cookie(answer, request, "", 0)
    return answer


def _send_cookie(answer: Response, request: Request, value: str, seconds: int) -> None:
    """Set the cookie for this service alone, out of reach of scripts and of other sites; 0 seconds remove it."""
    answer.set_cookie(
        COOKIE,
        value,
        max_age=seconds,
        path=url_path(request, "/"),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
