"""Server-sent events, and work that ends when its client hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from fastapi.responses import Response
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from skipstone.server.access.account import Account, account_of
from skipstone.server.protocol.errors import body_of

T = TypeVar("T")
Emit = Callable[[BaseModel], Awaitable[None]]
"""Sends one event."""


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


class EventStream(Response):
    """Events, as somebody writes them; ``[DONE]`` is the last, and an error is an event as well.

    Whoever writes is cancelled when the client hangs up, also while there is nothing to send.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        write: Callable[[Emit], Coroutine[object, object, None]],
        close: Callable[[], object],
    ) -> None:
        """``write`` is given what sends an event; ``close`` is called however it ends."""
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._write, self._close = write, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, the events and the end."""
        try:
            await self._send(account_of(HTTPConnection(scope)), receive, send)
        finally:
            # Whoever is cancelled before it has begun puts nothing in order.
            self._close()

    async def _send(self, account: Account, receive: Receive, send: Send) -> None:
        async def data(text: str) -> None:
            body = f"data: {text}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})

        async def emit(event: BaseModel) -> None:
            await data(event.model_dump_json())

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await unless_gone(receive, self._write(emit))
        except ClientGoneError:
            account.error = "client_gone"
            return
        except Exception as error:  # the status is out: it is told where the answer would be
            body = body_of(error)[1]
            account.error = body.error.code
            await emit(body)
        else:
            await data("[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_gone(receive: Receive, work: Coroutine[object, object, T]) -> T:
    """What some work gives; it is cancelled if the client hangs up before.

    Args:
        receive: of a request whose body was read.
        work: what is done for it.

    Raises:
        ClientGoneError: the client has hung up.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
