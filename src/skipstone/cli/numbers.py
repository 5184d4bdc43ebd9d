"""Numbers as commands read and print them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from skipstone.checks import number, whole_number
from skipstone.errors import ConfigError
from skipstone.quoting import shown

N = TypeVar("N", int, float)

_THOUSANDS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_BYTES = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kmg]?)b?\s*", re.IGNORECASE | re.ASCII)


def whole(text: str | int) -> int:
    """The type of an option that takes a whole number; like all numbers, in ASCII digits."""
    return text if isinstance(text, int) else _read(text, whole_number)


def decimal(text: str | float) -> float:
    """The type of an option that takes a number."""
    return text if isinstance(text, float) else _read(text, number)


def bytes_of(option: str, text: str) -> int:
    """Parse ``4MB``, ``500 kB`` or ``4096``.

    Raises:
        ConfigError: it is no number of bytes, or none.
    """
    found = _BYTES.fullmatch(text)
    count = int(float(found[1]) * _THOUSANDS[found[2].lower()]) if found else 0
    if count < 1:
        raise ConfigError(f"{option} is {shown(text)}, must be a number of bytes like 500kB or 4MB")
    return count


def check_some(option: str, count: int | None) -> None:
    """Refuse a count that is given and none.

    Raises:
        ConfigError: it is below 1.
    """
    if count is not None and count < 1:
        raise ConfigError(f"{option} is {count}, must be at least 1")


def _read(text: str | int, rule: Callable[[str], N]) -> N:
    try:
        return rule(str(text))
    except ValueError as error:
        raise click.BadParameter(f"{shown(text)} {error}.") from None


def spans(positions: Sequence[int]) -> str:
    """Ascending positions as ``3-17, 20``; ``none`` if there are none."""
    ends = list[list[int]]()
    for position in positions:
        if ends and position == ends[-1][1] + 1:
            ends[-1][1] = position
        else:
            ends.append([position, position])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ends) or "none"


def size(count: int) -> str:
    """A number of bytes, like ``1.5 MB``."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = next((i for i in range(4) if count < 1000 ** (i + 1)), 4)
    return f"{count / 1000**power:.3g} {units[power]}"
