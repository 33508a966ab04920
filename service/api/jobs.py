"""Jobs: asked for, watched, cancelled; their results downloaded and deleted."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse

from models.zoo.catalog import catalog
from service.api.context import InContext
from service.api.problems import body, documented
from service.api.reading import Before, Limit, conditional, is_known, next_page, readable
from service.api.schemas import JobIn, JobOut, JobsOut, ProblemOut
from service.codes import refusal
from service.jobs.job import Job, JobOrder, JobState
from service.jobs.slide import Slide
from service.jobs.store import Store, UnknownJobError, UnknownSlideError

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=documented())

JobId = Annotated[str, Path(description="Id of a job.")]
PLAUSIBLE_MPP = (0.05, 20.0)
"""µm per pixel that slide scanners and their exports have; what lies outside is a mistake of the file."""
_FILE = {200: {"content": {"image/tiff": {}, "application/zip": {}}, "description": "The file; ranges are served."}}


@router.post("", status_code=202, summary="Ask for an upscale")
def ask(wanted: JobIn, response: Response, context: InContext) -> JobOut:
    """Queue a job, after all checks that need no pixels."""
    order = wanted.order()
    slide = context.store.slide(order.slide)
    if slide is None:
        raise UnknownSlideError(order.slide)
    _check(order, slide)
    context.storage.require_room(0)
    job = context.store.add_job(uuid.uuid4().hex, order)
    response.headers.update({"Location": f"/v1/jobs/{job.id}", **_retry_after(job)})
    return _shown(job)


@readable(router, "", summary="List jobs")
def jobs(
    request: Request,
    context: InContext,
    limit: Limit = 100,
    before: Before = None,
    state: Annotated[JobState | None, Query(description="Only jobs of this state.")] = None,
) -> JobsOut:
    """List jobs, the newest first."""
    found = context.store.jobs(limit, before, state)
    return JobsOut(jobs=[_shown(job) for job in found], next=next_page(request, limit, [job.id for job in found]))


@readable(router, "/{job}", response_model=JobOut, summary="State of a job")
def job_state(job: JobId, request: Request, context: InContext) -> Response:
    """Tell where a job stands; poll with If-None-Match, as often as Retry-After says."""
    found = _known(context.store, job)
    return conditional(request, _shown(found), _retry_after(found))


@router.delete("/{job}", summary="Cancel a job")
def cancel(job: JobId, response: Response, context: InContext) -> JobOut:
    """Cancel a job: at once (200), or within seconds where a worker is at it (202)."""
    cancelled = context.store.cancel(job)
    context.storage.tidy_job(cancelled)
    if cancelled.state is not JobState.CANCELLED:
        response.status_code = 202
        response.headers.update(_retry_after(cancelled))
    return _shown(cancelled)


@readable(router, "/{job}/result", response_class=FileResponse, responses=_FILE, summary="Download a result")
def result(job: JobId, request: Request, context: InContext) -> Response:
    """Send the file: an OME-TIFF, or an OME-Zarr as one stored zip. Its ETag is its SHA-256."""
    found = _succeeded(context.store, job)
    path = context.storage.result_path(found)
    if found.result is None or path is None or not path.is_file():
        raise refusal("result.deleted", f"the result of job {found.id} was deleted; post the job again to have it anew")
    etag = f'"{found.result.sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if is_known(request, etag):
        return Response(status_code=304, headers=headers)
    name = found.id + "".join(path.suffixes)
    return FileResponse(path, headers=headers, media_type=found.order.format.media_type, filename=name)


@router.delete("/{job}/result", status_code=204, summary="Delete a result")
def delete_result(job: JobId, context: InContext) -> None:
    """Delete the result's file; the job and its report stay."""
    found = _succeeded(context.store, job)
    context.storage.tidy_job(context.store.delete_result(found.id))


@readable(router, "/{job}/report", response_class=FileResponse, summary="Report of a job")
def report(job: JobId, context: InContext) -> Response:
    """Tell how the result was made: plan, model, timings, warnings, marked tiles."""
    found = _succeeded(context.store, job)
    return FileResponse(context.storage.report_path(found.id), media_type="application/json")


def _check(order: JobOrder, slide: Slide) -> None:
    """Refuse what the slide's facts and the catalog alone show to be impossible."""
    facts = slide.facts
    if order.model not in (models := catalog()):
        raise refusal("model.unknown", f"{order.model!r} is not on offer; on offer are {', '.join(models)}")
    if order.mpp is None and facts.mpp is None:
        detail = (
            "the slide does not say its µm per pixel and none is guessed; "
            'pass "mpp": 0.5 for a typical 20x scan, 0.25 for 40x, or what your scanner\'s software shows'
        )
        raise refusal("slide.mpp-missing", detail)
    low, high = PLAUSIBLE_MPP
    if order.mpp is None and facts.mpp is not None and not all(low <= one <= high for one in facts.mpp):
        detail = (
            f"the slide says {facts.mpp[0]:g} x {facts.mpp[1]:g} µm per pixel, and scanners make {low:g} to {high:g}; "
            'pass the right value as "mpp", or the same one to confirm it'
        )
        raise refusal("slide.mpp-implausible", detail)
    if order.level is not None and order.level >= len(facts.levels):
        raise refusal("request.level", f"level {order.level} was asked for; the slide has {len(facts.levels)}, from 0")
    if order.region is not None:
        x, y, width, height = order.region
        if x + width > facts.width or y + height > facts.height:
            detail = f"x {x}, y {y}, {width}x{height} px does not lie within {facts.width}x{facts.height} px (level 0)"
            raise refusal("request.region", detail)


def _known(store: Store, job_id: str) -> Job:
    found = store.job(job_id)
    if found is None:
        raise UnknownJobError(job_id)
    return found


def _succeeded(store: Store, job_id: str) -> Job:
    found = _known(store, job_id)
    if not found.state.is_final:
        raise refusal("job.not-finished", f"job {found.id} is {found.state}; poll it until its state is succeeded")
    if found.state is not JobState.SUCCEEDED:
        raise refusal("job.no-result", f"job {found.id} is {found.state}; GET /v1/jobs/{found.id} says why")
    return found


def _shown(job: Job) -> JobOut:
    error = ProblemOut(**body(job.problem, f"/v1/jobs/{job.id}")) if job.problem else None
    return JobOut.of(job, error)


def _retry_after(job: Job) -> dict[str, str]:
    """Seconds until another look is worth it: soon at first and near the end, seldom in the middle of a long job."""
    if job.state.is_final:
        return {}
    eta = (job.progress.eta_seconds if job.progress else None) or 0
    return {"Retry-After": str(min(30, max(1, round(eta / 10))))}
