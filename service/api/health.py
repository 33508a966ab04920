"""Health: whether the process answers, and whether it can take work.

Neither answer waits for one of the threads that requests share: with a locked database all of them may be waiting.
"""

from fastapi import APIRouter, Request, Response

from slidelift.service.api import schemas
from slidelift.service.api.context import InContext
from slidelift.service.api.problems import error_responses, problem_response
from slidelift.service.api.responses import get_and_head
from slidelift.service.errors import problem

router = APIRouter(prefix="/health", tags=["health"], responses=error_responses())


@get_and_head(router, "/live", operation_id="get_liveness", summary="Is the process there?")
async def get_liveness() -> schemas.Liveness:
    """Answer; nothing is looked at."""
    return schemas.Liveness()


@get_and_head(
    router,
    "/ready",
    operation_id="get_readiness",
    response_model=schemas.Readiness,
    summary="Can the service take work?",
)
async def get_readiness(request: Request, context: InContext) -> Response:
    """Look at database, disk, worker and its device; 503 names what is missing, or does not answer in two seconds."""
    checks = await context.readiness.checks()
    missing = [f"{name}: {check.detail}" for name, check in checks.items() if not check.ok]
    if missing:
        found = problem("service.not-ready", "; ".join(missing))
        shown = {name: check.model_dump() for name, check in checks.items()}
        return problem_response(found, request, {"Retry-After": "5"}, checks=shown)
    return Response(schemas.Readiness(checks=checks).model_dump_json(), media_type="application/json")
