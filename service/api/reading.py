"""What all readable addresses share: HEAD beside GET, pages, and answers that need not be sent twice."""

import hashlib
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

Handler = TypeVar("Handler", bound=Callable[..., Any])
Limit = Annotated[int, Query(ge=1, le=1000, description="Most entries of one page.")]
Before = Annotated[str | None, Query(description="Go on after the entry of this id.")]


def readable(router: APIRouter, path: str, **options: Any) -> Callable[[Handler], Handler]:  # options of router.get
    """Serve an address by GET and HEAD; the OpenAPI document names the first alone."""

    def register(handler: Handler) -> Handler:
        router.get(path, **options)(handler)
        router.head(path, include_in_schema=False, **options)(handler)
        return handler

    return register


def conditional(request: Request, content: BaseModel, headers: dict[str, str]) -> Response:
    """Answer with JSON and its ETag, or with 304 where the client has just that (RFC 9110 §13.1.2)."""
    body = content.model_dump_json().encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {**headers, "ETag": etag, "Cache-Control": "no-cache"}
    if is_known(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def is_known(request: Request, etag: str) -> bool:
    """True where If-None-Match names the tag."""
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return etag in known or "*" in known


def next_page(request: Request, limit: int, ids: list[str]) -> str | None:
    """Address of the page after one that is full."""
    if len(ids) < limit:
        return None
    url = request.url.include_query_params(before=ids[-1])
    return f"{url.path}?{url.query}"
