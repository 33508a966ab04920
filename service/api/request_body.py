"""From a request's body to an upload: in pieces of a MiB, off the event loop, and never waiting for ever."""

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
"""A sender that is silent for so long is gone; its upload must not stay locked against it when it comes back."""


class SilentError(HTTPException):
    """The rest of a request's body does not come; see `service.api.body_timeouts`."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.REQUEST_TIMEOUT)


async def stream_body(request: Request, write: Callable[[bytes], None]) -> None:
    """Move the body on in chunks of a MiB; what came before a connection broke is moved on too.

    Raises
    ------
    ServiceError
        upload.incomplete where the connection broke or the sender fell silent, and what `write` raises.
    """
    buffer, is_whole = bytearray(), True
    try:
        async for came in request.stream():
            buffer += came
            if len(buffer) >= CHUNK_BYTES:
                piece = bytes(buffer)
                buffer.clear()
                await run_in_threadpool(write, piece)
    except (ClientDisconnect, SilentError):
        is_whole = False  # the error itself is not kept: its traceback holds this frame, and with it the buffer
    if buffer:
        await run_in_threadpool(write, bytes(buffer))
    if not is_whole:
        raise refusal("upload.incomplete", "the connection broke or fell silent; send it again")


@asynccontextmanager
async def closing_on_error(writers: list[Writer], *, keep: bool) -> AsyncGenerator[None, None]:
    """Close the writers if the block fails; without `keep` their uploads go with them."""
    try:
        yield
    except BaseException:
        with anyio.CancelScope(shield=True):
            for writer in writers:
                await run_in_threadpool(writer.close if keep else writer.discard)
        raise


async def wait_for_slide(work: "Future[Slide]") -> Slide:
    """Wait for a slide; the work goes on if the client does not wait for it."""
    return await asyncio.shield(asyncio.wrap_future(work))


def content_length(request: Request) -> int | None:
    """Content-Length, None where the body's size is not known; raises ServiceError upload.header."""
    return tus.number(request.headers, "content-length")


def require_complete(writer: Writer, announced: int | None, found: list[tuple[Digest, bytes]]) -> None:
    """Check size and digests of a body sent in one request.

    Raises
    ------
    ServiceError
        upload.incomplete, upload.empty, upload.digest-mismatch.
    """
    if announced is not None and writer.bytes != announced:
        raise refusal("upload.incomplete", f"{writer.bytes} of {announced} bytes arrived; send the file again")
    if not writer.bytes:
        raise refusal("upload.empty", "the body has no bytes; send the slide's file as it is: curl -T slide.svs URL")
    for expected, value in found:
        if expected.value != value:
            detail = f"what arrived has {expected.algorithm} {value.hex()}, the header says otherwise"
            raise refusal("upload.digest-mismatch", f"{detail}; send the file again")
