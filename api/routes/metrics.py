"""`/metrics`, for Prometheus; it needs no key, for it names no owner, job or text."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from core.metrics import ServiceCollector

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "The text format of Prometheus"}},
)
def metrics(request: Request) -> Response:
    """Read from the database at every scrape; 503 while that does not answer."""
    state = request.app.state
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServiceCollector(state.sessions, state.settings.lease_seconds))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
