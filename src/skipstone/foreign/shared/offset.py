"""Which row scores a position, as a user states it."""

from __future__ import annotations

from skipstone.checks import checked
from skipstone.errors import ConfigError


def check_offset(given: int | None) -> int | None:
    """What was stated; None where it is to be found.

    Raises:
        ConfigError: it is none of 0, -1 and None.
    """
    if checked("score_offset", given, int | None) not in (None, 0, -1):
        raise ConfigError(
            f"score_offset is {given}, must be 0, or -1 where a row scores the position after it"
        )
    return given
