"""Routes of batches: create, poll and cancel the jobs of many slides together."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from slidelift.service.api import schemas
from slidelift.service.api.access import Caller, InCaller
from slidelift.service.api.context import Context, InContext
from slidelift.service.api.job_creation import KeyHeader, idempotency_key, new_job, queue_jobs
from slidelift.service.api.problems import BODY_MAX_BYTES, error_responses
from slidelift.service.api.responses import ResponseDocs, get_and_head, url_path
from slidelift.service.errors import refusal
from slidelift.service.jobs.job import ForbiddenTransitionError, Job
from slidelift.service.jobs.store import JobFilter

router = APIRouter(prefix="/v1/batches", tags=["batches"], responses=error_responses(), max_body_size=BODY_MAX_BYTES)

BatchId = Annotated[str, Path(description="Id of a batch.")]
_LINKS: ResponseDocs = {
    202: {
        "headers": {"Location": {"schema": {"type": "string"}, "description": "Address of the batch."}},
        "links": {
            name: {"operationId": name, "parameters": {"batch": "$response.body#/id"}}
            for name in ("get_batch", "cancel_batch")
        },
    }
}
_MAX_JOBS = 100_000


@router.post("", status_code=202, operation_id="create_batch", summary="Create a batch of jobs", responses=_LINKS)
def create_batch(
    wanted: schemas.BatchRequest,
    request: Request,
    response: Response,
    context: InContext,
    caller: InCaller,
    key: KeyHeader = None,
) -> schemas.Batch:
    """Queue the same job for each slide. If one slide can't be used, the batch is refused and no job is queued."""
    keyed = idempotency_key(caller, key, request, wanted)
    jobs = context.store.jobs_of_key(keyed) if keyed else None
    if not jobs:
        batch = uuid.uuid4().hex
        jobs = queue_jobs(context, caller, [new_job(context, caller, order, batch) for order in wanted.orders()], keyed)
    found = str(jobs[0].batch)
    response.headers["Location"] = url_path(request, f"/v1/batches/{found}")
    return schemas.Batch.of(found, jobs, url_path(request, f"/v1/jobs?batch={found}"))


@get_and_head(router, "/{batch}", operation_id="get_batch", summary="Get a batch")
def get_batch(batch: BatchId, request: Request, context: InContext, caller: InCaller) -> schemas.Batch:
    """Count a batch's jobs by state."""
    return schemas.Batch.of(batch, _jobs_of(context, caller, batch), url_path(request, f"/v1/jobs?batch={batch}"))


@router.delete("/{batch}", operation_id="cancel_batch", status_code=202, summary="Cancel a batch")
def cancel_batch(batch: BatchId, request: Request, context: InContext, caller: InCaller) -> schemas.Batch:
    """Cancel the batch's jobs that have not ended; existing results are kept."""
    for job in _jobs_of(context, caller, batch):
        if not job.state.is_ended:
            try:
                context.storage.tidy_job(context.store.cancel(job.id))
            except ForbiddenTransitionError:  # the job has just ended
                continue
    return schemas.Batch.of(batch, _jobs_of(context, caller, batch), url_path(request, f"/v1/jobs?batch={batch}"))


def _jobs_of(context: Context, caller: Caller, batch: str) -> list[Job]:
    found = context.store.jobs(_MAX_JOBS, None, JobFilter(batch=batch, owner=caller.only)).entries
    if not found:
        raise refusal("batch.unknown", f"{batch}: no such id")
    return list(reversed(found))
