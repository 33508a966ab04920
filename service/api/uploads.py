"""Routes of resumable uploads (tus 1.0.0)."""

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
    """Adds the tus version headers to error responses, as the protocol requires."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_version(request: Request) -> Response:
            try:
                return await handle(request)
            except ServiceError as error:
                versions = {"Tus-Resumable": tus.VERSION, "Tus-Version": tus.VERSION}
                return problems.problem_response(error.problem, request, versions)

        return handle_with_version


router = APIRouter(prefix="/v1/uploads", tags=["uploads"], responses=problems.error_responses(), route_class=_TusRoute)

UploadId = Annotated[str, Path(description="Id of the upload, the last segment of its Location.")]


def _header(name: str, description: str, example: str, *, required: bool = False) -> dict[str, Any]:
    schema = {"type": "string", "example": example}
    return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}


def _headers(*names: str) -> dict[str, Any]:
    return {"headers": {name: {"schema": {"type": "string"}} for name in ("Tus-Resumable", *names)}}


_RESUMABLE = _header("Tus-Resumable", "Version of the tus protocol.", tus.VERSION, required=True)
_CHECKSUM = _header(
    "Upload-Checksum",
    "Algorithm (sha1, sha256, md5) and base64 hash of the piece.",
    "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
)
_LENGTH = _header("Upload-Length", "Size of the whole file in bytes.", "1938955")
_OFFSET = _header("Upload-Offset", "Offset of the piece; must equal the bytes received so far.", "0", required=True)
_PIECE = {tus.PIECE_TYPE: {"schema": {"type": "string", "format": "binary"}}}
_CREATE = {
    "parameters": [
        _RESUMABLE,
        _LENGTH,
        _header("Upload-Defer-Length", "1 if the size is not known yet.", "1"),
        _header("Upload-Metadata", "`filename` and the slide's name in base64.", "filename c2xpZGUuc3Zz"),
        _CHECKSUM,
    ],
    "requestBody": {"required": False, "description": "The first piece, optional.", "content": _PIECE},
}
_APPEND = {
    "parameters": [_RESUMABLE, _OFFSET, _LENGTH, _CHECKSUM],
    "requestBody": {"required": True, "description": "The next piece.", "content": _PIECE},
}


@router.options(
    "",
    operation_id="get_upload_capabilities",
    status_code=204,
    summary="Get the supported tus version and extensions",
    responses={204: _headers("Tus-Extension")},
)
def get_upload_capabilities(context: InContext) -> Response:
    """Return the tus version, extensions and limits as headers."""
    return Response(status_code=204, headers=tus.capabilities(context.settings.max_upload_bytes))


@router.post(
    "",
    operation_id="create_upload",
    status_code=201,
    summary="Create a resumable upload",
    openapi_extra=_CREATE,
    response_class=Response,
    responses={201: _headers("Location", "Upload-Offset", "Upload-Expires", "Slide-Id", "Link")},
)
async def create_upload(request: Request, context: InContext, caller: InCaller) -> Response:
    """Create an upload; the body may be its first piece. Upload-Metadata contains the name as `filename`.

    If the body is the whole file, the response comes after the slide was opened, as with PATCH.
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
            await _append_body(request, writer, checksum)
    return await _piece_response(request, context, writer, 201, headers)


@router.head(
    "/{upload}",
    operation_id="get_upload_offset",
    status_code=200,
    summary="Get the offset of an upload",
    openapi_extra={"parameters": [_RESUMABLE]},
    response_class=Response,
    responses={200: _headers("Upload-Offset", "Upload-Length", "Upload-Defer-Length", "Upload-Metadata")},
)
def get_upload_offset(upload: UploadId, request: Request, context: InContext, caller: InCaller) -> Response:
    """Return the number of bytes received as Upload-Offset."""
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
        headers |= _slide_headers(request, seen.upload.slide)
    if seen.needs_finishing:
        context.upload_service.finish_interrupted(upload)
    return Response(status_code=200, headers=headers)


@router.patch(
    "/{upload}",
    operation_id="append_to_upload",
    status_code=204,
    summary="Append a piece to an upload",
    openapi_extra=_APPEND,
    responses={204: _headers("Upload-Offset", "Upload-Expires", "Slide-Id", "Link")},
)
async def append_to_upload(upload: UploadId, request: Request, context: InContext, caller: InCaller) -> Response:
    """Append a piece. If the connection breaks, the received bytes are kept unless the piece has a checksum.

    After the last byte an archive is unpacked, and the upload becomes a slide: the response then has its id in
    `Slide-Id`, or is a problem if the upload failed.
    """
    tus.require_version(request.headers)
    if request.headers.get("content-type", "") != tus.PIECE_TYPE:
        raise _wrong_type()
    begins, total = tus.number(request.headers, "upload-offset"), tus.number(request.headers, "upload-length")
    if begins is None:
        raise refusal(
            "upload.header", "the header Upload-Offset is missing: the offset of the piece, which HEAD returns"
        )
    checksum, announced = expected_checksum(request.headers.get("upload-checksum")), content_length(request) or 0
    await run_in_threadpool(_find_upload, context, caller, upload)
    writer = await run_in_threadpool(context.upload_service.inbox.open, upload)
    async with closing_on_error([writer], keep=True):
        if begins != writer.bytes:
            raise refusal("upload.offset", f"the upload has {writer.bytes} bytes, the piece begins at {begins}")
        if total is not None:
            await run_in_threadpool(_set_length, context, writer, total)
        _require_fitting(writer, announced, context.settings.max_upload_bytes)
        if writer.upload.is_complete:
            return await _repeated_end(request, context, writer)
        await run_in_threadpool(context.upload_service.resume, writer)
        await _append_body(request, writer, checksum)
    return await _piece_response(request, context, writer, 204, {})


@router.get(
    "/{upload}",
    operation_id="get_upload",
    summary="Get an upload",
    response_description="The upload.",
)
async def get_upload(
    upload: UploadId, request: Request, context: InContext, caller: InCaller, prefer: Prefer = None
) -> schemas.Upload:
    """Return the state of an upload. An upload that was complete when the service crashed is processed now."""
    seen = await run_in_threadpool(_find_upload, context, caller, upload)
    if seen.needs_finishing:
        await run_in_threadpool(context.upload_service.finish_interrupted, upload)
    seen = await wait_for_upload(context, upload, wait_seconds(prefer))
    return schemas.Upload.of(seen, url_path(request, f"/v1/uploads/{upload}"))


@router.delete(
    "/{upload}", operation_id="cancel_upload", status_code=204, summary="Cancel an upload", responses={204: _headers()}
)
def cancel_upload(upload: UploadId, request: Request, context: InContext, caller: InCaller) -> Response:
    """Delete the received bytes or stop fetching. A slide that it became is kept."""
    if "tus-resumable" in request.headers:  # an upload from a URI does not need tus
        tus.require_version(request.headers)
    _find_upload(context, caller, upload)
    context.upload_service.inbox.cancel(upload)
    return Response(status_code=204, headers={"Tus-Resumable": tus.VERSION})


def _find_upload(context: Context, caller: Caller, upload_id: str) -> UploadStatus:
    """Return an upload of the caller; raises ServiceError upload.unknown or upload.expired."""
    seen = context.upload_service.inbox.status(upload_id)
    if not caller.sees(seen.upload.owner):
        raise unknown_upload(upload_id)
    return seen


def _set_length(context: Context, writer: Writer, total: int) -> None:
    announced = writer.upload.total_bytes
    if announced is None and total >= writer.bytes:
        context.upload_service.set_total_bytes(writer, total)
    elif total != announced:
        raise refusal(
            "upload.header", "Upload-Length differs from the announced length, or is less than the bytes received"
        )


def _require_fitting(writer: Writer, announced: int, most: int) -> None:
    """Refuse a piece that is too large, before any of it is read."""
    total = writer.upload.total_bytes
    if total is not None and writer.bytes + announced > total:
        raise refusal("upload.too-large", f"the piece exceeds the announced length of {total} bytes")
    if writer.bytes + announced > most:
        raise upload_too_large(most)


async def _append_body(request: Request, writer: Writer, checksum: Digest | None) -> None:
    """Append the body. With a checksum it must be complete; without one a received part is kept."""
    start = writer.bytes
    found = writer.hash_from_here(checksum.algorithm) if checksum is not None else None
    if found is not None:
        await run_in_threadpool(writer.begin_unchecked)
    kept = False
    try:
        await stream_body(request, writer.append)
        if checksum is not None and found is not None and found.digest() != checksum.value:
            raise refusal(
                "upload.checksum", f"the received piece does not match its {checksum.algorithm} checksum; send it again"
            )
        kept = True
    except ServiceError as error:
        kept = checksum is None and error.problem.code in ("upload.incomplete", "storage.full")
        raise
    finally:
        await run_in_threadpool(_end_piece, writer, start if not kept else writer.bytes, checksum is not None)


def _end_piece(writer: Writer, size: int, unchecked: bool) -> None:
    if writer.bytes != size:
        writer.truncate(size)
    writer.sync()
    if unchecked:
        writer.end_unchecked()
    if writer.has_announced_size:
        writer.mark_complete()
    writer.touch()


async def _repeated_end(request: Request, context: Context, writer: Writer) -> Response:
    """Respond to an empty piece at the end of a complete upload; a failure of the service is tried again."""
    error, slide = writer.upload.error, writer.upload.slide
    if error is not None and error.by_user:
        raise ServiceError(error)
    if error is not None:
        await run_in_threadpool(writer.clear_error)
    if slide is not None:
        writer.close()
        return Response(
            status_code=204, headers={**await _offset_headers(context, writer), **_slide_headers(request, slide)}
        )
    return await _piece_response(request, context, writer, 204, {})


async def _piece_response(
    request: Request, context: Context, writer: Writer, status: int, headers: dict[str, str]
) -> Response:
    """Respond to a piece; to the last piece after the slide was opened."""
    if writer.upload.is_complete:
        slide = await wait_for_slide(context.upload_service.finish(writer))
        headers = {**headers, **_slide_headers(request, slide.id)}
    else:
        await run_in_threadpool(writer.close)
    return Response(status_code=status, headers={**await _offset_headers(context, writer), **headers})


async def _offset_headers(context: Context, writer: Writer) -> dict[str, str]:
    seen = await run_in_threadpool(context.upload_service.inbox.status, writer.upload.id)
    expires = tus.http_date(seen.expires)
    return {"Tus-Resumable": tus.VERSION, "Upload-Offset": str(writer.bytes), "Upload-Expires": expires}


def _slide_headers(request: Request, slide_id: str) -> dict[str, str]:
    url = url_path(request, f"/v1/slides/{slide_id}")
    return {"Slide-Id": slide_id, "Link": f'<{url}>; rel="related"'}


def _wrong_type() -> ServiceError:
    return refusal("upload.media-type", f"send the piece with Content-Type: {tus.PIECE_TYPE}")
