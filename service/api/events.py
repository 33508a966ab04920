"""Streams of events (server-sent events): of one job to its end, and of all jobs of a caller for as long as they like.

A browser opens six connections to a service, so that a page of many jobs has room for one stream alone.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from slidelift.service.api.access import Caller, InCaller
from slidelift.service.api.context import Context, InContext
from slidelift.service.api.job_changes import JobEvent
from slidelift.service.api.jobs import JobId, find_job, job_at
from slidelift.service.api.problems import error_responses
from slidelift.service.api.responses import ResponseDocs, url_path
from slidelift.service.jobs.errors import StoreError
from slidelift.service.jobs.job import Job
from slidelift.service.jobs.store import Change

router = APIRouter(prefix="/v1", tags=["jobs"], responses=error_responses())

KEEP_ALIVE_SECONDS = 15.0
"""A comment so often keeps proxies from ending a stream of events as idle; so often, too, its token is looked up."""
RESUMED_CHANGES = 10_000
"""Of all jobs: who was away for longer begins anew, instead of being told half the history."""
_RETRY_MILLISECONDS = 2000
_SLICE_BYTES = 2**16
"""Sent at a time, before others get their turn."""
_NUMBER = re.compile(r"[0-9]{1,18}")

LastEventId = Annotated[str | None, Header(description="Id of the last event seen.")]


def _documented(description: str) -> ResponseDocs:
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
    responses=_documented("Events `job`: the job as JSON, at once and at each change; the last when it has ended."),
    summary="Follow a job",
)
async def stream_job_events(
    job: JobId, request: Request, context: InContext, caller: InCaller, last_event_id: LastEventId = None
) -> Response:
    """Stream the job's changes as server-sent events, until it has ended; the id of an event is the job's revision."""
    after = await run_in_threadpool(context.store.last_change)
    found = await run_in_threadpool(find_job, context, caller, job)
    seen = _number(last_event_id)
    prefix = url_path(request, "")
    return _stream(_of_job(prefix, context, caller, found, after, -1 if seen is None else seen))


@router.get(
    "/events",
    operation_id="stream_events",
    response_class=StreamingResponse,
    responses=_documented("Events `job`: at once each job that has not ended, and then each that changes, as JSON."),
    summary="Follow all jobs",
)
async def stream_events(context: InContext, caller: InCaller, last_event_id: LastEventId = None) -> Response:
    """Stream the changes of all jobs that the caller may see, new ones too, without an end.

    The id of an event is the number of the change. With the last one seen only what has changed since is told, jobs
    that have ended meanwhile among it; a browser's EventSource sends it by itself.
    """
    seen = _number(last_event_id)
    if seen is not None and await run_in_threadpool(_is_usable, context, seen):
        return _stream(_of_all(context, caller, [], seen))
    found = await context.job_changes.unfinished()
    return _stream(_of_all(context, caller, [one for one in found.news if caller.sees(one.job.owner)], found.number))


def _stream(told: AsyncIterator[bytes]) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(told, headers=headers, media_type="text/event-stream")


def _number(event_id: str | None) -> int | None:
    return int(event_id) if event_id and _NUMBER.fullmatch(event_id) else None


def writer(prefix: str) -> Callable[[Change], bytes]:
    """Makes events of changes for clients that know the service under that path."""
    return lambda change: _event(prefix, change.number, change.job)


def _event(prefix: str, number: int, job: Job) -> bytes:
    return format_sse_event(event="job", id=str(number), data_str=job_at(prefix, job).model_dump_json())


async def _in_slices(news: Sequence[JobEvent]) -> AsyncIterator[bytes]:
    """Events of many changes, a few at a time; what takes them need never wait, and others shall."""
    held = bytearray()
    for one in news:
        held += one.event
        if len(held) >= _SLICE_BYTES:
            yield bytes(held)
            held.clear()
            await asyncio.sleep(0)
    if held:
        yield bytes(held)


class _Pass:
    """Looks every while whether the token that opened a stream would open it still."""

    def __init__(self, context: Context, caller: Caller) -> None:
        self._context, self._caller = context, caller
        self._clock = asyncio.get_running_loop().time
        self._due = self._clock() + KEEP_ALIVE_SECONDS

    async def holds(self) -> bool:
        if self._clock() < self._due:
            return True
        self._due = self._clock() + KEEP_ALIVE_SECONDS
        try:
            return await run_in_threadpool(self._caller.is_still_known, self._context)
        except StoreError:  # of which nothing is heard meanwhile
            return True


async def _of_job(
    prefix: str, context: Context, caller: Caller, job: Job, after: int, seen: int
) -> AsyncIterator[bytes]:
    """The job as it is, unless the client knows it, then each change, to the end of the job or of the service."""
    yield format_sse_event(retry=_RETRY_MILLISECONDS, comment="slidelift")
    if job.revision < seen:  # an id of another life
        seen = -1
    admission = _Pass(context, caller)
    with context.job_changes.listening(after, lambda changed: changed.id == job.id) as listener:
        while True:
            if job.revision != seen:
                seen = job.revision
                yield _event(prefix, seen, job)
            if job.state.is_ended or not await admission.holds():
                return
            told = await context.job_changes.news(listener, KEEP_ALIVE_SECONDS)
            if context.job_changes.is_closed:
                return
            if not told:
                yield format_sse_event(comment="still here")
            job = max([job, *(one.job for one in told)], key=lambda one: one.revision)


def _is_usable(context: Context, seen: int) -> bool:
    """Whether a stream may go on after the last change that a client says it has seen."""
    last = context.store.last_change()
    return last - RESUMED_CHANGES <= seen <= last


async def _of_all(context: Context, caller: Caller, unfinished: list[JobEvent], after: int) -> AsyncIterator[bytes]:
    """Those jobs, then each change after that number, to the end of the token or of the service."""
    yield format_sse_event(retry=_RETRY_MILLISECONDS, comment="slidelift")
    admission = _Pass(context, caller)
    with context.job_changes.listening(after, lambda job: caller.sees(job.owner)) as listener:
        async for some in _in_slices(unfinished):
            yield some
        yield format_sse_event(comment="changes from here on", id=str(after))
        while await admission.holds():
            told = await context.job_changes.news(listener, KEEP_ALIVE_SECONDS)
            async for some in _in_slices(told):
                yield some
            if context.job_changes.is_closed:
                return
            if not told:
                yield format_sse_event(comment="still here")
