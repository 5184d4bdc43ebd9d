"""The end of a server: whoever is not answered by then is told so."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skipstone.server.access.account import account_of, refuse
from skipstone.server.protocol.errors import OURS, AnswerError, event_of

HEAD, BODY = "http.response.start", "http.response.body"


class Endings:
    """Answers in place of what is cancelled, as nobody waits for it any more."""

    def __init__(self, app: ASGIApp) -> None:
        """Nothing is cancelled before the server ends."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why there is no answer."""
        head: Message | None = None

        async def noted(message: Message) -> None:
            nonlocal head
            if message["type"] == HEAD:
                head = message
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            error = AnswerError(503, "the server was stopped; ask again", kind=OURS, code="stopped")
            if head is None:
                await refuse(error, scope, receive, send)
                return
            account_of(HTTPConnection(scope)).error = error.code
            if not is_stream(head):
                raise
            await send({"type": BODY, "body": event_of(error), "more_body": False})


def is_stream(head: Message) -> bool:
    """Whether an answer that begins so consists of events."""
    return "text/event-stream" in Headers(raw=head["headers"]).get("content-type", "")
