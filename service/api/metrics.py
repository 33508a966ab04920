"""Route of the Prometheus metrics."""

from fastapi import APIRouter, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from slidelift.service.api.access import InCaller, require_admin
from slidelift.service.api.context import InContext
from slidelift.service.api.problems import error_responses

router = APIRouter(tags=["health"], responses=error_responses())


@router.get(
    "/metrics",
    operation_id="get_metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Metrics in Prometheus text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
    summary="Get Prometheus metrics",
)
def get_metrics(context: InContext, caller: InCaller) -> Response:
    """Return metrics of jobs, workers, disk and requests; requires scope `admin` if the service uses tokens."""
    require_admin(caller)
    return Response(generate_latest(context.counters.registry), media_type=CONTENT_TYPE_LATEST)
