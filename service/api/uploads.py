"""Uploads in pieces: tus 1.0.0, so that a broken connection costs a piece and not the slide."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from slidelift.service.api import problems, schemas
from slidelift.service.api.access import Caller, InCaller
from slidelift.service.api.context import Context, InContext
from slidelift.service.api.prefer_wait import Prefer, wait_for_upload, wait_seconds
from slidelift.service.api.request_body import closing_on_error, content_length, stream_body, wait_for_slide
from slidelift.service.api.responses import url_path
from slidelift.service.errors import ServiceError, refusal
from slidelift.service.uploads import tus
from slidelift.service.uploads.digests import Digest, expected_checksum
from slidelift.service.uploads.errors import unknown_upload, upload_too_large
from slidelift.service.uploads.upload import UploadMethod, UploadStatus
from slidelift.service.uploads.writer import Writer


class _TusRoute(APIRoute):
    """Names the protocol's version in refusals too, as it demands."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except ServiceError as error:
                versions = {"Tus-Resumable": tus.VERSION, "Tus-Version": tus.VERSION}
                return problems.problem_response(error.problem, request, versions)

        return handled


router = APIRouter(prefix="/v1/uploads", tags=["uploads"], responses=problems.error_responses(), route_class=_TusRoute)

UploadId = Annotated[str, Path(description="Id of an upload, from the Location of its creation.")]


def _header(name: str, description: str, example: str, *, required: bool = False) -> dict[str, Any]:
    schema = {"type": "string", "example": example}
    return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}


def _answers(*names: str) -> dict[str, Any]:
    return {"headers": {name: {"schema": {"type": "string"}} for name in ("Tus-Resumable", *names)}}


_RESUMABLE = _header("Tus-Resumable", "Version of the protocol.", tus.VERSION, required=True)
_CHECKSUM = _header(
    "Upload-Checksum",
    "Algorithm (sha1, sha256, md5) and base64 of the piece's hash.",
    "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
)
_LENGTH = _header("Upload-Length", "Size of the whole file in bytes.", "1938955")
_OFFSET = _header("Upload-Offset", "Where the piece begins; must be where the upload ends.", "0", required=True)
_PIECE = {tus.PIECE_TYPE: {"schema": {"type": "string", "format": "binary"}}}
_CREATE = {
    "parameters": [
        _RESUMABLE,
        _LENGTH,
        _header("Upload-Defer-Length", "1 where the size is not known yet.", "1"),
        _header("Upload-Metadata", "filename and base64 of the slide's name.", "filename c2xpZGUuc3Zz"),
        _CHECKSUM,
    ],
    "requestBody": {"required": False, "description": "The first piece, if at all.", "content": _PIECE},
}
_APPEND = {
    "parameters": [_RESUMABLE, _OFFSET, _LENGTH, _CHECKSUM],
    "requestBody": {"required": True, "description": "The next piece.", "content": _PIECE},
}


@router.options(
    "",
    operation_id="get_upload_capabilities",
    status_code=204,
    summary="What of tus is understood",
    responses={204: _answers("Tus-Extension")},
)
def get_upload_capabilities(context: InContext) -> Response:
    """Name the version, extensions and limits."""
    return Response(status_code=204, headers=tus.capabilities(context.settings.max_upload_bytes))


@router.post(
    "",
    operation_id="create_upload",
    status_code=201,
    summary="Begin an upload in pieces",
    openapi_extra=_CREATE,
    response_class=Response,
    responses={201: _answers("Location", "Upload-Offset", "Upload-Expires", "Slide-Id", "Link")},
)
async def create_upload(request: Request, context: InContext, caller: InCaller) -> Response:
    """Begin an upload; the body may be its first piece. The name stands in Upload-Metadata as `filename`.

    Where the first piece is all, the answer comes after the slide was looked at, as with PATCH.
    """
    tus.require_version(request.headers)
    creation, announced = tus.creation(request.headers), content_length(request) or 0
    piece = request.headers.get("content-type", "") == tus.PIECE_TYPE
    if announced and not piece:
        raise _wrong_type()
    checksum = expected_checksum(request.headers.get("upload-checksum"))
    if creation.total_bytes is not None and announced > creation.total_bytes:
        raise refusal("upload.too-large", f"the piece is larger than the {creation.total_bytes} bytes announced")
    writer = await run_in_threadpool(
        context.upload_service.begin,
        creation.name,
        UploadMethod.TUS,
        owner=caller.owner,
        total_bytes=creation.total_bytes,
        expected_bytes=announced,
        metadata=creation.metadata,
    )
    headers = {"Location": url_path(request, f"/v1/uploads/{writer.upload.id}")}
    async with closing_on_error([writer], keep=False):
        if piece:
            await _take(request, writer, checksum)
    return await _told(request, context, writer, 201, headers)


@router.head(
    "/{upload}",
    operation_id="get_upload_offset",
    status_code=200,
    summary="How much of an upload has arrived",
    openapi_extra={"parameters": [_RESUMABLE]},
    response_class=Response,
    responses={200: _answers("Upload-Offset", "Upload-Length", "Upload-Defer-Length", "Upload-Metadata")},
)
def get_upload_offset(upload: UploadId, request: Request, context: InContext, caller: InCaller) -> Response:
    """Say where the next piece begins."""
    tus.require_version(request.headers)
    seen = _find_upload(context, caller, upload)
    headers = {
        "Tus-Resumable": tus.VERSION,
        "Upload-Offset": str(seen.bytes),
        "Upload-Expires": tus.http_date(seen.expires),
        "Cache-Control": "no-store",
    }
    if seen.upload.total_bytes is None:
        headers["Upload-Defer-Length"] = "1"
    else:
        headers["Upload-Length"] = str(seen.upload.total_bytes)
    if seen.upload.metadata:
        headers["Upload-Metadata"] = seen.upload.metadata
    if seen.upload.slide is not None:
        headers |= _of_slide(request, seen.upload.slide)
    if seen.needs_finishing:
        context.upload_service.finish_interrupted(upload)
    return Response(status_code=200, headers=headers)


@router.patch(
    "/{upload}",
    operation_id="append_to_upload",
    status_code=204,
    summary="Send the next piece",
    openapi_extra=_APPEND,
    responses={204: _answers("Upload-Offset", "Upload-Expires", "Slide-Id", "Link")},
)
async def append_to_upload(upload: UploadId, request: Request, context: InContext, caller: InCaller) -> Response:
    """Append a piece. What arrived before a connection broke stays, unless the piece has a checksum.

    With the last byte the upload is unpacked if it is an archive, looked at, and becomes a slide: the answer comes
    after that and names it in `Slide-Id`; or it is the problem, and the upload has failed.
    """
    tus.require_version(request.headers)
    if request.headers.get("content-type", "") != tus.PIECE_TYPE:
        raise _wrong_type()
    begins, total = tus.number(request.headers, "upload-offset"), tus.number(request.headers, "upload-length")
    if begins is None:
        raise refusal("upload.header", "Upload-Offset says where the piece begins; HEAD tells it")
    checksum, announced = expected_checksum(request.headers.get("upload-checksum")), content_length(request) or 0
    await run_in_threadpool(_find_upload, context, caller, upload)
    writer = await run_in_threadpool(context.upload_service.inbox.open, upload)
    async with closing_on_error([writer], keep=True):
        if begins != writer.bytes:
            raise refusal("upload.offset", f"the upload has {writer.bytes} bytes, the piece begins at {begins}")
        if total is not None:
            await run_in_threadpool(_announce, context, writer, total)
        _require_fitting(writer, announced, context.settings.max_upload_bytes)
        if writer.upload.is_complete:
            return await _ended(request, context, writer)
        await run_in_threadpool(context.upload_service.resume, writer)
        await _take(request, writer, checksum)
    return await _told(request, context, writer, 204, {})


@router.get(
    "/{upload}",
    operation_id="get_upload",
    summary="What became of an upload",
)
async def get_upload(
    upload: UploadId, request: Request, context: InContext, caller: InCaller, prefer: Prefer = None
) -> schemas.Upload:
    """Tell how far an upload is; one that was whole when the service died is finished now."""
    seen = await run_in_threadpool(_find_upload, context, caller, upload)
    if seen.needs_finishing:
        await run_in_threadpool(context.upload_service.finish_interrupted, upload)
    seen = await wait_for_upload(context, upload, wait_seconds(prefer))
    return schemas.Upload.of(seen, url_path(request, f"/v1/uploads/{upload}"))


@router.delete(
    "/{upload}", operation_id="cancel_upload", status_code=204, summary="Give an upload up", responses={204: _answers()}
)
def cancel_upload(upload: UploadId, request: Request, context: InContext, caller: InCaller) -> Response:
    """Delete what has arrived, or stop fetching; a slide that it became stays."""
    if "tus-resumable" in request.headers:  # who lets a slide be fetched need not know tus
        tus.require_version(request.headers)
    _find_upload(context, caller, upload)
    context.upload_service.inbox.cancel(upload)
    return Response(status_code=204, headers={"Tus-Resumable": tus.VERSION})


def _find_upload(context: Context, caller: Caller, upload_id: str) -> UploadStatus:
    """The upload of an id, if it is the caller's to see; raises ServiceError upload.unknown, upload.expired."""
    seen = context.upload_service.inbox.status(upload_id)
    if not caller.sees(seen.upload.owner):
        raise unknown_upload(upload_id)
    return seen


def _announce(context: Context, writer: Writer, total: int) -> None:
    known = writer.upload.total_bytes
    if known is None and total >= writer.bytes:
        context.upload_service.set_total_bytes(writer, total)
    elif total != known:
        raise refusal("upload.header", "Upload-Length was said before, and otherwise, or is less than has arrived")


def _require_fitting(writer: Writer, announced: int, most: int) -> None:
    """Refuse a piece that is too large before a byte of it is read."""
    total = writer.upload.total_bytes
    if total is not None and writer.bytes + announced > total:
        raise refusal("upload.too-large", f"the piece goes beyond the {total} bytes that were announced")
    if writer.bytes + announced > most:
        raise upload_too_large(most)


async def _take(request: Request, writer: Writer, checksum: Digest | None) -> None:
    """Append the body: all that came if it has no checksum, else all or nothing."""
    begun = writer.bytes
    found = writer.hash_from_here(checksum.algorithm) if checksum is not None else None
    if found is not None:
        await run_in_threadpool(writer.begin_unchecked)
    kept = False
    try:
        await stream_body(request, writer.append)
        if checksum is not None and found is not None and found.digest() != checksum.value:
            raise refusal("upload.checksum", f"the piece has another {checksum.algorithm}; send it again")
        kept = True
    except ServiceError as error:
        kept = checksum is None and error.problem.code in ("upload.incomplete", "storage.full")
        raise
    finally:
        await run_in_threadpool(_end_piece, writer, begun if not kept else writer.bytes, checksum is not None)


def _end_piece(writer: Writer, size: int, unchecked: bool) -> None:
    if writer.bytes != size:
        writer.truncate(size)
    writer.sync()
    if unchecked:
        writer.end_unchecked()
    if writer.has_announced_size:
        writer.mark_complete()
    writer.touch()


async def _ended(request: Request, context: Context, writer: Writer) -> Response:
    """Answer a piece of no bytes at the end of an upload that was whole already."""
    error, slide = writer.upload.error, writer.upload.slide
    if error is not None and error.by_user:
        raise ServiceError(error)
    if error is not None:
        await run_in_threadpool(writer.clear_error)
    if slide is not None:
        writer.close()
        return Response(status_code=204, headers={**await _progress(context, writer), **_of_slide(request, slide)})
    return await _told(request, context, writer, 204, {})


async def _told(request: Request, context: Context, writer: Writer, status: int, headers: dict[str, str]) -> Response:
    """Answer after a piece; where it was the last, after the slide was looked at."""
    if writer.upload.is_complete:
        slide = await wait_for_slide(context.upload_service.finish(writer))
        headers = {**headers, **_of_slide(request, slide.id)}
    else:
        await run_in_threadpool(writer.close)
    return Response(status_code=status, headers={**await _progress(context, writer), **headers})


async def _progress(context: Context, writer: Writer) -> dict[str, str]:
    seen = await run_in_threadpool(context.upload_service.inbox.status, writer.upload.id)
    expires = tus.http_date(seen.expires)
    return {"Tus-Resumable": tus.VERSION, "Upload-Offset": str(writer.bytes), "Upload-Expires": expires}


def _of_slide(request: Request, slide_id: str) -> dict[str, str]:
    here = url_path(request, f"/v1/slides/{slide_id}")
    return {"Slide-Id": slide_id, "Link": f'<{here}>; rel="related"'}


def _wrong_type() -> ServiceError:
    return refusal("upload.media-type", f"a piece has Content-Type: {tus.PIECE_TYPE}")
