"""Routes of the health checks: liveness and readiness.

Neither uses the thread pool of the requests, all of whose threads may be waiting for a locked database.
"""

from fastapi import APIRouter, Request, Response

from slidelift.service.api import schemas
from slidelift.service.api.context import InContext
from slidelift.service.api.problems import error_responses, problem_response
from slidelift.service.api.responses import get_and_head
from slidelift.service.errors import problem

router = APIRouter(prefix="/health", tags=["health"], responses=error_responses())


@get_and_head(router, "/live", operation_id="get_liveness", summary="Check that the process runs")
async def get_liveness() -> schemas.Liveness:
    """Respond without checking anything."""
    return schemas.Liveness()


@get_and_head(
    router,
    "/ready",
    operation_id="get_readiness",
    response_model=schemas.Readiness,
    summary="Check that the service can process jobs",
)
async def get_readiness(request: Request, context: InContext) -> Response:
    """Check database, disk, worker and device; 503 names the checks that failed or took over two seconds."""
    checks = await context.readiness.checks()
    failed = [f"{name}: {check.detail}" for name, check in checks.items() if not check.ok]
    if failed:
        not_ready = problem("service.not-ready", "; ".join(failed))
        results = {name: check.model_dump() for name, check in checks.items()}
        return problem_response(not_ready, request, {"Retry-After": "5"}, checks=results)
    return Response(schemas.Readiness(checks=checks).model_dump_json(), media_type="application/json")
