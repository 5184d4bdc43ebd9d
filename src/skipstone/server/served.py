"""What is served: one engine, and how the server was started."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from skipstone.engine import Engine
from skipstone.server.options import ServerOptions


@dataclass(frozen=True)
class ServedModel:
    """An engine, under the name by which clients ask for it."""

    engine: Engine
    options: ServerOptions
    since: int = field(default_factory=lambda: int(time.time()))
    """When it was started, in seconds since 1970."""
