"""Numbers as commands print them."""

from __future__ import annotations

from collections.abc import Sequence


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
