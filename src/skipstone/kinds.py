"""Arguments that are something else altogether are refused where they enter."""

from __future__ import annotations

from skipstone.errors import ConfigError
from skipstone.quoting import shown


def of_kind(
    name: str, value: object, kind: type | tuple[type, ...], rule: str, *, optional: bool = False
) -> None:
    """Refuse an argument that is something else altogether.

    Args:
        name: of the argument.
        value: what was given.
        kind: what it has to be an instance of.
        rule: the same in words, as ``must be`` goes on.
        optional: whether None stands for nothing.

    Raises:
        ConfigError: it is no such thing.
    """
    if not isinstance(value, kind) and not (optional and value is None):
        raise ConfigError(f"{name} is {shown(value)}, must be {rule}")
