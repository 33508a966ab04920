"""Streams of events (server-sent events): of one job to its end, and of all jobs of a caller for as long as they like.

A browser opens six connections to a service, so that a page of many jobs has room for one stream alone.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from service.api.access import Caller, InCaller
from service.api.context import Context, InContext
from service.api.jobs import JobId, known, shown
from service.api.problems import documented
from service.api.reading import Documented
from service.jobs.job import Job
from service.jobs.store import Change, StoreError

router = APIRouter(prefix="/v1", tags=["jobs"], responses=documented())

KEEP_ALIVE_SECONDS = 15.0
"""A comment so often keeps proxies from ending a stream of events as idle; so often, too, its token is looked up."""
RESUMED_CHANGES = 10_000
"""Of all jobs: who was away for longer begins anew, instead of being told half the history."""
_RETRY_MILLISECONDS = 2000
_NUMBER = re.compile(r"[0-9]{1,18}")

LastEventId = Annotated[str | None, Header(description="Id of the last event seen.")]


def _documented(description: str) -> Documented:
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": "#/components/schemas/JobOut"},
    }
    event: dict[str, Any] = {
        "type": "object",
        "properties": {"event": {"const": "job"}, "id": {"type": "string", "pattern": "^[0-9]+$"}, "data": data},
        "required": ["event", "id", "data"],
    }
    return {200: {"content": {"text/event-stream": {"schema": event}}, "description": description}}


@router.get(
    "/jobs/{job}/events",
    operation_id="job_events",
    response_class=StreamingResponse,
    responses=_documented("Events `job`: the job as JSON, at once and at each change; the last when it has ended."),
    summary="Follow a job",
)
async def job_events(
    job: JobId, request: Request, context: InContext, caller: InCaller, last_event_id: LastEventId = None
) -> Response:
    """Stream the job's changes as server-sent events, until it has ended; the id of an event is the job's revision."""
    found = await run_in_threadpool(known, context, caller, job)
    seen = _number(last_event_id)
    return _stream(_of_job(request, context, caller, found, -1 if seen is None else seen))


@router.get(
    "/events",
    operation_id="events",
    response_class=StreamingResponse,
    responses=_documented("Events `job`: at once each job that has not ended, and then each that changes, as JSON."),
    summary="Follow all jobs",
)
async def events(request: Request, context: InContext, caller: InCaller, last_event_id: LastEventId = None) -> Response:
    """Stream the changes of all jobs that the caller may see, new ones too, without an end.

    The id of an event is the number of the change. With the last one seen only what has changed since is told, jobs
    that have ended meanwhile among it; a browser's EventSource sends it by itself.
    """
    unfinished, after = await run_in_threadpool(_beginning, context, caller, _number(last_event_id))
    return _stream(_of_all(request, context, caller, unfinished, after))


def _stream(told: AsyncIterator[bytes]) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(told, headers=headers, media_type="text/event-stream")


def _number(event_id: str | None) -> int | None:
    return int(event_id) if event_id and _NUMBER.fullmatch(event_id) else None


def _event(request: Request, number: int, job: Job) -> bytes:
    return format_sse_event(event="job", id=str(number), data_str=shown(request, job).model_dump_json())


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


async def _of_job(request: Request, context: Context, caller: Caller, job: Job, seen: int) -> AsyncIterator[bytes]:
    """The job as it is, unless the client knows it, then each change, to the end of the job or of the service."""
    yield format_sse_event(retry=_RETRY_MILLISECONDS, comment="slidelift")
    if job.revision < seen:  # an id of another life
        seen = -1
    admission = _Pass(context, caller)
    while True:
        if job.revision != seen:
            seen = job.revision
            yield _event(request, seen, job)
        if job.state.is_ended or not await admission.holds():
            return
        if not await context.watch.change(job.id, seen, KEEP_ALIVE_SECONDS):
            if context.watch.is_closed:
                return
            yield format_sse_event(comment="still here")
            continue
        found = await run_in_threadpool(context.store.job, job.id)
        if found is None:
            return
        job = found


def _beginning(context: Context, caller: Caller, seen: int | None) -> tuple[list[Change], int]:
    """What a stream begins with, and the number after which it goes on: the client's own, where that is usable."""
    last = context.store.last_change()
    if seen is not None and last - RESUMED_CHANGES <= seen <= last:
        return [], seen
    unfinished = [change for change in context.store.unfinished() if caller.sees(change.job.owner)]
    return unfinished, max([last, *(change.number for change in unfinished)])


async def _of_all(
    request: Request, context: Context, caller: Caller, unfinished: list[Change], after: int
) -> AsyncIterator[bytes]:
    """Those jobs, then each change after that number, to the end of the token or of the service."""
    yield format_sse_event(retry=_RETRY_MILLISECONDS, comment="slidelift")
    admission = _Pass(context, caller)
    with context.watch.listening(after, lambda job: caller.sees(job.owner)) as listener:
        for change in unfinished:
            yield _event(request, change.number, change.job)
        yield format_sse_event(comment="changes from here on", id=str(after))
        while await admission.holds():
            told = await context.watch.news(listener, KEEP_ALIVE_SECONDS)
            for change in told:
                yield _event(request, change.number, change.job)
            if context.watch.is_closed:
                return
            if not told:
                yield format_sse_event(comment="still here")
