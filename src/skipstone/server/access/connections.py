"""Connections: how many there may be, and how long each may wait for its client."""

from __future__ import annotations

import asyncio
import contextlib

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE_SECONDS = 60.0
"""In which the head of a request must be there, and something be read of what waits to be sent."""
_MOST = 10_000
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n"
    b"connection: close\r\n\r\n"
)


class Connection(H11Protocol):
    """One that does not wait for ever, and is refused where there are too many.

    Of the two parsers that uvicorn has, this one bounds the length of a head.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, or refuse it at once."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > most_connections():
            transport.write(_FULL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._end.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """The next request has as long again."""
        self._end.cancel()
        self._wait()
        super().on_response_complete()

    def _wait(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._end = self.loop.call_later(PATIENCE_SECONDS, self._look)

    def _look(self) -> None:
        """End it, if its client has neither sent a request nor read anything meanwhile."""
        unsent = self.transport.get_write_buffer_size()
        answering = self.cycle is not None and not self.cycle.response_complete
        # Where something waits to be sent, nothing is added to it; so it is less if any was read.
        if unsent == self._unsent if unsent else not answering:
            self.transport.abort()
        else:
            self._wait()


def most_connections() -> int:
    """So many, that a quarter of the files which the process may open is left for all else.

    Where none is left, no connection is accepted any more, and asyncio logs that without end.
    """
    with contextlib.suppress(ImportError):  # there is none on Windows
        import resource

        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files != resource.RLIM_INFINITY:
            return min(_MOST, files * 3 // 4)
    return _MOST
