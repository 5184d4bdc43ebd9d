"""What is known of a request when it is over: for the log, the metrics and its client."""

from __future__ import annotations

import logging
import secrets
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skipstone.errors import SkipstoneError
from skipstone.server.protocol.errors import AnswerError, response_to

_LOG = logging.getLogger(__name__)
SEEDS = 2**63
ELSEWHERE = "other"
"""The route of what was asked for at an address that there is not."""


@dataclass
class Account:
    """One request over HTTP; nothing of its texts is in it, unless that is asked for."""

    method: str
    id: str = field(default_factory=lambda: f"req_{uuid.uuid4().hex}")
    """What the client finds in ``x-request-id``."""
    route: str = ELSEWHERE
    """As it is declared: its parameters have their names, not their values."""
    status: int | None = None
    """None: the client has hung up before there was one."""
    error: str | None = None
    """The code of what it was answered in place of an answer, also where a stream had begun."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    """Of its answers, each counted for itself; also where one was cut off."""
    first_commit: float | None = None
    """Seconds until the first token of an answer was decided; None: none was."""
    seconds: float = 0.0
    """From its head to the end of its answer."""
    prompts: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    """Texts, where they are asked for."""
    seed: int = field(default_factory=lambda: secrets.randbelow(SEEDS))
    """Of what is drawn, where the request has none: asked again, it is answered as before."""
    counted: bool = False
    """Whether the replica that it went to counts it."""
    _began: float = field(default_factory=time.perf_counter)

    @property
    def age(self) -> float:
        """Seconds since its head was there."""
        return time.perf_counter() - self._began

    def resumed(self, age: float) -> Account:
        """The same request in another process, whose clock is another one.

        Args:
            age: seconds since its head was there.
        """
        return replace(self, _began=time.perf_counter() - age)

    def take(self, found: Account) -> None:
        """Take over what another process has found out about this request."""
        self.route, self.error, self.steps = found.route, found.error, found.steps
        self.prompt_tokens = found.prompt_tokens
        self.completion_tokens = found.completion_tokens
        self.first_commit = found.first_commit
        self.prompts, self.answers = found.prompts, found.answers


def account_of(request: HTTPConnection) -> Account:
    """That of a request which is being answered."""
    found = request.state.account
    assert isinstance(found, Account)
    return found


async def refuse(error: AnswerError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error, before anything is made of a request."""
    account_of(HTTPConnection(scope)).error = error.code
    await response_to(error)(scope, receive, send)


class Accounts:
    """Around the whole application: each request has an account, a name and an answer.

    An error that nobody foresaw is answered here, and logged without what it says, which may be of
    a prompt.
    """

    def __init__(self, app: ASGIApp, tell: Callable[[Account], object]) -> None:
        """``tell`` is given each account when its request is over."""
        self._app, self._tell = app, tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Where another process has the connection, it has the account, too.
        state = scope.setdefault("state", {})
        account = state.setdefault("account", Account(scope["method"]))

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                account.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = account.id
            await send(message)

        try:
            await self._app(scope, receive, named)
        except Exception as error:
            frames = "".join(traceback.format_tb(error.__traceback__))
            _LOG.error("%s: %s\n%s", account.id, type(error).__name__, frames)
            account.error = type(error).__name__
            if account.status is not None:
                raise SkipstoneError("an answer ended in the middle") from None
            await response_to(error)(scope, receive, named)
        finally:
            account.seconds = account.age
            account.route = getattr(scope.get("route"), "path", account.route)
            self._tell(account)
