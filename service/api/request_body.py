"""Streams request bodies to uploads in chunks of a MiB, off the event loop and with a timeout."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from http import HTTPStatus

import anyio
from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from slidelift.service.errors import refusal
from slidelift.service.jobs.slide import Slide
from slidelift.service.storage.disk import CHUNK_BYTES
from slidelift.service.uploads import tus
from slidelift.service.uploads.digests import Digest
from slidelift.service.uploads.writer import Writer

IDLE_SECONDS = 60.0
"""Timeout of a silent client, whose upload must be unlocked when it resumes."""


class BodyTimeoutError(HTTPException):
    """The rest of a request body did not arrive in time; see `service.api.body_timeouts`."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.REQUEST_TIMEOUT)


async def stream_body(request: Request, write: Callable[[bytes], None]) -> None:
    """Pass the body to `write` in chunks of a MiB, including what arrived before the connection broke.

    Raises
    ------
    ServiceError
        upload.incomplete if the connection broke or timed out; what `write` raises.
    """
    buffer, is_whole = bytearray(), True
    try:
        async for received in request.stream():
            buffer += received
            if len(buffer) >= CHUNK_BYTES:
                chunk = bytes(buffer)
                buffer.clear()
                await run_in_threadpool(write, chunk)
    except (ClientDisconnect, BodyTimeoutError):
        is_whole = False  # not kept as the cause: its traceback would keep this frame and its buffer alive
    if buffer:
        await run_in_threadpool(write, bytes(buffer))
    if not is_whole:
        raise refusal("upload.incomplete", "the connection broke or timed out; send it again")


@asynccontextmanager
async def closing_on_error(writers: list[Writer], *, keep: bool) -> AsyncGenerator[None, None]:
    """Close the writers if the block fails; delete their uploads unless `keep`."""
    try:
        yield
    except BaseException:
        with anyio.CancelScope(shield=True):
            for writer in writers:
                await run_in_threadpool(writer.close if keep else writer.discard)
        raise


async def wait_for_slide(work: "Future[Slide]") -> Slide:
    """Wait for a slide. Its processing continues if the client disconnects."""
    return await asyncio.shield(asyncio.wrap_future(work))


def content_length(request: Request) -> int | None:
    """Return Content-Length, or None without the header; raises ServiceError upload.header."""
    return tus.number(request.headers, "content-length")


def require_complete(writer: Writer, announced: int | None, found: list[tuple[Digest, bytes]]) -> None:
    """Verify the size and digests of a body that was sent in one request.

    Raises
    ------
    ServiceError
        upload.incomplete, upload.empty, upload.digest-mismatch.
    """
    if announced is not None and writer.bytes != announced:
        raise refusal("upload.incomplete", f"{writer.bytes} of {announced} bytes arrived; send the file again")
    if not writer.bytes:
        raise refusal("upload.empty", "the body is empty; send the slide's file as the body: curl -T slide.svs URL")
    for expected, value in found:
        if expected.value != value:
            detail = f"the received bytes have {expected.algorithm} {value.hex()}, which differs from the header"
            raise refusal("upload.digest-mismatch", f"{detail}; send the file again")
