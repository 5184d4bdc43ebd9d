"""Routes, and what is answered when something is wrong, put together."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from skipstone.engine import Engine
from skipstone.errors import SkipstoneError
from skipstone.server.answer.stream import ClientGoneError
from skipstone.server.options import ServerOptions
from skipstone.server.protocol.errors import ErrorBody, response_to
from skipstone.server.routes.chat import chat_routes
from skipstone.server.routes.completions import completion_routes
from skipstone.server.routes.models import model_routes
from skipstone.server.served import ServedModel
from skipstone.version import __version__

# What nginx writes into its log for a client that has hung up; nobody reads it.
_CLIENT_GONE = 499
_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be answered"},
    "5XX": {"model": ErrorBody, "description": "The server cannot answer"},
}


def make_app(engine: Engine, options: ServerOptions) -> FastAPI:
    """The application that serves an engine.

    Args:
        engine: decodes; nobody else needs to leave it alone.
        options: how it is served.
    """
    # No pages of documentation: they load scripts from elsewhere. /openapi.json has it all.
    app = FastAPI(
        title="Skipstone",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
    )
    served = ServedModel(engine, options)
    for routes in (chat_routes, completion_routes, model_routes):
        app.include_router(routes(served))
    for kind in (SkipstoneError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(ClientGoneError, _nobody)
    return app


async def _answer(request: Request, error: Exception) -> Response:
    return response_to(error)


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)
