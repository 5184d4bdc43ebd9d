"""What is served: one engine, and how the server was started."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from skipstone.engine import Engine, Handle
from skipstone.server.options import ServerOptions
from skipstone.server.traces.kept import KeptTraces


@dataclass
class OpenHandles:
    """Of requests that somebody waits for."""

    handles: set[Handle] = field(default_factory=set[Handle])
    stopped: bool = False
    """Whether no more are taken."""

    def stop(self) -> None:
        """End them: each answer is what is final of it."""
        self.stopped = True
        for handle in tuple(self.handles):
            handle.cancel()


@dataclass(frozen=True)
class ServedModel:
    """An engine, under the name by which clients ask for it."""

    engine: Engine
    options: ServerOptions
    traces: KeptTraces
    open: OpenHandles = field(default_factory=OpenHandles)
    since: int = field(default_factory=lambda: int(time.time()))
    """When it was started, in seconds since 1970."""


@dataclass(frozen=True)
class DrainPlan:
    """How a server ends."""

    drain: float
    """Seconds that answers have when it is stopped."""
    stop: Callable[[], object]
    """Ends those that are left then."""
