"""Routes, and what stands before them, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from skipstone.engine import Engine
from skipstone.errors import SkipstoneError
from skipstone.server.access.account import Account, Accounts, account_of
from skipstone.server.access.bodies import Bodies
from skipstone.server.access.ending import Endings
from skipstone.server.access.hosts import Hosts, is_local
from skipstone.server.access.keys import ApiKeys
from skipstone.server.answer.stream import ClientGoneError
from skipstone.server.heap import give_back_regularly
from skipstone.server.metrics import Metrics
from skipstone.server.options import ServerOptions
from skipstone.server.protocol.errors import ErrorBody, body_of, no_address, response_to
from skipstone.server.protocol.streams import describe_errors, describe_streams
from skipstone.server.routes.chat import chat_routes
from skipstone.server.routes.completions import completion_routes
from skipstone.server.routes.fill import fill_routes
from skipstone.server.routes.metrics import metric_routes
from skipstone.server.routes.models import model_routes
from skipstone.server.routes.page import page_routes
from skipstone.server.routes.settings import setting_routes
from skipstone.server.routes.traces import trace_routes
from skipstone.server.served import DrainPlan, ServedModel
from skipstone.server.traces.kept import KeptTraces
from skipstone.version import __version__

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
    served, metrics = ServedModel(engine, options, KeptTraces(options)), Metrics(engine)
    app = routes_of(served)
    app.include_router(metric_routes(metrics.page))

    def tell(account: Account) -> None:
        metrics.note(account)
        log(account)

    guard(app, options, served.open.stop, tell)
    return app


class _Silence(Response):
    """For a client that has hung up: nothing is sent, so there is no status either."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leave it at that."""


class _Described(FastAPI):
    """An application whose description has streams, too, and errors as they are."""

    def openapi(self) -> dict[str, Any]:
        """The description, made when it is first asked for."""
        begins = self.openapi_schema is None
        description = super().openapi()
        if begins:
            describe_streams(description)
            describe_errors(description)
        return description


def routes_of(served: ServedModel) -> FastAPI:
    """What an engine answers; nobody stands before it."""

    @asynccontextmanager
    async def until_stopped(app: FastAPI) -> AsyncIterator[None]:
        end = give_back_regularly()
        yield
        end()
        served.traces.close()

    # No pages of documentation: they load scripts from elsewhere. /openapi.json has it all.
    app = _Described(
        title="Skipstone",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        # The host of another address would be the one that the client says.
        redirect_slashes=False,
        responses=_ERRORS,
        lifespan=until_stopped,
    )
    for routes in (
        chat_routes,
        completion_routes,
        fill_routes,
        model_routes,
        setting_routes,
        trace_routes,
    ):
        app.include_router(routes(served))
    app.include_router(page_routes())
    say_errors(app)
    return app


def say_errors(app: FastAPI) -> None:
    """Answer with errors in OpenAI's form."""
    for kind in (SkipstoneError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(ClientGoneError, _nobody)


def guard(
    app: FastAPI,
    options: ServerOptions,
    stop: Callable[[], object],
    tell: Callable[[Account], object],
) -> None:
    """Put before an application what checks who may ask, and how much.

    Args:
        app: answers.
        options: who may, and how much.
        stop: ends the answers that are left when the server is stopped.
        tell: told what is known of each request once it is over.
    """
    app.state.ending = DrainPlan(options.drain, stop)
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
    if options.allowed_hosts or (is_local(options.host) and not options.keys):
        app.add_middleware(Hosts, names=options.allowed_hosts)
    app.add_middleware(Endings)
    app.add_middleware(Accounts, tell=tell)


async def _answer(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        error = no_address(request.method, request.url.path, error)
    account_of(request).error = body_of(error)[1].error.code
    return response_to(error)


async def _nobody(request: Request, error: Exception) -> Response:
    account_of(request).error = "client_gone"
    return _Silence()
