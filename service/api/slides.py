"""Routes of slides: upload by PUT, as a form or from a URI; list, get, recommend a model, delete."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.convertors import StringConvertor, register_url_convertor

from slidelift.service.api import schemas
from slidelift.service.api.access import Caller, InCaller
from slidelift.service.api.context import Context, InContext
from slidelift.service.api.job_creation import recommend_model
from slidelift.service.api.prefer_wait import Prefer, wait_for_upload, wait_seconds
from slidelift.service.api.problems import error_responses
from slidelift.service.api.request_body import (
    closing_on_error,
    content_length,
    require_complete,
    stream_body,
    wait_for_slide,
)
from slidelift.service.api.responses import Before, Limit, get_and_head, json_response, next_page_url, url_path
from slidelift.service.errors import refusal
from slidelift.service.jobs.slide import Slide
from slidelift.service.jobs.store import UnknownSlideError
from slidelift.service.pipeline.options import Effort
from slidelift.service.uploads.digests import expected_digests, repr_digest
from slidelift.service.uploads.form import OVERHEAD_BYTES, FormFile
from slidelift.service.uploads.upload import UploadMethod
from slidelift.service.uploads.writer import Writer


class _FileName(StringConvertor):
    """A file name, except paths that belong to `service.api.deepzoom` or to a slide's recommendation."""

    regex = r"(?s:(?!.*\.dzi\Z)(?!.*_files/[^/]+/[^/]+\Z)(?![^/]+/recommendation\Z).*)"


class _SlideId(_FileName):
    """One path segment that is not a Deep Zoom descriptor."""

    regex = r"(?![^/]*\.dzi\Z)[^/]+"


register_url_convertor("slide_name", _FileName())
register_url_convertor("slide_id", _SlideId())
router = APIRouter(prefix="/v1/slides", tags=["slides"], responses=error_responses())

SlideId = Annotated[str, Path(description="Id of the slide. PUT: the name of the uploaded file.")]
_JSON_MAX_BYTES = 2**14
_DIGEST_HEADER = {
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "RFC 9530; sha-256 and sha-512 are verified, other algorithms ignored.",
}
_UPLOAD_DOCS = {
    "parameters": [{"name": name, **_DIGEST_HEADER} for name in ("Repr-Digest", "Content-Digest")],
    "requestBody": {
        "required": True,
        "description": "The file itself: curl -T slide.svs",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
}
_CREATE_DOCS = {
    "requestBody": {
        "required": True,
        "description": "A form with one file (curl -F file=@slide.svs), or the URI of a slide.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
            "application/json": {
                "schema": {"$ref": "#/components/schemas/SlideSource"},
                "example": {"uri": "https://example.org/slide.svs"},
            },
        },
    },
}
_LINKS = {
    "get_slide": {"operationId": "get_slide", "parameters": {"slide": "$response.body#/id"}},
    "delete_slide": {"operationId": "delete_slide", "parameters": {"slide": "$response.body#/id"}},
    "create_job": {"operationId": "create_job", "requestBody": {"slide": "$response.body#/id", "model": "bicubic"}},
    "create_batch": {
        "operationId": "create_batch",
        "requestBody": {"slides": ["$response.body#/id"], "model": "bicubic"},
    },
}
_HEADERS = {
    "Location": {"description": "URL of the slide.", "schema": {"type": "string"}},
    "Repr-Digest": {"description": "SHA-256 of the received bytes (RFC 9530).", "schema": {"type": "string"}},
}


@router.put(
    "/{slide:slide_name}",
    status_code=201,
    operation_id="upload_slide",
    summary="Upload a slide",
    response_description="The new slide.",
    openapi_extra=_UPLOAD_DOCS,
    responses={201: {"headers": _HEADERS, "links": _LINKS}},
)
async def upload_slide(
    slide: SlideId, request: Request, response: Response, context: InContext, caller: InCaller
) -> schemas.Slide:
    """Store the request body. It becomes a slide when it is complete and was opened successfully.

    A name that ends in .zip, .tar, .tar.gz or .tgz is an archive of a slide of several files. `Repr-Digest` or
    `Content-Digest` with sha-256 or sha-512 (RFC 9530) are verified if sent.
    """
    _require_plain_body(request)
    announced, expected = content_length(request), expected_digests(request.headers)
    writer = await run_in_threadpool(
        context.upload_service.begin, slide, UploadMethod.PUT, owner=caller.owner, total_bytes=announced
    )
    async with closing_on_error([writer], keep=False):
        hashes = [(digest, writer.hash_from_here(digest.algorithm)) for digest in expected]
        await stream_body(request, writer.append)
        require_complete(writer, announced, [(digest, found.digest()) for digest, found in hashes])
        await run_in_threadpool(writer.mark_complete)
    return await _new_slide(context, writer, request, response)


@router.post(
    "",
    status_code=201,
    operation_id="create_slide",
    summary="Create a slide from a form or a URI",
    response_description="The new slide.",
    response_model=None,
    openapi_extra=_CREATE_DOCS,
    responses={
        201: {"model": schemas.Slide, "headers": _HEADERS},
        202: {
            "model": schemas.Upload,
            "description": "The upload that fetches the slide.",
            "headers": {"Location": {"description": "URL of the upload.", "schema": {"type": "string"}}},
        },
    },
)
async def create_slide(
    request: Request, response: Response, context: InContext, caller: InCaller, prefer: Prefer = None
) -> schemas.Slide | schemas.Upload:
    """Store the file of a form, or fetch a slide from a URI that the settings allow.

    A form returns the slide, as PUT does. A URI returns an upload to poll: immediately, or with `Prefer: wait=30` when
    the slide was fetched.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _receive_form(request, response, context, caller)
    if kind == "application/json":
        return await _fetch(request, response, context, caller, wait_seconds(prefer))
    raise refusal(
        "upload.media-type", "send a form (curl -F file=@slide.svs) or JSON with a uri; use PUT to send the file itself"
    )


@get_and_head(
    router,
    "",
    operation_id="list_slides",
    response_model=schemas.SlideList,
    summary="List slides",
    response_description="A page of slides.",
)
def list_slides(
    request: Request, context: InContext, caller: InCaller, limit: Limit = 100, before: Before = None
) -> Response:
    """List slides, newest first."""
    page = context.store.slides(limit, before, caller.only)
    listed = [schemas.Slide.of(slide) for slide in page.entries]
    return json_response(schemas.SlideList(slides=listed, next=next_page_url(request, page.cursor)))


@get_and_head(
    router, "/{slide:slide_id}", operation_id="get_slide", summary="Get a slide", response_description="The slide."
)
def get_slide(slide: SlideId, context: InContext, caller: InCaller) -> schemas.Slide:
    """Return the slide's metadata."""
    return schemas.Slide.of(find_slide(context, caller, slide))


class _RecommendationQuery(BaseModel):
    """Query parameters of a recommendation."""

    model_config = ConfigDict(extra="forbid")

    mpp: schemas.Mpp | None = Field(default=None, description="µm per pixel of the source, to state or confirm it.")
    target_mpp: schemas.Mpp | None = Field(default=None, description="Desired µm per pixel of the result.")
    level: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(default=None, description="Source level.")
    effort: Effort = Field(default=Effort.BALANCED, description="Whether auto prefers speed or image quality.")


@get_and_head(
    router,
    "/{slide:slide_id}/recommendation",
    operation_id="get_recommendation",
    summary="Recommend a model for a slide",
    response_description="The recommendation.",
)
def get_recommendation(
    slide: SlideId, wanted: Annotated[_RecommendationQuery, Query()], context: InContext, caller: InCaller
) -> schemas.Recommendation:
    """Return the model and source level that improve the slide most for the effort, and the reason.

    A job with the model `auto` uses the same recommendation.
    """
    return schemas.Recommendation.model_validate(recommend_model(context, find_slide(context, caller, slide), wanted))


@router.delete("/{slide:slide_id}", operation_id="delete_slide", status_code=204, summary="Delete a slide")
def delete_slide(slide: SlideId, context: InContext, caller: InCaller) -> None:
    """Delete a slide but not its results. Fails with 409 while an unfinished job needs the slide."""
    if not caller.sees(context.store.owner_of_slide(slide)):
        raise UnknownSlideError(slide)
    context.storage.remove_slide(slide, context.store)


def find_slide(context: Context, caller: Caller, slide_id: str) -> Slide:
    """Return a slide; raises UnknownSlideError if it does not exist or the caller may not see it."""
    slide = context.store.slide(slide_id)
    if slide is None or not caller.sees(slide.owner):
        raise UnknownSlideError(slide_id)
    return slide


async def _receive_form(request: Request, response: Response, context: Context, caller: Caller) -> schemas.Slide:
    announced = content_length(request)
    most = context.settings.max_upload_bytes
    if announced is not None and announced > most + OVERHEAD_BYTES:
        raise refusal("upload.too-large", f"this service accepts up to {most} bytes (SLIDELIFT_MAX_UPLOAD_BYTES)")
    booked = min(announced or 0, most)
    begun: list[Writer] = []

    def begin(name: str) -> Writer:
        begun.append(context.upload_service.begin(name, UploadMethod.FORM, owner=caller.owner, expected_bytes=booked))
        return begun[0]

    form = FormFile(request.headers["content-type"], begin)
    async with closing_on_error(begun, keep=False):
        await stream_body(request, form.write)
        form.close()
        require_complete(begun[0], None, [])
        await run_in_threadpool(begun[0].mark_complete)
    return await _new_slide(context, begun[0], request, response)


async def _fetch(request: Request, response: Response, context: Context, caller: Caller, wait: int) -> schemas.Upload:
    source = await _read_source(request)
    checked = await asyncio.wrap_future(context.upload_service.check_source(source.uri, source.name, caller.owner))
    try:
        writer = await run_in_threadpool(
            context.upload_service.begin, checked.name, UploadMethod.URI, owner=caller.owner
        )
    except BaseException:
        checked.close()
        raise
    upload_id = writer.upload.id
    context.upload_service.fetch(checked, writer)
    response.status_code = 202
    response.headers["Location"] = url = url_path(request, f"/v1/uploads/{upload_id}")
    return schemas.Upload.of(await wait_for_upload(context, upload_id, wait), url)


async def _read_source(request: Request) -> schemas.SlideSource:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _JSON_MAX_BYTES:
            raise refusal("upload.too-large", f"the JSON has more than {_JSON_MAX_BYTES} bytes")
    try:
        return schemas.SlideSource.model_validate_json(bytes(body))
    except ValidationError as error:
        errors: list[dict[str, Any]] = [
            dict(one) for one in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in errors]) from error


async def _new_slide(context: Context, writer: Writer, request: Request, response: Response) -> schemas.Slide:
    slide = await wait_for_slide(context.upload_service.finish(writer))
    response.headers["Location"] = url_path(request, f"/v1/slides/{slide.id}")
    response.headers["Repr-Digest"] = repr_digest(slide.sha256)
    return schemas.Slide.of(slide)


def _require_plain_body(request: Request) -> None:
    if "content-range" in request.headers:
        detail = (
            "PUT does not accept a part of a file (Content-Range, RFC 9110 §14.5); send the whole file, "
            "or upload it in pieces to /v1/uploads (tus)"
        )
        raise refusal("upload.content-range", detail)
    if request.headers.get("content-type", "").startswith("multipart/"):
        detail = "send the file itself as the body (curl -T slide.svs URL), or send the form by POST to /v1/slides"
        raise refusal("upload.multipart", detail)
