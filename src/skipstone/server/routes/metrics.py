"""``GET /metrics``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST


def metric_routes(counted: Callable[[], Awaitable[bytes]]) -> APIRouter:
    """The endpoint, for what is counted."""
    routes = APIRouter()

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def page() -> Response:
        """Counts and load, for Prometheus."""
        return Response(await counted(), media_type=CONTENT_TYPE_LATEST)

    return routes
