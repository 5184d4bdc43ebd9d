"""``GET /v1/models`` and ``GET /health``."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from skipstone.server.answer.plan import check_model
from skipstone.server.protocol.errors import OURS, AnswerError
from skipstone.server.protocol.models import ModelCard, ModelList
from skipstone.server.served import ServedModel


class Health(BaseModel):
    """Requests are answered."""

    status: Literal["ok"] = "ok"


def model_routes(served: ServedModel) -> APIRouter:
    """The endpoints, for what is served."""
    routes = APIRouter()
    card = ModelCard(id=served.options.name, created=served.since)

    @routes.get("/v1/models")
    async def models() -> ModelList:
        """Every model that is served."""
        return ModelList(data=[card])

    # A name may be that of a folder or of a hub.
    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> ModelCard:
        """One of them."""
        check_model(served, name)
        return card

    @routes.get("/health")
    async def health() -> Health:
        """Whether requests are answered."""
        if not served.engine.load.alive:
            said = "the thread that decodes has died; start the server again"
            raise AnswerError(503, said, kind=OURS, code="engine_died")
        return Health()

    return routes
