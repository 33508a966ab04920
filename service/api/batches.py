"""Batches: jobs with the same options for many slides, created, observed and cancelled together."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from slidelift.service.api.access import Caller, InCaller
from slidelift.service.api.context import Context, InContext
from slidelift.service.api.job_creation import KeyHeader, create_job, idempotency_key, queue_jobs
from slidelift.service.api.problems import BODY_MAX_BYTES, documented
from slidelift.service.api.responses import Documented, address, readable
from slidelift.service.api.schemas import BatchIn, BatchOut
from slidelift.service.errors import refusal
from slidelift.service.jobs.job import ForbiddenMoveError, Job
from slidelift.service.jobs.store import JobFilter

router = APIRouter(prefix="/v1/batches", tags=["batches"], responses=documented(), max_body_size=BODY_MAX_BYTES)

BatchId = Annotated[str, Path(description="Id of a batch.")]
_LINKS: Documented = {
    202: {
        "headers": {"Location": {"schema": {"type": "string"}, "description": "Address of the batch."}},
        "links": {
            name: {"operationId": name, "parameters": {"batch": "$response.body#/id"}}
            for name in ("batch_state", "cancel_batch")
        },
    }
}
_MAX_JOBS = 100_000


@router.post("", status_code=202, operation_id="ask_batch", summary="Upscale many slides", responses=_LINKS)
def ask_batch(
    body: BatchIn,
    request: Request,
    response: Response,
    context: InContext,
    caller: InCaller,
    key: KeyHeader = None,
) -> BatchOut:
    """Queue a job with the same options for each slide; if one slide is refused, no job is queued."""
    request_key = idempotency_key(caller, key, request, body)
    jobs = context.store.made_before(request_key) if request_key else None
    if not jobs:
        new_id = uuid.uuid4().hex
        created = [create_job(context, caller, order, new_id) for order in body.orders()]
        jobs = queue_jobs(context, caller, created, request_key)
    batch = str(jobs[0].batch)
    response.headers["Location"] = address(request, f"/v1/batches/{batch}")
    return BatchOut.of(batch, jobs, address(request, f"/v1/jobs?batch={batch}"))


@readable(router, "/{batch}", operation_id="batch_state", summary="State of a batch")
def batch_state(batch: BatchId, request: Request, context: InContext, caller: InCaller) -> BatchOut:
    """Count a batch's jobs in each state."""
    return BatchOut.of(batch, _jobs_of(context, caller, batch), address(request, f"/v1/jobs?batch={batch}"))


@router.delete("/{batch}", operation_id="cancel_batch", status_code=202, summary="Cancel a batch")
def cancel_batch(batch: BatchId, request: Request, context: InContext, caller: InCaller) -> BatchOut:
    """Cancel the batch's jobs that have not ended; finished results stay."""
    for job in _jobs_of(context, caller, batch):
        if not job.state.is_ended:
            try:
                context.storage.tidy_job(context.store.cancel(job.id))
            except ForbiddenMoveError:  # the job has just ended
                continue
    return BatchOut.of(batch, _jobs_of(context, caller, batch), address(request, f"/v1/jobs?batch={batch}"))


def _jobs_of(context: Context, caller: Caller, batch: str) -> list[Job]:
    jobs = context.store.jobs(_MAX_JOBS, None, JobFilter(batch=batch, owner=caller.only)).entries
    if not jobs:
        raise refusal("batch.unknown", f"{batch}: no such id")
    return list(reversed(jobs))
