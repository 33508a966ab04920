"""Slides: uploaded by PUT, as a form or from an address, looked at, deleted."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.convertors import StringConvertor, register_url_convertor

from slidelift.service.api.access import Caller, InCaller
from slidelift.service.api.context import Context, InContext
from slidelift.service.api.job_creation import recommended
from slidelift.service.api.prefer_wait import Prefer, seen_after, wait_seconds
from slidelift.service.api.problems import documented
from slidelift.service.api.request_body import announced_bytes, finished, letting_go, pump, require_arrived
from slidelift.service.api.responses import Before, Limit, address, next_page, readable, written
from slidelift.service.api.schemas import Mpp, RecommendationOut, SlideOut, SlidesOut, UploadOut, UriIn
from slidelift.service.errors import refusal
from slidelift.service.jobs.slide import Slide
from slidelift.service.jobs.store import UnknownSlideError
from slidelift.service.pipeline.options import Effort
from slidelift.service.uploads.digests import as_field, expected_digests
from slidelift.service.uploads.fetch import fetch
from slidelift.service.uploads.form import OVERHEAD_BYTES, FormFile
from slidelift.service.uploads.inbox import Way, Writer


class _Name(StringConvertor):
    """Any name of a file, but for addresses of `service.api.deepzoom` and of a slide's recommendation."""

    regex = r"(?s:(?!.*\.dzi\Z)(?!.*_files/[^/]+/[^/]+\Z)(?![^/]+/recommendation\Z).*)"


class _Id(_Name):
    """Likewise, of one word."""

    regex = r"(?![^/]*\.dzi\Z)[^/]+"


register_url_convertor("slide_name", _Name())
register_url_convertor("slide_id", _Id())
router = APIRouter(prefix="/v1/slides", tags=["slides"], responses=documented())

SlideId = Annotated[str, Path(description="Id of a slide; for an upload the name of its file.")]
_JSON_MAX_BYTES = 2**14
_DIGEST = {
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "RFC 9530; sha-256 and sha-512 are checked, others ignored.",
}
_PUT = {
    "parameters": [{"name": name, **_DIGEST} for name in ("Repr-Digest", "Content-Digest")],
    "requestBody": {
        "required": True,
        "description": "The bare file: curl -T slide.svs",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
}
_POST = {
    "requestBody": {
        "required": True,
        "description": "A form with one file (curl -F file=@slide.svs), or where to fetch it from.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
            "application/json": {
                "schema": UriIn.model_json_schema(),
                "example": {"uri": "https://example.org/slide.svs"},
            },
        },
    },
}
_LINKS = {
    "slide_facts": {"operationId": "slide_facts", "parameters": {"slide": "$response.body#/id"}},
    "delete_slide": {"operationId": "delete_slide", "parameters": {"slide": "$response.body#/id"}},
    "ask": {"operationId": "ask", "requestBody": {"slide": "$response.body#/id", "model": "bicubic"}},
    "ask_batch": {"operationId": "ask_batch", "requestBody": {"slides": ["$response.body#/id"], "model": "bicubic"}},
}
_HEADERS = {
    "Location": {"description": "Address of the slide.", "schema": {"type": "string"}},
    "Repr-Digest": {"description": "SHA-256 of what arrived (RFC 9530).", "schema": {"type": "string"}},
}


@router.put(
    "/{slide:slide_name}",
    status_code=201,
    operation_id="upload",
    summary="Upload a slide",
    openapi_extra=_PUT,
    responses={201: {"headers": _HEADERS, "links": _LINKS}},
)
async def upload(
    slide: SlideId, request: Request, response: Response, context: InContext, caller: InCaller
) -> SlideOut:
    """Take the body as it streams in; it becomes a slide once it lies whole on disk and a probe could read it.

    A name that ends in .zip, .tar, .tar.gz or .tgz is a slide of several files. `Repr-Digest` or `Content-Digest` with
    sha-256 or sha-512 (RFC 9530) are checked if sent.
    """
    _require_bare_file(request)
    announced, expected = announced_bytes(request), expected_digests(request.headers)
    writer = await run_in_threadpool(
        context.upload_service.begin, slide, Way.PUT, owner=caller.owner, total_bytes=announced
    )
    async with letting_go([writer], keep=False):
        hashes = [(digest, writer.hash_from_here(digest.algorithm)) for digest in expected]
        await pump(request, writer.append)
        require_arrived(writer, announced, [(digest, found.digest()) for digest, found in hashes])
        await run_in_threadpool(writer.arrive)
    return await _landed(context, writer, request, response)


@router.post(
    "",
    status_code=201,
    operation_id="add",
    summary="Upload a slide as a form, or let it be fetched",
    openapi_extra=_POST,
    responses={
        201: {"headers": _HEADERS},
        202: {
            "model": UploadOut,
            "description": "It is being fetched",
            "headers": {"Location": {"description": "Address of the upload.", "schema": {"type": "string"}}},
        },
    },
)
async def add(
    request: Request, response: Response, context: InContext, caller: InCaller, prefer: Prefer = None
) -> SlideOut | UploadOut:
    """Take a form's one file as it streams in, or fetch a slide from an address that the settings allow.

    A form answers as PUT does. An address answers at once with an upload to look at; with `Prefer: wait=30` later.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request, response, context, caller)
    if kind == "application/json":
        return await _fetched(request, response, context, caller, wait_seconds(prefer))
    raise refusal(
        "upload.media-type", "send a form (curl -F file=@slide.svs) or JSON with a uri; a bare file goes by PUT"
    )


@readable(router, "", operation_id="slides", response_model=SlidesOut, summary="List slides")
def slides(
    request: Request, context: InContext, caller: InCaller, limit: Limit = 100, before: Before = None
) -> Response:
    """List what was uploaded, the newest first."""
    page = context.store.slides(limit, before, caller.only)
    return written(SlidesOut(slides=[SlideOut.of(one) for one in page.entries], next=next_page(request, page.cursor)))


@readable(router, "/{slide:slide_id}", operation_id="slide_facts", summary="Facts of a slide")
def slide_facts(slide: SlideId, context: InContext, caller: InCaller) -> SlideOut:
    """Tell what the probe found."""
    return SlideOut.of(known(context, caller, slide))


class _Wanted(BaseModel):
    """What a recommendation is asked for."""

    model_config = ConfigDict(extra="forbid")

    mpp: Mpp | None = Field(default=None, description="The source's µm per pixel: gives or confirms it.")
    target_mpp: Mpp | None = Field(default=None, description="Wanted µm per pixel of the result.")
    level: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(default=None, description="Source level.")
    effort: Effort = Field(default=Effort.BALANCED, description="What matters more: time or the picture.")


@readable(
    router, "/{slide:slide_id}/recommendation", operation_id="recommendation", summary="Which model suits a slide"
)
def recommendation(
    slide: SlideId, wanted: Annotated[_Wanted, Query()], context: InContext, caller: InCaller
) -> RecommendationOut:
    """Tell which model, from which level, would make the slide better, and why; or why none would.

    A job with the model `auto` takes the same answer.
    """
    return RecommendationOut.model_validate(recommended(context, known(context, caller, slide), wanted))


@router.delete("/{slide:slide_id}", operation_id="delete_slide", status_code=204, summary="Delete a slide")
def delete_slide(slide: SlideId, context: InContext, caller: InCaller) -> None:
    """Delete a slide; results made of it stay. Refused while an unfinished job needs it."""
    if not caller.sees(context.store.owner_of_slide(slide)):
        raise UnknownSlideError(slide)
    context.storage.remove_slide(slide, context.store)


def known(context: Context, caller: Caller, slide_id: str) -> Slide:
    """The slide of an id, if it is the caller's to see; raises UnknownSlideError."""
    found = context.store.slide(slide_id)
    if found is None or not caller.sees(found.owner):
        raise UnknownSlideError(slide_id)
    return found


async def _form(request: Request, response: Response, context: Context, caller: Caller) -> SlideOut:
    announced = announced_bytes(request)
    most = context.settings.max_upload_bytes
    if announced is not None and announced > most + OVERHEAD_BYTES:
        raise refusal("upload.too-large", f"this service takes up to {most} bytes (SLIDELIFT_MAX_UPLOAD_BYTES)")
    booked = min(announced or 0, most)
    begun: list[Writer] = []

    def begin(name: str) -> Writer:
        begun.append(context.upload_service.begin(name, Way.FORM, owner=caller.owner, booked_bytes=booked))
        return begun[0]

    form = FormFile(request.headers["content-type"], begin)
    async with letting_go(begun, keep=False):
        await pump(request, form.write)
        form.close()
        require_arrived(begun[0], None, [])
        await run_in_threadpool(begun[0].arrive)
    return await _landed(context, begun[0], request, response)


async def _fetched(request: Request, response: Response, context: Context, caller: Caller, wait: int) -> UploadOut:
    asked = await _read_uri(request)
    checked = await asyncio.wrap_future(context.upload_service.check(asked.uri, asked.name, caller.owner))
    try:
        writer = await run_in_threadpool(context.upload_service.begin, checked.name, Way.URI, owner=caller.owner)
    except BaseException:
        checked.close()
        raise
    upload_id = writer.upload.id
    context.upload_service.fetch(fetch(checked), writer)
    response.status_code = 202
    response.headers["Location"] = here = address(request, f"/v1/uploads/{upload_id}")
    return UploadOut.of(await seen_after(context, upload_id, wait), here)


async def _read_uri(request: Request) -> UriIn:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _JSON_MAX_BYTES:
            raise refusal("upload.too-large", f"the JSON has more than {_JSON_MAX_BYTES} bytes")
    try:
        return UriIn.model_validate_json(bytes(body))
    except ValidationError as error:
        errors: list[dict[str, Any]] = [
            dict(one) for one in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in errors]) from error


async def _landed(context: Context, writer: Writer, request: Request, response: Response) -> SlideOut:
    slide = await finished(context.upload_service.finish(writer))
    response.headers["Location"] = address(request, f"/v1/slides/{slide.id}")
    response.headers["Repr-Digest"] = as_field(slide.sha256)
    return SlideOut.of(slide)


def _require_bare_file(request: Request) -> None:
    if "content-range" in request.headers:
        detail = (
            "a PUT with Content-Range would store a part as the whole (RFC 9110 §14.5); send the file from its start, "
            "or in pieces to /v1/uploads (tus)"
        )
        raise refusal("upload.content-range", detail)
    if request.headers.get("content-type", "").startswith("multipart/"):
        detail = "send the bare file as the body (curl -T slide.svs URL), or the form by POST to /v1/slides"
        raise refusal("upload.multipart", detail)
