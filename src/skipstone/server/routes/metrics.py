"""``GET /metrics``."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from skipstone.server.metrics import Metrics


def metric_routes(metrics: Metrics) -> APIRouter:
    """The endpoint, for what is counted."""
    routes = APIRouter()

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def page() -> Response:
        """Counts and load, for Prometheus."""
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return routes
