"""What goes to a replica, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Message, Scope

from skipstone.server.access.account import Account

# The rest of a scope belongs to the process that has the connection.
_SENT = (
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "headers",
    "client",
    "server",
)


@dataclass(frozen=True)
class SentRequest:
    """A request over HTTP, with all that its answer depends on."""

    scope: Mapping[str, Any]
    """Of ASGI, as far as it means anything elsewhere."""
    body: bytes
    account: Account
    age: float
    """Seconds since its head was there: clocks of two machines have nothing in common."""

    @classmethod
    def of(cls, scope: Scope, body: bytes, account: Account) -> SentRequest:
        """A request whose body was read."""
        sent = {name: scope[name] for name in _SENT if name in scope}
        return cls(sent, body, account, account.age)


Answered = str | list[Message] | Account
"""What a replica gives: first the route; then messages of ASGI, as they come; at last the account,
after which nothing follows."""
