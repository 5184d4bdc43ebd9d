"""How a server is reached, and what it allows."""

from __future__ import annotations

from dataclasses import dataclass

from skipstone.checks import check_fields
from skipstone.errors import ConfigError

_MOST_PORT = 65535


@dataclass(frozen=True)
class ServerOptions:
    """Of the server, beside what the engine is set to.

    Fields: ``name`` (under which clients ask for the model), ``host`` (the loopback unless another
    one is given), ``port`` (0: any free one).
    """

    name: str = "pebble"
    host: str = "127.0.0.1"
    port: int = 8000

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
