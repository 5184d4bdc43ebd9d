"""Where requests to replicas come in: each goes to one of them, and to another if that one dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import cast

from fastapi import FastAPI
from prometheus_client import Metric, generate_latest
from prometheus_client.registry import Collector
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from skipstone.errors import SkipstoneError
from skipstone.server.access.account import Account, account_of
from skipstone.server.access.ending import BODY, HEAD, is_stream
from skipstone.server.answer.stream import unless_gone
from skipstone.server.app import guard, say_errors
from skipstone.server.metrics import Metrics
from skipstone.server.options import ServerOptions
from skipstone.server.protocol.errors import OURS, AnswerError, event_of
from skipstone.server.replicas.messages import Answered, SentRequest
from skipstone.server.replicas.replica import Replica
from skipstone.server.routes.metrics import metric_routes

_MOST_DEATHS = 3
"""Replicas that may die of a request before it is given up: it may be what they die of."""
_PLACE_SECONDS = 60.0
"""In which a replica must have taken a request: as long as a model takes to load again."""
_HEALTH_SECONDS = 5.0
_METRICS_SECONDS = 5.0


def make_front(
    handle: DeploymentHandle[Replica], options: ServerOptions, log: Callable[[Account], object]
) -> FastAPI:
    """The application that passes requests on to replicas.

    Args:
        handle: of the deployment.
        options: how it is served.
        log: told what is known of each request once it is over, by the event loop's thread.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    own, replicas = Metrics(None), Replicas(handle)

    async def page() -> bytes:
        return page_of([("front", own.families()), *await replicas.metrics()])

    def tell(account: Account) -> None:
        # What a replica has answered, it has counted.
        if not account.counted:
            own.note(account)
        log(account)

    app.include_router(metric_routes(page))
    app.mount("/", replicas)
    say_errors(app)
    guard(app, options, replicas.stop, tell)
    return app


class Replicas:
    """An application of ASGI that lets replicas answer."""

    def __init__(self, handle: DeploymentHandle[Replica]) -> None:
        """``handle`` knows the replicas that there are."""
        self._handle = handle
        self._open = 0
        self._stopping: asyncio.Task[object] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose body was read."""
        body = (await receive())["body"]
        asked = SentRequest.of(scope, body, account_of(HTTPConnection(scope)))
        self._open += 1
        try:
            await unless_gone(receive, self._answer(asked, HeldAnswer(send)))
        finally:
            self._open -= 1

    def stop(self) -> None:
        """End all answers: each is what is final of it."""
        if self._open and self._stopping is None:
            told = self._handle.broadcast("stop")
            self._stopping = asyncio.ensure_future(told.results_async(return_exceptions=True))

    async def metrics(self) -> list[tuple[str, list[Metric]]]:
        """What each replica has counted, by its name; without those that do not answer."""
        asked = self._handle.broadcast("metrics")
        try:
            found = await asked.results_async(timeout_s=_METRICS_SECONDS, return_exceptions=True)
        except (TimeoutError, RayServeException):
            return []
        return [one for one in found if not isinstance(one, BaseException)]

    async def _answer(self, asked: SentRequest, out: HeldAnswer) -> None:
        """Let a replica answer, and if it dies before anything was sent, another one."""
        for _ in range(_MOST_DEATHS):
            try:
                async with aclosing(self._ask(asked)) as answered:
                    async for messages in answered:
                        await out.send(messages)
                await out.close()
                return
            except RayActorError:
                if out.whole:
                    await out.close()
                    return
                asked.account.counted = False
                if out.begun:
                    asked.account.error = _died().code
                    await out.break_off(_died())
                    return
                out.again()
        raise _died()

    async def _ask(self, asked: SentRequest) -> AsyncGenerator[list[Message]]:
        """What one replica answers.

        Raises:
            RayActorError: it has died.
            AnswerError: there is none.
        """
        account, streaming = asked.account, self._handle.options(stream=True)
        given = cast(
            "DeploymentResponseGenerator[Answered]",
            streaming.answer.remote(replace(asked, age=account.age)),
        )
        limit = _HEALTH_SECONDS if asked.scope["path"] == "/health" else _PLACE_SECONDS
        try:
            async with asyncio.timeout(limit):
                account.route = cast("str", await anext(given))
            account.counted = True
            async for found in given:
                if isinstance(found, Account):
                    account.take(found)
                else:
                    yield cast("list[Message]", found)
        except (TimeoutError, RayServeException):
            raise AnswerError(
                503, "no replica is ready; try again later", kind=OURS, code="no_replica"
            ) from None
        finally:
            # Whatever is left of it there ends.
            given.cancel()


class HeldAnswer:
    """Sends an answer; its head waits for the first of its body.

    As long as nothing is sent, another replica can be asked. What is last waits for the account of
    it: when it is out, nobody listens any more.
    """

    def __init__(self, send: Send) -> None:
        """Nothing is sent yet."""
        self.begun = self.whole = False
        self._send, self._stream = send, False
        self._held = list[Message]()

    async def send(self, messages: Sequence[Message]) -> None:
        """Send what a replica has answered, in their order."""
        for message in messages:
            self._held.append(message)
            self.whole = message["type"] == BODY and not message.get("more_body", False)
            if message["type"] == BODY and not self.whole:
                await self.close()

    async def close(self) -> None:
        """Send what is held back."""
        for message in self._held:
            if message["type"] == HEAD:
                self._stream = is_stream(message)
            self.begun = True
            await self._send(message)
        self._held.clear()

    def again(self) -> None:
        """Forget what another replica has not answered to its end."""
        self._held.clear()

    async def break_off(self, error: AnswerError) -> None:
        """End what is begun with an error: of a stream it is an event in place of its end.

        Raises:
            SkipstoneError: it is no stream; the connection must be closed before its end.
        """
        if not self._stream:
            raise SkipstoneError("an answer ended in the middle")
        await self._send({"type": BODY, "body": event_of(error), "more_body": False})


def _died() -> AnswerError:
    return AnswerError(
        503,
        "the replica that answered has died; ask again",
        kind=OURS,
        code="replica_died",
    )


class _Families(Collector):
    """Metrics that were collected elsewhere."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def page_of(found: Sequence[tuple[str, Sequence[Metric]]]) -> bytes:
    """The metrics of several processes on one page; a label says of which replica each is.

    Args:
        found: the metrics of each, by its name.
    """
    families = dict[str, Metric]()
    for name, metrics in found:
        for metric in metrics:
            own = Metric(metric.name, metric.documentation, metric.type)
            family = families.setdefault(metric.name, own)
            for sample in metric.samples:
                labels = {**sample.labels, "replica": name}
                family.samples.append(sample._replace(labels=labels))
    return generate_latest(_Families(families.values()))
