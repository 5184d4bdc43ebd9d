"""Which names a server answers to: a page elsewhere must not ask by a name of its own.

A browser lets a page ask the host that it came from. Whoever owns that name may let it mean the
loopback of the page's reader afterwards (DNS rebinding), and would then ask a server that listens
there for this machine alone. A request says by which name it came; addresses are no such names.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from skipstone.quoting import shown
from skipstone.server.access.account import refuse
from skipstone.server.protocol.errors import AnswerError

_LOCAL = "localhost"


class Hosts:
    """Lets through who asks by an address, by ``localhost`` or by a name that is allowed."""

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        """``names`` are allowed beside those of the loopback; ``*``: all are."""
        self._app = app
        self._names = {name.lower().rstrip(".") for name in (_LOCAL, *names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 403."""
        if scope["type"] == "http" and "*" not in self._names:
            given = Headers(scope=scope).get("host", "")
            name = name_of(given)
            # Browsers always say one.
            if name and not (name in self._names or is_address(name)):
                said = (
                    f"the host {shown(name)} is not one of this server; ask for an address or "
                    f"localhost, or start the server with --allowed-host {shown(name)}"
                )
                error = AnswerError(403, said, code="host_not_allowed")
                await refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)


def name_of(host: str) -> str:
    """The name or address in a ``Host`` header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().rstrip(".")


def is_address(name: str) -> bool:
    """Whether it is an address as it stands, which no name server has a say in."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_local(name: str) -> bool:
    """Whether a server that listens there is for this machine alone."""
    return name.lower() == _LOCAL or (is_address(name) and ip_address(name).is_loopback)
