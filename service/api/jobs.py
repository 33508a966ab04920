"""Jobs: asked for, watched, paused, cancelled, tried again; their results downloaded and deleted."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from slidelift.service.api.access import Caller, InCaller
from slidelift.service.api.context import Context, InContext
from slidelift.service.api.file_responses import OpenedFile
from slidelift.service.api.job_creation import KeyHeader, checked, keyed_by, queued
from slidelift.service.api.prefer_wait import Prefer, wait_seconds
from slidelift.service.api.problems import BODY_MAX_BYTES, documented
from slidelift.service.api.responses import (
    Before,
    Documented,
    Limit,
    address,
    conditional,
    is_known,
    next_page,
    readable,
    written,
)
from slidelift.service.api.schemas import JobIn, JobOut, JobsOut, ProblemOut
from slidelift.service.errors import refusal
from slidelift.service.jobs.job import Job, JobState
from slidelift.service.jobs.quotas import Limits
from slidelift.service.jobs.store import JobFilter, UnknownJobError
from slidelift.service.pipeline.report import Report

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=documented(), max_body_size=BODY_MAX_BYTES)

JobId = Annotated[str, Path(description="Id of a job.")]
_REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_FILE: Documented = {
    200: {"content": {"image/tiff": {}, "application/zip": {}}, "description": "The file; ranges are served."},
    206: {"content": {"image/tiff": {}, "application/zip": {}}, "description": "The range that was asked for."},
    304: {"description": "The client has just that."},
}
_ACCEPTED: Documented = {
    200: {"model": JobOut, "description": "The job, which has ended within the time that `Prefer` gave."},
    202: {
        "headers": {
            "Location": {"schema": {"type": "string"}, "description": "Address of the job."},
            "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds until another look."},
        },
        "links": {
            name: {"operationId": name, "parameters": {"job": "$response.body#/id"}}
            for name in (
                *("job_state", "job_events", "cancel", "pause", "resume", "retry"),
                *("result", "delete_result", "report", "report_html", "tissue"),
            )
        },
    },
}


@router.post("", status_code=202, operation_id="ask", summary="Ask for an upscale", responses=_ACCEPTED)
async def ask(
    wanted: JobIn,
    request: Request,
    response: Response,
    context: InContext,
    caller: InCaller,
    key: KeyHeader = None,
    prefer: Prefer = None,
) -> JobOut:
    """Queue a job, after all checks that need no pixels.

    With `Idempotency-Key` a request that is sent again queues nothing and answers with the job that the first one made.
    """

    def queue() -> Job:
        keyed = keyed_by(caller, key, request, wanted)
        made = context.store.made_before(keyed) if keyed else None
        (found,) = made or queued(context, caller, [checked(context, caller, wanted.order())], keyed)
        return found

    job = await run_in_threadpool(queue)
    job = await _until_ended(context, job, wait_seconds(prefer))
    response.headers["Location"] = address(request, f"/v1/jobs/{job.id}")
    return _told(request, response, job)


@readable(router, "", operation_id="jobs", response_model=JobsOut, summary="List jobs")
def jobs(
    request: Request,
    context: InContext,
    caller: InCaller,
    limit: Limit = 100,
    before: Before = None,
    state: Annotated[JobState | None, Query(description="Only jobs of this state.")] = None,
    slide: Annotated[str | None, Query(max_length=100, description="Only jobs of this slide.")] = None,
    batch: Annotated[str | None, Query(max_length=100, description="Only jobs of this batch.")] = None,
) -> Response:
    """List jobs, the newest first."""
    page = context.store.jobs(limit, before, JobFilter(state, slide, batch, caller.only))
    return written(JobsOut(jobs=[shown(request, job) for job in page.entries], next=next_page(request, page.cursor)))


@readable(
    router,
    "/{job}",
    operation_id="job_state",
    response_model=JobOut,
    responses={304: {"description": "It is as the client knows it."}},
    summary="State of a job",
)
async def job_state(
    job: JobId, request: Request, context: InContext, caller: InCaller, prefer: Prefer = None
) -> Response:
    """Tell where a job stands.

    Poll with `If-None-Match`, as often as `Retry-After` says; or with `Prefer: wait=30`, which answers when the job has
    changed from what the tag says, and without a tag when it has ended.
    """
    found = await run_in_threadpool(known, context, caller, job)
    seconds = wait_seconds(prefer)
    if is_known(request, _etag(found)) and not found.state.is_ended:
        await context.job_changes.change(found.id, found.revision, seconds)
        found = await run_in_threadpool(known, context, caller, job)
    elif "if-none-match" not in request.headers:
        found = await _until_ended(context, found, seconds)
    return conditional(request, shown(request, found), _etag(found), _retry_after(found))


@router.delete(
    "/{job}",
    operation_id="cancel",
    summary="Cancel a job",
    responses={202: {"model": JobOut, "description": "A worker is at it and stops within seconds."}},
)
def cancel(job: JobId, request: Request, response: Response, context: InContext, caller: InCaller) -> JobOut:
    """Cancel a job: at once (200), or within seconds where a worker is at it (202)."""
    return _ended_by(
        request, response, context, context.store.cancel(known(context, caller, job).id), JobState.CANCELLED
    )


@router.post(
    "/{job}/pause",
    operation_id="pause",
    summary="Pause a job",
    responses={202: {"model": JobOut, "description": "A worker is at it and stops within seconds."}},
)
def pause(job: JobId, request: Request, response: Response, context: InContext, caller: InCaller) -> JobOut:
    """Set a job aside with its finished stripes: at once (200), or within seconds where a worker is at it (202)."""
    return _ended_by(request, response, context, context.store.pause(known(context, caller, job).id), JobState.PAUSED)


@router.post("/{job}/resume", operation_id="resume", status_code=202, summary="Resume a paused job")
def resume(job: JobId, request: Request, response: Response, context: InContext, caller: InCaller) -> JobOut:
    """Queue a paused job again; it goes on from its last finished stripe."""
    return _told(request, response, context.store.resume(known(context, caller, job).id))


@router.post("/{job}/retry", operation_id="retry", status_code=202, summary="Try an ended job again")
def retry(job: JobId, request: Request, response: Response, context: InContext, caller: InCaller) -> JobOut:
    """Queue a failed or cancelled job again, after the checks of a new one.

    Stripes that were finished before a full disk, or before another failure that the slide is not to blame for, are
    taken up.
    """
    found = known(context, caller, job)
    limits = Limits.of(context.settings, caller.token)
    admit = limits.admit_jobs([found.retried()], context.storage.room_bytes)
    return _told(request, response, context.store.retry(found.id, admit))


@readable(
    router,
    "/{job}/result",
    operation_id="result",
    response_class=FileResponse,
    responses=_FILE,
    summary="Download a result",
)
def result(job: JobId, request: Request, context: InContext, caller: InCaller) -> Response:
    """Send the file: an OME-TIFF, or an OME-Zarr as one stored zip. Its ETag is its SHA-256."""
    found = _succeeded(known(context, caller, job))
    path = context.storage.result_path(found)
    gone = refusal("result.deleted", f"the result of job {found.id} was deleted; post the job again to have it anew")
    if found.result is None or path is None:
        raise gone
    etag = f'"{found.result.sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if is_known(request, etag):
        return Response(status_code=304, headers=headers)
    filename = f"{found.id}{found.order.format.suffix}{path.suffix if path.suffix == '.zip' else ''}"
    return OpenedFile(path, gone, headers=headers, media_type=found.order.format.media_type, filename=filename)


@router.delete("/{job}/result", operation_id="delete_result", status_code=204, summary="Delete what a job made")
def delete_result(job: JobId, context: InContext, caller: InCaller) -> None:
    """Delete the files of an ended job: its result, or the stripes that a failed one keeps for a retry."""
    context.storage.tidy_job(context.store.delete_result(known(context, caller, job).id))


@readable(
    router,
    "/{job}/report",
    operation_id="report",
    response_class=FileResponse,
    responses={200: {"model": Report, "description": "How the result was made."}},
    summary="Report of a job",
)
def report(job: JobId, context: InContext, caller: InCaller) -> Response:
    """Return how the result was made: slide, model, plan, tiles, times and warnings."""
    found = _succeeded(known(context, caller, job))
    gone = refusal("result.deleted", f"the report of job {found.id} is no longer there; post the job again")
    return OpenedFile(context.storage.report_path(found), gone, headers={}, media_type="application/json")


@readable(
    router,
    "/{job}/report.html",
    operation_id="report_html",
    response_class=FileResponse,
    responses={200: {"content": {"text/html": {}}, "description": "One file, without scripts."}},
    summary="Report of a job as a page",
)
def report_html(job: JobId, context: InContext, caller: InCaller) -> Response:
    """Return the report as a page with pictures: before and after, tissue, agreement with the source."""
    return _beside(context, caller, job, "html", "text/html", {"Content-Security-Policy": _REPORT_POLICY})


@readable(
    router,
    "/{job}/tissue.geojson",
    operation_id="tissue",
    response_class=FileResponse,
    responses={200: {"content": {"application/geo+json": {}}, "description": "A FeatureCollection for QuPath."}},
    summary="Outlines of the tissue",
)
def tissue(job: JobId, context: InContext, caller: InCaller) -> Response:
    """Tell where the model was at work, as polygons in the result's pixels."""
    return _beside(context, caller, job, "geojson", "application/geo+json", {})


def _beside(
    context: Context, caller: Caller, job: str, kind: str, media_type: str, headers: dict[str, str]
) -> Response:
    found = _succeeded(known(context, caller, job))
    path = context.storage.beside_result(found, kind)
    gone = refusal("result.deleted", f"it went with the result of job {found.id}; post the job again to have it anew")
    if path is None:
        raise gone
    return OpenedFile(path, gone, media_type=media_type, headers={"Cache-Control": "private, no-cache", **headers})


def known(context: Context, caller: Caller, job_id: str) -> Job:
    """The job of an id, if it is the caller's to see; raises UnknownJobError."""
    found = context.store.job(job_id)
    if found is None or not caller.sees(found.owner):
        raise UnknownJobError(job_id)
    return found


def shown(request: Request, job: Job) -> JobOut:
    """What a client sees of a job."""
    return shown_under(address(request, ""), job)


def shown_under(prefix: str, job: Job) -> JobOut:
    """The same, for a client that knows the service under that path."""
    here = f"{prefix}/v1/jobs/{job.id}"
    error = ProblemOut.of(job.problem, here) if job.problem else None
    return JobOut.of(job, here, error)


def _told(request: Request, response: Response, job: Job) -> JobOut:
    response.headers.update(_retry_after(job))
    if job.state.is_ended:
        response.status_code = 200
    return shown(request, job)


def _ended_by(request: Request, response: Response, context: Context, job: Job, wanted: JobState) -> JobOut:
    """Answer 202 while a worker still has to hear of it."""
    context.storage.tidy_job(job)
    if job.state is not wanted:
        response.status_code = 202
        response.headers.update(_retry_after(job))
    return shown(request, job)


def _succeeded(found: Job) -> Job:
    if not found.state.is_ended:
        raise refusal("job.not-finished", f"job {found.id} is {found.state}; poll it until its state is succeeded")
    if found.state is not JobState.SUCCEEDED:
        raise refusal("job.no-result", f"job {found.id} is {found.state}; its error says why")
    return found


def _etag(job: Job) -> str:
    return f'"{job.id}.{job.revision}"'


def _retry_after(job: Job) -> dict[str, str]:
    """Seconds until another look is worth it: soon at first and near the end, seldom in the middle of a long job."""
    if job.state.is_ended:
        return {}
    eta = (job.progress.eta_seconds if job.progress else None) or 0
    return {"Retry-After": str(min(30, max(1, round(eta / 10))))}


async def _until_ended(context: Context, job: Job, seconds: float) -> Job:
    """The job when it has ended, or when the time is over."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while not job.state.is_ended and (left := deadline - clock()) > 0:
        if not await context.job_changes.change(job.id, job.revision, left):
            break
        found = await run_in_threadpool(context.store.job, job.id)
        if found is None:
            break
        job = found
    return job
