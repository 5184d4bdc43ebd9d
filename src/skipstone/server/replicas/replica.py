"""One engine in a process of its own, somewhere in the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address

import ray
from prometheus_client import Metric
from ray import serve
from ray.serve._private import replica as internals
from starlette.routing import Match
from starlette.types import Message, Scope

from skipstone.engine import Engine
from skipstone.errors import SkipstoneError
from skipstone.server.access.account import ELSEWHERE, Accounts
from skipstone.server.app import routes_of
from skipstone.server.heap import give_back_regularly, share_one_arena
from skipstone.server.metrics import Metrics
from skipstone.server.options import ServerOptions
from skipstone.server.replicas.messages import Answered, SentRequest
from skipstone.server.replicas.router import ANSWERS, POSITIONS
from skipstone.server.served import ServedModel
from skipstone.server.traces.kept import KeptTraces


class Replica:
    """Answers what it is asked with its own engine; Ray Serve makes, checks and ends it."""

    def __init__(self, make: Callable[[], Engine], options: ServerOptions, generation: int) -> None:
        """Load the model.

        Args:
            make: the engine.
            options: how it is served.
            generation: not used; Ray replaces replicas that were made with another one.
        """
        _listen_where_the_node_does()
        share_one_arena()
        give_back_regularly()
        self._served = ServedModel(make(), options, KeptTraces(options))
        self._metrics = Metrics(self._served.engine)
        self._routes = routes_of(self._served)
        self._app = Accounts(self._routes, tell=self._metrics.note)

    async def answer(self, asked: SentRequest) -> AsyncIterator[Answered]:
        """Answer a request; whoever stops reading cancels it."""
        account = asked.account.resumed(asked.age)
        scope: Scope = {**asked.scope, "root_path": "", "state": {"account": account}}
        body = iter([{"type": "http.request", "body": asked.body, "more_body": False}])
        written = asyncio.Queue[Message | None]()

        async def receive() -> Message:
            # Of a client that hangs up, the end of this generator tells.
            return next(body, None) or await asyncio.Future[Message]()

        async def run() -> None:
            try:
                await self._app(scope, receive, written.put)
            finally:
                written.put_nowait(None)

        task = asyncio.ensure_future(run())
        try:
            yield self._route(scope)
            ended = False
            while not ended:
                messages = [await written.get()]
                while not written.empty():
                    messages.append(written.get_nowait())
                ended = messages[-1] is None
                yield [message for message in messages if message is not None]
            await task
            yield account
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _route(self, scope: Scope) -> str:
        """The route that a request comes to, as it is declared."""
        found = [r for r in self._routes.routes if r.matches(scope)[0] is not Match.NONE]
        return getattr(found[0], "path", ELSEWHERE) if found else ELSEWHERE

    async def metrics(self) -> tuple[str, list[Metric]]:
        """The name of this replica, and what it has counted."""
        return serve.get_replica_context().replica_id.unique_id, self._metrics.families()

    async def stop(self) -> None:
        """End all answers: each is what is final of it."""
        self._served.open.stop()

    async def check_health(self) -> None:
        """For Ray Serve, which replaces a replica that cannot decode any more.

        Raises:
            SkipstoneError: the thread that decodes has died.
        """
        if not self._served.engine.load.alive:
            raise SkipstoneError("the thread that decodes has died")

    async def record_routing_stats(self) -> dict[str, float]:
        """For the router: what there is to do here."""
        load = self._served.engine.load
        return {
            POSITIONS: load.positions + load.waiting_positions,
            ANSWERS: load.running + load.waiting,
        }


def _listen_where_the_node_does() -> None:
    """Keep a cluster of this machine's own on its loopback.

    Ray Serve opens a port in each replica, after the replica is made, by which deployments may call
    each other; it does so on all interfaces, whatever the rest of the cluster listens on.
    """
    node = ray.util.get_node_ip_address()
    if ip_address(node).is_loopback:
        opened = internals.add_port_to_grpc_server

        def opened_there(server: object, address: str) -> int:
            return opened(server, f"{node}:0")

        internals.add_port_to_grpc_server = opened_there
