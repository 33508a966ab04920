"""Server-sent events: streams of the changes of one job, and of all jobs that a caller may see.

A browser opens at most six connections per host. A page with many jobs therefore uses one stream for all of them.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from slidelift.service.api import schemas
from slidelift.service.api.access import Caller, InCaller
from slidelift.service.api.context import Context, InContext
from slidelift.service.api.job_changes import JobEvent
from slidelift.service.api.jobs import JobId, find_job, job_url
from slidelift.service.api.problems import error_responses
from slidelift.service.api.responses import ResponseDocs, url_path
from slidelift.service.jobs.errors import StoreError
from slidelift.service.jobs.job import Job
from slidelift.service.jobs.store import Change

router = APIRouter(prefix="/v1", tags=["jobs"], responses=error_responses())

KEEP_ALIVE_SECONDS = 15.0
"""Interval of comments, which keep proxies from closing an idle stream, and of checks that the token is still valid."""
MAX_REPLAYED_CHANGES = 10_000
"""A client that missed more changes gets the current jobs instead of the missed changes."""
_RETRY_MILLISECONDS = 2000
_CHUNK_BYTES = 2**16
"""Bytes sent before other tasks of the event loop run."""
_EVENT_ID = re.compile(r"[0-9]{1,18}")

LastEventId = Annotated[str | None, Header(description="Id of the last event that the client received.")]


def _stream_responses(description: str) -> ResponseDocs:
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": "#/components/schemas/Job"},
    }
    event: dict[str, Any] = {
        "type": "object",
        "properties": {"event": {"const": "job"}, "id": {"type": "string", "pattern": "^[0-9]+$"}, "data": data},
        "required": ["event", "id", "data"],
    }
    return {200: {"content": {"text/event-stream": {"schema": event}}, "description": description}}


@router.get(
    "/jobs/{job}/events",
    operation_id="stream_job_events",
    response_class=StreamingResponse,
    responses=_stream_responses("Events `job`: the job as JSON, immediately and after each change until it has ended."),
    summary="Stream the changes of a job",
)
async def stream_job_events(
    job: JobId, request: Request, context: InContext, caller: InCaller, last_event_id: LastEventId = None
) -> Response:
    """Stream a job's changes as server-sent events until it has ended. The id of an event is the job's revision."""
    after = await run_in_threadpool(context.store.last_change)
    found = await run_in_threadpool(find_job, context, caller, job)
    revision = _event_number(last_event_id)
    return _stream(
        _job_events(url_path(request, ""), context, caller, found, after, -1 if revision is None else revision)
    )


@router.get(
    "/events",
    operation_id="stream_events",
    response_class=StreamingResponse,
    responses=_stream_responses("Events `job`: each unfinished job as JSON, then each job that changes."),
    summary="Stream the changes of all jobs",
)
async def stream_events(context: InContext, caller: InCaller, last_event_id: LastEventId = None) -> Response:
    """Stream the changes of all jobs that the caller may see, including new jobs, without end.

    The id of an event is the number of the change. With `Last-Event-ID`, which a browser's EventSource sends when it
    reconnects, the stream continues after that change.
    """
    number = _event_number(last_event_id)
    if number is not None and await run_in_threadpool(_can_resume, context, number):
        return _stream(_all_events(context, caller, [], number))
    snapshot = await context.job_changes.snapshot()
    visible = [event for event in snapshot.events if caller.sees(event.job.owner)]
    return _stream(_all_events(context, caller, visible, snapshot.number))


def _stream(chunks: AsyncIterator[bytes]) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(chunks, headers=headers, media_type="text/event-stream")


def _event_number(event_id: str | None) -> int | None:
    return int(event_id) if event_id and _EVENT_ID.fullmatch(event_id) else None


def encoder(prefix: str) -> Callable[[Change], bytes]:
    """Make the function that encodes a change as an event; `prefix` is the path prefix of a proxy."""
    return lambda change: _encode(prefix, change.number, change.job)


def _encode(prefix: str, number: int, job: Job) -> bytes:
    data = schemas.Job.of(job, job_url(prefix, job)).model_dump_json()
    return format_sse_event(event="job", id=str(number), data_str=data)


async def _in_chunks(events: Sequence[JobEvent]) -> AsyncIterator[bytes]:
    """Join events into chunks. Other tasks run between two chunks, even if sending never waits for the client."""
    buffer = bytearray()
    for event in events:
        buffer += event.data
        if len(buffer) >= _CHUNK_BYTES:
            yield bytes(buffer)
            buffer.clear()
            await asyncio.sleep(0)
    if buffer:
        yield bytes(buffer)


class _TokenCheck:
    """Checks every `KEEP_ALIVE_SECONDS` whether the caller's token or session is still valid."""

    def __init__(self, context: Context, caller: Caller) -> None:
        self._context, self._caller = context, caller
        self._clock = asyncio.get_running_loop().time
        self._due = self._clock() + KEEP_ALIVE_SECONDS

    async def is_valid(self) -> bool:
        if self._clock() < self._due:
            return True
        self._due = self._clock() + KEEP_ALIVE_SECONDS
        try:
            return await run_in_threadpool(self._caller.is_still_valid, self._context)
        except StoreError:  # the stream waits for the database, too
            return True


async def _job_events(
    prefix: str, context: Context, caller: Caller, job: Job, after: int, last_revision: int
) -> AsyncIterator[bytes]:
    """Send the job unless the client has `last_revision`, then each change until the job ends or the service stops."""
    yield format_sse_event(retry=_RETRY_MILLISECONDS, comment="slidelift")
    if job.revision < last_revision:  # the id is from another stream or data folder
        last_revision = -1
    token = _TokenCheck(context, caller)
    with context.job_changes.subscribe(after, lambda changed: changed.id == job.id) as subscription:
        while True:
            if job.revision != last_revision:
                last_revision = job.revision
                yield _encode(prefix, last_revision, job)
            if job.state.is_ended or not await token.is_valid():
                return
            events = await context.job_changes.next_events(subscription, KEEP_ALIVE_SECONDS)
            if context.job_changes.is_closed:
                return
            if not events:
                yield format_sse_event(comment="still here")
            job = max([job, *(event.job for event in events)], key=lambda version: version.revision)


def _can_resume(context: Context, number: int) -> bool:
    """Whether a stream can continue after change `number`."""
    last = context.store.last_change()
    return last - MAX_REPLAYED_CHANGES <= number <= last


async def _all_events(context: Context, caller: Caller, events: list[JobEvent], after: int) -> AsyncIterator[bytes]:
    """Send `events`, then each change after number `after` until the token is invalid or the service stops."""
    yield format_sse_event(retry=_RETRY_MILLISECONDS, comment="slidelift")
    token = _TokenCheck(context, caller)
    with context.job_changes.subscribe(after, lambda job: caller.sees(job.owner)) as subscription:
        async for chunk in _in_chunks(events):
            yield chunk
        yield format_sse_event(comment="changes from here on", id=str(after))
        while await token.is_valid():
            changed = await context.job_changes.next_events(subscription, KEEP_ALIVE_SECONDS)
            async for chunk in _in_chunks(changed):
                yield chunk
            if context.job_changes.is_closed:
                return
            if not changed:
                yield format_sse_event(comment="still here")
