"""Routes of jobs: create, list, poll, pause, cancel and retry; download and delete results."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from slidelift.service.api import schemas
from slidelift.service.api.access import Caller, InCaller
from slidelift.service.api.context import Context, InContext
from slidelift.service.api.file_responses import OpenFileResponse
from slidelift.service.api.job_creation import KeyHeader, idempotency_key, new_job, queue_jobs
from slidelift.service.api.prefer_wait import Prefer, wait_seconds
from slidelift.service.api.problems import BODY_MAX_BYTES, error_responses
from slidelift.service.api.responses import (
    BINARY,
    Before,
    Limit,
    ResponseDocs,
    conditional_response,
    etag_matches,
    get_and_head,
    json_response,
    next_page_url,
    url_path,
)
from slidelift.service.errors import refusal
from slidelift.service.jobs.job import Job, JobState
from slidelift.service.jobs.quotas import Limits
from slidelift.service.jobs.store import JobFilter, UnknownJobError
from slidelift.service.pipeline.report import Report

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=error_responses(), max_body_size=BODY_MAX_BYTES)

JobId = Annotated[str, Path(description="Id of the job.")]
_REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_RESULT_CONTENT = {"image/tiff": BINARY, "application/zip": BINARY}
_RESULT_RESPONSES: ResponseDocs = {
    200: {"content": _RESULT_CONTENT, "description": "The file; range requests are supported."},
    206: {"content": _RESULT_CONTENT, "description": "The requested range of the file."},
    304: {"description": "Not modified: the ETag matches If-None-Match."},
}
_JOB_OPERATIONS = (
    "get_job",
    "stream_job_events",
    "cancel_job",
    "pause_job",
    "resume_job",
    "retry_job",
    "get_result",
    "delete_result",
    "get_report",
    "get_report_html",
    "get_tissue",
)
_CREATE_RESPONSES: ResponseDocs = {
    200: {"model": schemas.Job, "description": "The job, which ended within the time that `Prefer` allows."},
    202: {
        "headers": {
            "Location": {"schema": {"type": "string"}, "description": "URL of the job."},
            "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds until the next poll."},
        },
        "links": {name: {"operationId": name, "parameters": {"job": "$response.body#/id"}} for name in _JOB_OPERATIONS},
    },
}
_STOPPING: ResponseDocs = {202: {"model": schemas.Job, "description": "The job's worker stops within seconds."}}


@router.post(
    "",
    status_code=202,
    operation_id="create_job",
    summary="Create a job",
    response_description="The queued job.",
    responses=_CREATE_RESPONSES,
)
async def create_job(
    wanted: schemas.JobRequest,
    request: Request,
    response: Response,
    context: InContext,
    caller: InCaller,
    key: KeyHeader = None,
    prefer: Prefer = None,
) -> schemas.Job:
    """Check the request against the slide's metadata and queue a job.

    A request that repeats an earlier `Idempotency-Key` queues nothing and returns the job of the first request.
    """

    def create() -> Job:
        keyed = idempotency_key(caller, key, request, wanted)
        made = context.store.jobs_of_key(keyed) if keyed else None
        (job,) = made or queue_jobs(context, caller, [new_job(context, caller, wanted.order())], keyed)
        return job

    job = await run_in_threadpool(create)
    job = await _wait_until_ended(context, job, wait_seconds(prefer))
    response.headers["Location"] = url_path(request, f"/v1/jobs/{job.id}")
    return _queued_job(request, response, job)


@get_and_head(
    router,
    "",
    operation_id="list_jobs",
    response_model=schemas.JobList,
    summary="List jobs",
    response_description="A page of jobs.",
)
def list_jobs(
    request: Request,
    context: InContext,
    caller: InCaller,
    limit: Limit = 100,
    before: Before = None,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    slide: Annotated[str | None, Query(max_length=100, description="Only jobs of this slide.")] = None,
    batch: Annotated[str | None, Query(max_length=100, description="Only jobs of this batch.")] = None,
) -> Response:
    """List jobs, newest first."""
    page = context.store.jobs(limit, before, JobFilter(state, slide, batch, caller.only))
    jobs = [job_representation(request, job) for job in page.entries]
    return json_response(schemas.JobList(jobs=jobs, next=next_page_url(request, page.cursor)))


@get_and_head(
    router,
    "/{job}",
    operation_id="get_job",
    response_model=schemas.Job,
    responses={304: {"description": "Not modified: the ETag matches If-None-Match."}},
    summary="Get a job",
    response_description="The job.",
)
async def get_job(
    job: JobId, request: Request, context: InContext, caller: InCaller, prefer: Prefer = None
) -> Response:
    """Return a job's state, progress and result.

    Poll with `If-None-Match` at the interval that `Retry-After` gives, or use `Prefer: wait=30`: the response then
    waits until the job differs from the ETag, or, without an ETag, until it has ended.
    """
    found = await run_in_threadpool(find_job, context, caller, job)
    seconds = wait_seconds(prefer)
    if etag_matches(request, _etag(found)) and not found.state.is_ended:
        await context.job_changes.wait_for_change(found.id, found.revision, seconds)
        found = await run_in_threadpool(find_job, context, caller, job)
    elif "if-none-match" not in request.headers:
        found = await _wait_until_ended(context, found, seconds)
    return conditional_response(request, job_representation(request, found), _etag(found), _retry_after(found))


@router.delete(
    "/{job}",
    operation_id="cancel_job",
    summary="Cancel a job",
    response_description="The cancelled job.",
    responses=_STOPPING,
)
def cancel_job(job: JobId, request: Request, response: Response, context: InContext, caller: InCaller) -> schemas.Job:
    """Cancel a job: immediately (200), or within seconds if a worker runs it (202)."""
    changed = context.store.cancel(find_job(context, caller, job).id)
    return _stopped_job(request, response, context, changed, JobState.CANCELLED)


@router.post(
    "/{job}/pause",
    operation_id="pause_job",
    summary="Pause a job",
    response_description="The paused job.",
    responses=_STOPPING,
)
def pause_job(job: JobId, request: Request, response: Response, context: InContext, caller: InCaller) -> schemas.Job:
    """Pause a job and keep its finished stripes: immediately (200), or within seconds if a worker runs it (202)."""
    changed = context.store.pause(find_job(context, caller, job).id)
    return _stopped_job(request, response, context, changed, JobState.PAUSED)


@router.post(
    "/{job}/resume",
    operation_id="resume_job",
    status_code=202,
    summary="Resume a paused job",
    response_description="The queued job.",
)
def resume_job(job: JobId, request: Request, response: Response, context: InContext, caller: InCaller) -> schemas.Job:
    """Queue a paused job again; it continues after its last finished stripe."""
    return _queued_job(request, response, context.store.resume(find_job(context, caller, job).id))


@router.post(
    "/{job}/retry",
    operation_id="retry_job",
    status_code=202,
    summary="Retry a failed or cancelled job",
    response_description="The queued job.",
)
def retry_job(job: JobId, request: Request, response: Response, context: InContext, caller: InCaller) -> schemas.Job:
    """Queue a failed or cancelled job again, subject to the quotas of a new one.

    Stripes that were finished before a full disk, or before another failure that the slide did not cause, are reused.
    """
    found = find_job(context, caller, job)
    limits = Limits.of(context.settings, caller.token)
    admit = limits.admit_jobs([found.retried()], context.storage.available_bytes)
    return _queued_job(request, response, context.store.retry(found.id, admit))


@get_and_head(
    router,
    "/{job}/result",
    operation_id="get_result",
    response_class=FileResponse,
    responses=_RESULT_RESPONSES,
    summary="Download a result",
)
def get_result(job: JobId, request: Request, context: InContext, caller: InCaller) -> Response:
    """Send the result: an OME-TIFF, or an OME-Zarr as an uncompressed zip. The ETag is the file's SHA-256."""
    found = _require_succeeded(find_job(context, caller, job))
    path = context.storage.result_path(found)
    gone = refusal("result.deleted", f"the result of job {found.id} was deleted; create the job again")
    if found.result is None or path is None:
        raise gone
    etag = f'"{found.result.sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if etag_matches(request, etag):
        return Response(status_code=304, headers=headers)
    filename = f"{found.id}{found.order.format.suffix}{path.suffix if path.suffix == '.zip' else ''}"
    return OpenFileResponse(path, gone, headers=headers, media_type=found.order.format.media_type, filename=filename)


@router.delete("/{job}/result", operation_id="delete_result", status_code=204, summary="Delete a job's files")
def delete_result(job: JobId, context: InContext, caller: InCaller) -> None:
    """Delete the files of an ended job: its result, or the stripes that a failed job keeps for a retry."""
    context.storage.tidy_job(context.store.delete_result(find_job(context, caller, job).id))


@get_and_head(
    router,
    "/{job}/report",
    operation_id="get_report",
    response_class=FileResponse,
    responses={200: {"model": Report, "description": "The report."}},
    summary="Get a job's report",
)
def get_report(job: JobId, context: InContext, caller: InCaller) -> Response:
    """Return the report: plan, model, timings, warnings, bad tiles."""
    found = _require_succeeded(find_job(context, caller, job))
    gone = refusal("result.deleted", f"the report of job {found.id} was deleted; create the job again")
    return OpenFileResponse(context.storage.report_path(found), gone, headers={}, media_type="application/json")


@get_and_head(
    router,
    "/{job}/report.html",
    operation_id="get_report_html",
    response_class=FileResponse,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}, "description": "The report."}},
    summary="Get a job's report as an HTML page",
)
def get_report_html(job: JobId, context: InContext, caller: InCaller) -> Response:
    """Return the report as one HTML file without scripts, with images: before and after, tissue, consistency."""
    return _companion_file(context, caller, job, "html", "text/html", {"Content-Security-Policy": _REPORT_POLICY})


@get_and_head(
    router,
    "/{job}/tissue.geojson",
    operation_id="get_tissue",
    response_class=FileResponse,
    responses={
        200: {
            "content": {"application/geo+json": {"schema": {"type": "object"}}},
            "description": "A FeatureCollection that QuPath imports.",
        }
    },
    summary="Get the tissue outlines of a result",
)
def get_tissue(job: JobId, context: InContext, caller: InCaller) -> Response:
    """Return the area that the model enhanced, as polygons in the result's pixels."""
    return _companion_file(context, caller, job, "geojson", "application/geo+json", {})


def _companion_file(
    context: Context, caller: Caller, job: str, kind: str, media_type: str, headers: dict[str, str]
) -> Response:
    found = _require_succeeded(find_job(context, caller, job))
    path = context.storage.companion_path(found, kind)
    gone = refusal("result.deleted", f"this file was deleted with the result of job {found.id}; create the job again")
    if path is None:
        raise gone
    headers = {"Cache-Control": "private, no-cache", **headers}
    return OpenFileResponse(path, gone, media_type=media_type, headers=headers)


def find_job(context: Context, caller: Caller, job_id: str) -> Job:
    """Return a job; raises UnknownJobError if it does not exist or the caller may not see it."""
    job = context.store.job(job_id)
    if job is None or not caller.sees(job.owner):
        raise UnknownJobError(job_id)
    return job


def job_representation(request: Request, job: Job) -> schemas.Job:
    """Return a job as the API shows it."""
    return schemas.Job.of(job, job_url(url_path(request, ""), job))


def job_url(prefix: str, job: Job) -> str:
    """URL of a job under the path prefix of a proxy."""
    return f"{prefix}/v1/jobs/{job.id}"


def _queued_job(request: Request, response: Response, job: Job) -> schemas.Job:
    response.headers.update(_retry_after(job))
    if job.state.is_ended:
        response.status_code = 200
    return job_representation(request, job)


def _stopped_job(request: Request, response: Response, context: Context, job: Job, wanted: JobState) -> schemas.Job:
    """Return the job, with status 202 while its worker has not yet stopped."""
    context.storage.tidy_job(job)
    if job.state is not wanted:
        response.status_code = 202
        response.headers.update(_retry_after(job))
    return job_representation(request, job)


def _require_succeeded(job: Job) -> Job:
    if not job.state.is_ended:
        raise refusal("job.not-finished", f"job {job.id} is {job.state}; poll it until its state is succeeded")
    if job.state is not JobState.SUCCEEDED:
        raise refusal("job.no-result", f"job {job.id} is {job.state}; see its error")
    return job


def _etag(job: Job) -> str:
    return f'"{job.id}.{job.revision}"'


def _retry_after(job: Job) -> dict[str, str]:
    """Suggest the next poll: often at the start and near the end of a job, rarely in the middle of a long one."""
    if job.state.is_ended:
        return {}
    eta = (job.progress.eta_seconds if job.progress else None) or 0
    return {"Retry-After": str(min(30, max(1, round(eta / 10))))}


async def _wait_until_ended(context: Context, job: Job, seconds: float) -> Job:
    """Return the job once it has ended, or after `seconds`."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while not job.state.is_ended and (left := deadline - clock()) > 0:
        if not await context.job_changes.wait_for_change(job.id, job.revision, left):
            break
        found = await run_in_threadpool(context.store.job, job.id)
        if found is None:
            break
        job = found
    return job
