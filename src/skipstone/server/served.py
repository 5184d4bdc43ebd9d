"""What is served: one engine, and how the server was started."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from skipstone.engine import Engine, EngineLoad, Handle
from skipstone.server.options import ServerOptions
from skipstone.server.traces.kept import KeptTraces

_RECENT = 32


@dataclass(frozen=True)
class RecentAnswers:
    """How long the last answers took in their slots, from which it is guessed how long others will.

    Lengths and settings of those that wait may be other ones: it says when to ask again, no more.
    """

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    """Of each, without what it waited for its slot."""

    def seconds_of(self, load: EngineLoad) -> int:
        """Until those that wait are in slots: whole seconds, at least one."""
        if not self.seconds:
            return 1
        each = math.fsum(self.seconds) / len(self.seconds)
        return max(1, math.ceil(load.waiting * each / load.slots))


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
    recent: RecentAnswers = field(default_factory=RecentAnswers)
    since: int = field(default_factory=lambda: int(time.time()))
    """When it was started, in seconds since 1970."""


@dataclass(frozen=True)
class DrainPlan:
    """How a server ends."""

    drain: float
    """Seconds that answers have when it is stopped."""
    stop: Callable[[], object]
    """Ends those that are left then."""
