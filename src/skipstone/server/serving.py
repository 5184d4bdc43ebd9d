"""Runs the application: a socket that is bound first, uvicorn, and the signals that end it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from skipstone.errors import ConfigError
from skipstone.quoting import shown
from skipstone.server.access.connections import Connection
from skipstone.server.options import ServerOptions
from skipstone.server.served import DrainPlan

_SENDING_SECONDS, _HURRIED_SECONDS = 5.0, 2.0
"""For answers that ended when the server was stopped, and when it was told so twice."""
_TOLD_SECONDS = 0.3
"""For the error that is sent in place of those that did not end."""


class Server(uvicorn.Server):
    """uvicorn, without its habit of raising the signal that ended it once more at the end.

    When it is stopped, requests have some time; then each answer ends with what is final of it.
    """

    def __init__(
        self, config: uvicorn.Config, ending: DrainPlan, on_hangup: Callable[[], object] | None
    ) -> None:
        """``on_hangup`` is called at SIGHUP, in the event loop; None: that ends the process."""
        super().__init__(config)
        self._ending, self._on_hangup = ending, on_hangup
        self._hurried = asyncio.Event()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for requests, as long as they may take."""
        ending = asyncio.ensure_future(self._end_answers())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()
            self._ending.stop()

    async def _end_answers(self) -> None:
        """End those that take too long, then those whose clients do not even read what there is."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurried.wait(), self._ending.drain)
        self._ending.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurried.wait(), _SENDING_SECONDS - _HURRIED_SECONDS)
        await asyncio.sleep(_HURRIED_SECONDS)
        for task in tuple(self.server_state.tasks):
            task.cancel()
        # Those that are told why have a moment for it.
        await asyncio.sleep(_TOLD_SECONDS)
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal lets requests end, the second ends them."""
        loop = asyncio.get_running_loop()
        actions = dict[str, Callable[[], object]](SIGINT=self.stop, SIGTERM=self.stop)
        if self._on_hangup is not None:
            actions["SIGHUP"] = self._on_hangup
        before = dict[int, Any]()
        for name, action in actions.items():
            # Only the main thread of a process may, and not on Windows.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError, AttributeError):
                number = getattr(signal, name)
                there = signal.getsignal(number)
                loop.add_signal_handler(number, action)
                before[number] = there
        try:
            yield
        finally:
            for number, there in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, there)

    def stop(self) -> None:
        """End; asked a second time, with what there is now."""
        if self.should_exit:
            self._hurried.set()
        self.should_exit = True


def bind(options: ServerOptions) -> socket.socket:
    """The socket that clients will find.

    Raises:
        ConfigError: there is no such host here, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family, backlog=2048)
    # A name that cannot be one of a host is an error of its encoding.
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is no name of a host"
        raise ConfigError(
            f"host {shown(options.host)}, port {options.port}: cannot listen there ({why}); give "
            f"another host or port"
        ) from None


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def address_of(bound: socket.socket) -> str:
    """Where clients find it, as a base URL of OpenAI's client."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def server_of(app: FastAPI, on_hangup: Callable[[], object] | None = None) -> Server:
    """A server that logs nothing by itself but what is its own fault."""
    config = uvicorn.Config(
        app,
        # Named, as which ones uvicorn takes by itself depends on what else is installed.
        http=Connection,
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="on",
    )
    return Server(config, app.state.ending, on_hangup)


def serve(
    app: FastAPI,
    bound: socket.socket,
    ready: Callable[[str], object],
    on_hangup: Callable[[], object] | None = None,
) -> None:
    """Answer until a signal comes.

    Args:
        app: behind its guards.
        bound: where.
        ready: told the address once clients are answered.
        on_hangup: called at SIGHUP, in the event loop; None: that ends the process.
    """
    server = server_of(app, on_hangup)

    async def run() -> None:
        serving = asyncio.ensure_future(server.serve([bound]))
        while not (server.started or serving.done()):
            await asyncio.sleep(0.001)
        if server.started:
            ready(address_of(bound))
        await serving

    asyncio.run(run())
