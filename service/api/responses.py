"""Responses that many routes share: GET with HEAD, pages of lists, conditional requests, and their OpenAPI parts."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

Handler = TypeVar("Handler", bound=Callable[..., Any])
ResponseDocs = dict[int | str, dict[str, Any]]
"""Responses of a route in the OpenAPI document, by status."""
BINARY = {"schema": {"type": "string", "format": "binary"}}
"""Content of a response body that is not text, for the OpenAPI document."""
Limit = Annotated[int, Query(ge=1, le=1000, description="Maximum number of entries on the page.")]
Before = Annotated[int | None, Query(ge=1, lt=2**63, description="Cursor from `next` of the previous page.")]


def get_and_head(router: APIRouter, path: str, **options: Any) -> Callable[[Handler], Handler]:  # options of router.get
    """Route GET and HEAD to a handler; only GET appears in the OpenAPI document."""

    def register(handler: Handler) -> Handler:
        router.get(path, **options)(handler)
        router.head(path, include_in_schema=False, **options)(handler)
        return handler

    return register


def url_path(request: Request, path: str) -> str:
    """Prepend the path prefix under which a proxy serves the application, if any."""
    prefix: str = request.scope.get("root_path", "")
    return prefix + path


def conditional_response(request: Request, content: BaseModel, etag: str, headers: dict[str, str]) -> Response:
    """Return JSON with its ETag, or 304 if the client has that version (RFC 9110 §13.1.2)."""
    headers = {**headers, "ETag": etag, "Cache-Control": "private, no-cache"}
    if etag_matches(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(content.model_dump_json().encode(), headers=headers, media_type="application/json")


def json_response(content: BaseModel) -> Response:
    """Serialise in the calling thread; FastAPI would serialise on the event loop."""
    return Response(content.model_dump_json().encode(), media_type="application/json")


def etag_matches(request: Request, etag: str) -> bool:
    """Whether If-None-Match contains the tag."""
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return etag in tags or "*" in tags


def next_page_url(request: Request, cursor: int | None) -> str | None:
    """URL of the next page of a list; None without a cursor."""
    if cursor is None:
        return None
    return f"{url_path(request, request.scope['route'].path)}?{request.url.include_query_params(before=cursor).query}"
