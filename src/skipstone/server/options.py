"""How a server is reached, and what it allows."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.quoting import shown

_MOST_PORT = 65535
_HOST = re.compile(r"\*|[a-z0-9_]([a-z0-9._-]*[a-z0-9_.])?", re.IGNORECASE | re.ASCII)
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s@]+", re.IGNORECASE)


@dataclass(frozen=True)
class ServerOptions:
    """Of the server, beside what the engine is set to."""

    name: str = "pebble"
    """Under which clients ask for the model."""
    host: str = "127.0.0.1"
    """The loopback, unless another one is given."""
    port: int = 8000
    """0: any free one."""
    keys: tuple[str, ...] = field(default=(), repr=False)
    """Who knows one may ask; none: everybody may."""
    max_body: int = 8_000_000
    """Bytes of a request."""
    max_waiting: int = 256
    """Answers that may wait beside those that are decoded."""
    time_limit: float = math.inf
    """Seconds in which a request must be answered."""
    drain: float = 30.0
    """Seconds that answers have when the server is stopped."""
    cors_origins: tuple[str, ...] = ()
    """Whose pages may ask from a browser; ``*``: those of all."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which clients may ask, beside addresses and ``localhost``; ``*``: any. None: any,
    unless the server is for this machine alone and needs no key."""
    log_prompts: bool = False
    """Whether texts of prompts and answers are logged."""
    traces: Path | None = None
    """Folder of traces that clients ask for; None: one that is removed at the end."""
    keep_traces: int = 100
    """Traces that are kept; the oldest give way. 0: none is recorded."""
    trace_space: int = 1_000_000_000
    """Bytes of all of them."""
    diagnosis_limit: float = 60.0
    """Seconds for the experiments of a diagnosis."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: a value is of the wrong type or out of range.
        """
        check_fields(self)
        if not self.name.strip():
            raise ConfigError("name is empty, must be what clients write as the model")
        if not 0 <= self.port <= _MOST_PORT:
            raise ConfigError(
                f"port is {self.port}, must be between 0 (any that is free) and {_MOST_PORT}"
            )
        if self.max_body < 1:
            raise ConfigError(f"max_body is {self.max_body} bytes, must be at least 1")
        if self.max_waiting < 0:
            raise ConfigError(f"max_waiting is {self.max_waiting}, must be at least 0")
        if self.keep_traces < 0:
            raise ConfigError(f"keep_traces is {self.keep_traces}, must be at least 0")
        if self.trace_space < 1:
            raise ConfigError(f"trace_space is {self.trace_space} bytes, must be at least 1")
        for name in ("time_limit", "drain", "diagnosis_limit"):
            seconds = getattr(self, name)
            if not seconds > 0:
                raise ConfigError(f"{name} is {seconds:g} s, must be more than nothing")
        for name in self.allowed_hosts:
            if not _HOST.fullmatch(name):
                raise ConfigError(
                    f"allowed_host is {shown(name)}, must be a name like example.org, without "
                    f"scheme and port, or * for all"
                )
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"cors_origin is {shown(origin)}, must be an origin like https://example.org, "
                    f"or * for all"
                )
