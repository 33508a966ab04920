"""Health: whether the process answers, and whether it can take work.

Neither answer waits for one of the threads that requests share: with a locked database all of them may be waiting.
"""

from fastapi import APIRouter, Request, Response

from slidelift.service.api.context import InContext
from slidelift.service.api.problems import documented, response
from slidelift.service.api.responses import readable
from slidelift.service.api.schemas import LiveOut, ReadyOut
from slidelift.service.errors import problem

router = APIRouter(prefix="/health", tags=["health"], responses=documented())


@readable(router, "/live", summary="Is the process there?")
async def live() -> LiveOut:
    """Answer; nothing is looked at."""
    return LiveOut()


@readable(router, "/ready", response_model=ReadyOut, summary="Can the service take work?")
async def ready(request: Request, context: InContext) -> Response:
    """Look at database, disk, worker and its device; 503 names what is missing, or does not answer in two seconds."""
    checks = await context.readiness.checks()
    missing = [f"{name}: {check.detail}" for name, check in checks.items() if not check.ok]
    if missing:
        found = problem("service.not-ready", "; ".join(missing))
        shown = {name: check.model_dump() for name, check in checks.items()}
        return response(found, request, {"Retry-After": "5"}, checks=shown)
    return Response(ReadyOut(checks=checks).model_dump_json(), media_type="application/json")
