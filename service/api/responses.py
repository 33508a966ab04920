"""What all readable addresses share: HEAD beside GET, pages, and answers that need not be sent twice."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

Handler = TypeVar("Handler", bound=Callable[..., Any])
ResponseDocs = dict[int | str, dict[str, Any]]
"""What a route says of its answers in the OpenAPI document."""
Limit = Annotated[int, Query(ge=1, le=1000, description="Most entries of one page.")]
Before = Annotated[
    int | None, Query(ge=1, lt=2**63, description="Go on after this: take it from `next` of the page before.")
]


def get_and_head(router: APIRouter, path: str, **options: Any) -> Callable[[Handler], Handler]:  # options of router.get
    """Serve an address by GET and HEAD; the OpenAPI document names the first alone."""

    def register(handler: Handler) -> Handler:
        router.get(path, **options)(handler)
        router.head(path, include_in_schema=False, **options)(handler)
        return handler

    return register


def url_path(request: Request, path: str) -> str:
    """An address of the service as its clients know it, behind whatever prefix a proxy shows it."""
    prefix: str = request.scope.get("root_path", "")
    return prefix + path


def conditional_response(request: Request, content: BaseModel, etag: str, headers: dict[str, str]) -> Response:
    """Answer with JSON and its ETag, or with 304 where the client has just that (RFC 9110 §13.1.2)."""
    headers = {**headers, "ETag": etag, "Cache-Control": "private, no-cache"}
    if etag_matches(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(content.model_dump_json().encode(), headers=headers, media_type="application/json")


def json_response(content: BaseModel) -> Response:
    """An answer in JSON, for a route that runs in a thread: the framework would write it on the event loop."""
    return Response(content.model_dump_json().encode(), media_type="application/json")


def etag_matches(request: Request, etag: str) -> bool:
    """True where If-None-Match names the tag."""
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return etag in known or "*" in known


def next_page_url(request: Request, cursor: int | None) -> str | None:
    """Address of the page after one that is full."""
    if cursor is None:
        return None
    return f"{url_path(request, request.scope['route'].path)}?{request.url.include_query_params(before=cursor).query}"
