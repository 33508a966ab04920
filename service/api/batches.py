"""Batches: one order over many slides, asked for, watched and cancelled together."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from slidelift.service.api.access import Caller, InCaller
from slidelift.service.api.context import Context, InContext
from slidelift.service.api.job_creation import KeyHeader, checked, keyed_by, queued
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
_MOST = 100_000


@router.post("", status_code=202, operation_id="ask_batch", summary="Ask for many upscales", responses=_LINKS)
def ask_batch(
    wanted: BatchIn,
    request: Request,
    response: Response,
    context: InContext,
    caller: InCaller,
    key: KeyHeader = None,
) -> BatchOut:
    """Queue the same job for each slide, all of them or none: one slide that can't be taken refuses the batch."""
    keyed = keyed_by(caller, key, request, wanted)
    jobs = context.store.made_before(keyed) if keyed else None
    if not jobs:
        batch = uuid.uuid4().hex
        jobs = queued(context, caller, [checked(context, caller, order, batch) for order in wanted.orders()], keyed)
    found = str(jobs[0].batch)
    response.headers["Location"] = address(request, f"/v1/batches/{found}")
    return BatchOut.of(found, jobs, address(request, f"/v1/jobs?batch={found}"))


@readable(router, "/{batch}", operation_id="batch_state", summary="State of a batch")
def batch_state(batch: BatchId, request: Request, context: InContext, caller: InCaller) -> BatchOut:
    """Tell how many of a batch's jobs are in each state."""
    return BatchOut.of(batch, _known(context, caller, batch), address(request, f"/v1/jobs?batch={batch}"))


@router.delete("/{batch}", operation_id="cancel_batch", status_code=202, summary="Cancel a batch")
def cancel_batch(batch: BatchId, request: Request, context: InContext, caller: InCaller) -> BatchOut:
    """Cancel those of its jobs that have not ended; results that are there stay."""
    for job in _known(context, caller, batch):
        if not job.state.is_ended:
            try:
                context.storage.tidy_job(context.store.cancel(job.id))
            except ForbiddenMoveError:  # it has just ended
                continue
    return BatchOut.of(batch, _known(context, caller, batch), address(request, f"/v1/jobs?batch={batch}"))


def _known(context: Context, caller: Caller, batch: str) -> list[Job]:
    found = context.store.jobs(_MOST, None, JobFilter(batch=batch, owner=caller.only)).entries
    if not found:
        raise refusal("batch.unknown", f"{batch}: no such id")
    return list(reversed(found))
