"""What Prometheus scrapes: this process's requests, and what database and disk say of everybody's work."""

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
    responses={200: {"description": "Prometheus's text format", "content": {"text/plain": {}}}},
    summary="Figures for Prometheus",
)
def get_metrics(context: InContext, caller: InCaller) -> Response:
    """Tell queue, speed, bytes and failures; with tokens, to those of scope admin."""
    require_admin(caller)
    return Response(generate_latest(context.counters.registry), media_type=CONTENT_TYPE_LATEST)
