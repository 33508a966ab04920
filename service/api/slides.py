"""Slides: uploaded by PUT, looked at, deleted."""

import base64
import binascii
import re
import time
from functools import partial
from typing import Annotated

import anyio
from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.api.access import Caller, InCaller
from service.api.context import Context, InContext
from service.api.problems import documented
from service.api.reading import Before, Documented, Limit, address, next_page, readable
from service.api.schemas import SlideOut, SlidesOut
from service.codes import refusal
from service.errors import Problem, ServiceError
from service.jobs.slide import Slide, SlideFacts
from service.jobs.store import UnknownSlideError
from service.limits import Limits
from service.storage import CHUNK_BYTES, Landed, Upload, under_its_name

router = APIRouter(prefix="/v1/slides", tags=["slides"], responses=documented())

SlideId = Annotated[str, Path(description="Id of a slide; for an upload the name of its file.")]
_SHA256 = re.compile(r"(?:^|,)\s*sha-256\s*=\s*([^,]*)", re.IGNORECASE)
_BINARY_BODY = {
    "requestBody": {
        "required": True,
        "description": "The bare file: curl -T slide.svs",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


_LINKS: Documented = {
    201: {
        "headers": {"Location": {"schema": {"type": "string"}, "description": "Address of the slide."}},
        "links": {
            "slide_facts": {"operationId": "slide_facts", "parameters": {"slide": "$response.body#/id"}},
            "delete_slide": {"operationId": "delete_slide", "parameters": {"slide": "$response.body#/id"}},
            "ask": {"operationId": "ask", "requestBody": {"slide": "$response.body#/id", "model": "bicubic"}},
            "ask_batch": {
                "operationId": "ask_batch",
                "requestBody": {"slides": ["$response.body#/id"], "model": "bicubic"},
            },
        },
    }
}


@router.put(
    "/{slide:path}",
    status_code=201,
    operation_id="upload",
    summary="Upload a slide",
    openapi_extra=_BINARY_BODY,
    responses=_LINKS,
)
async def upload(
    slide: SlideId, request: Request, response: Response, context: InContext, caller: InCaller
) -> SlideOut:
    """Take the body as it streams in; it becomes a slide once it lies whole on disk and a probe could read it.

    `Repr-Digest` or `Content-Digest` with sha-256 (RFC 9530) are checked if sent.
    """
    announced = _announced_bytes(request)
    limits = Limits.of(context.settings, caller.token)
    limits.admit_bytes(announced or 0, await run_in_threadpool(context.store.kept_bytes, caller.owner))
    expected_sha256 = _expected_sha256(request)
    arriving = await run_in_threadpool(context.storage.receive, slide, announced)
    try:
        await _pump(request, arriving)
        landed = await run_in_threadpool(arriving.land, announced, expected_sha256)
        facts = await _probed(context, landed, slide)
        kept = Slide(
            landed.slide_id, slide, landed.path.name, landed.bytes, landed.sha256, time.time(), facts, caller.owner
        )
        await run_in_threadpool(context.store.add_slide, kept, partial(limits.admit_bytes, kept.bytes))
    except BaseException:
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(arriving.discard)
        raise
    arriving.close()
    context.metrics.uploaded.inc(kept.bytes)
    response.headers["Location"] = address(request, f"/v1/slides/{kept.id}")
    return SlideOut.of(kept)


@readable(router, "", operation_id="slides", summary="List slides")
def slides(
    request: Request, context: InContext, caller: InCaller, limit: Limit = 100, before: Before = None
) -> SlidesOut:
    """List what was uploaded, the newest first."""
    page = context.store.slides(limit, before, caller.only)
    return SlidesOut(slides=[SlideOut.of(one) for one in page.entries], next=next_page(request, page.cursor))


@readable(router, "/{slide}", operation_id="slide_facts", summary="Facts of a slide")
def slide_facts(slide: SlideId, context: InContext, caller: InCaller) -> SlideOut:
    """Tell what the probe found."""
    return SlideOut.of(_known(context, caller, slide))


@router.delete("/{slide}", operation_id="delete_slide", status_code=204, summary="Delete a slide")
def delete_slide(slide: SlideId, context: InContext, caller: InCaller) -> None:
    """Delete a slide; results made of it stay. Refused while an unfinished job needs it."""
    found = _known(context, caller, slide)
    context.store.remove_slide(found.id)
    context.storage.remove_slide(found.id)


def _known(context: Context, caller: Caller, slide_id: str) -> Slide:
    found = context.store.slide(slide_id)
    if found is None or not caller.sees(found.owner):
        raise UnknownSlideError(slide_id)
    return found


async def _pump(request: Request, arriving: Upload) -> None:
    """Move the body to disk in chunks of a MiB; the writing happens off the event loop."""
    buffer = bytearray()
    try:
        async for piece in request.stream():
            buffer += piece
            if len(buffer) >= CHUNK_BYTES:
                await run_in_threadpool(arriving.write, bytes(buffer))
                buffer.clear()
    except ClientDisconnect as error:
        raise refusal("upload.incomplete", "the connection broke; send the file again") from error
    if buffer:
        await run_in_threadpool(arriving.write, bytes(buffer))


async def _probed(context: Context, landed: Landed, name: str) -> SlideFacts:
    """Let a process of its own look into the file; what it says of the path is said of the user's name."""
    try:
        async with context.probes:
            return SlideFacts.from_probe(await run_in_threadpool(context.probe, landed.path))
    except ServiceError as error:
        found = error.problem
        detail = under_its_name(found.detail, landed.path, name)
        raise ServiceError(Problem(found.code, detail, found.status, found.by_user)) from error


def _announced_bytes(request: Request) -> int | None:
    if "content-range" in request.headers:
        detail = (
            "a PUT with Content-Range would store a part as the whole (RFC 9110 §14.5); send the file from its start"
        )
        raise refusal("upload.content-range", detail)
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise refusal("upload.multipart", "send the bare file as the body, not a form: curl -T slide.svs URL")
    length = request.headers.get("content-length")
    return int(length) if length is not None else None


def _expected_sha256(request: Request) -> bytes | None:
    for header in ("repr-digest", "content-digest"):
        if found := _SHA256.search(request.headers.get(header, "")):
            return _decoded(found[1].strip())
    return None


def _decoded(value: str) -> bytes:
    try:
        digest = base64.b64decode(value[1:-1], validate=True) if value[:1] == value[-1:] == ":" else b""
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise refusal("upload.digest-invalid", "expected sha-256=:<base64 of 32 bytes>: (RFC 9530)")
    return digest
