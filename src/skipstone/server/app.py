"""Routes, and what stands before them, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException

from skipstone.engine import Engine
from skipstone.errors import SkipstoneError
from skipstone.server.access.account import Account, Accounts, account_of
from skipstone.server.access.bodies import Bodies
from skipstone.server.access.keys import ApiKeys
from skipstone.server.answer.stream import ClientGoneError
from skipstone.server.metrics import Metrics
from skipstone.server.options import ServerOptions
from skipstone.server.protocol.errors import ErrorBody, body_of, response_to
from skipstone.server.routes.chat import chat_routes
from skipstone.server.routes.completions import completion_routes
from skipstone.server.routes.metrics import metric_routes
from skipstone.server.routes.models import model_routes
from skipstone.server.routes.traces import trace_routes
from skipstone.server.served import ServedModel
from skipstone.server.traces.kept import KeptTraces
from skipstone.version import __version__

# What nginx writes into its log for a client that has hung up; nobody reads it.
_CLIENT_GONE = 499
_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be answered"},
    "5XX": {"model": ErrorBody, "description": "The server cannot answer"},
}


def _ignore(account: Account) -> None:
    """For whoever keeps no log."""


def make_app(
    engine: Engine, options: ServerOptions, log: Callable[[Account], object] = _ignore
) -> FastAPI:
    """The application that serves an engine.

    Args:
        engine: decodes; nobody else needs to leave it alone.
        options: how it is served.
        log: told what is known of each request once it is over, by the event loop's thread.
    """
    served = ServedModel(engine, options, KeptTraces(options))

    @asynccontextmanager
    async def until_stopped(app: FastAPI) -> AsyncIterator[None]:
        yield
        served.traces.close()

    # No pages of documentation: they load scripts from elsewhere. /openapi.json has it all.
    app = FastAPI(
        title="Skipstone",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
        lifespan=until_stopped,
    )
    app.state.served = served
    metrics = Metrics(engine)
    app.include_router(metric_routes(metrics))
    for routes in (chat_routes, completion_routes, model_routes, trace_routes):
        app.include_router(routes(served))
    for kind in (SkipstoneError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(ClientGoneError, _nobody)
    # The last one is the first that a request comes to.
    app.add_middleware(Bodies, limit=options.max_body)
    if options.keys:
        app.add_middleware(ApiKeys, keys=options.keys)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )

    def tell(account: Account) -> None:
        metrics.note(account)
        log(account)

    app.add_middleware(Accounts, tell=tell)
    return app


async def _answer(request: Request, error: Exception) -> Response:
    account_of(request).error = body_of(error)[1].error.code
    return response_to(error)


async def _nobody(request: Request, error: Exception) -> Response:
    account_of(request).error = "client_gone"
    return Response(status_code=_CLIENT_GONE)
