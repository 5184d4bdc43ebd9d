"""How much may be sent: a body is read as a whole, up to a limit of bytes and of time."""

from __future__ import annotations

import asyncio

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skipstone.server.access.account import account_of, refuse
from skipstone.server.protocol.errors import AnswerError

SECONDS = 60.0
"""In which a body must be there."""


class HangUpError(Exception):
    """The client went before its request was whole."""


class Bodies:
    """Reads bodies before anything is made of them."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """``limit`` is in bytes."""
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(SECONDS):
                body = await self._read(receive)
        except HangUpError:
            account_of(HTTPConnection(scope)).error = "client_gone"
            return
        except TimeoutError:
            said = f"the body was not there after {SECONDS:g} s; send it faster"
            await refuse(AnswerError(408, said, code="slow_body"), scope, receive, send)
            return
        except AnswerError as error:
            await refuse(error, scope, receive, send)
            return
        given = list[Message]([{"type": "http.request", "body": body, "more_body": False}])

        async def once() -> Message:
            return given.pop() if given else await receive()

        await self._app(scope, once, send)

    async def _read(self, receive: Receive) -> bytes:
        """The body.

        Raises:
            AnswerError: it is too long.
            HangUpError: the client has gone.
        """
        parts, count, more = list[bytes](), 0, True
        # Of one that is too long, as much again is read: a client that still sends would not read.
        while more and count <= 2 * self._limit:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise HangUpError
            part = message.get("body", b"")
            count, more = count + len(part), message.get("more_body", False)
            if count <= self._limit:
                parts.append(part)
        if count > self._limit:
            raise AnswerError(
                413,
                f"the body has more than the {self._limit} bytes that are taken; send less "
                f"at once, or start the server with a larger --max-body",
                code="body_too_large",
            )
        return b"".join(parts)
