"""Tables, numbers and JSON as the commands that show traces print them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text as Styled

from skipstone.cli.escape import printable


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a plain table; numbers to the right, text to the left, nothing taken as markup."""
    cells = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="")
    for column, name in enumerate(columns):
        texts = any(isinstance(row[column], str) for row in cells)
        table.add_column(Styled(name), justify="left" if texts else "right", no_wrap=True)
    for row in cells:
        table.add_row(*(Styled(_cell(value)) for value in row))
    Console(width=120, highlight=False, color_system=None).print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.7g}" if isinstance(value, float) else printable(str(value))


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


def strict_json(value: object) -> str:
    """JSON in plain ASCII; a number that is not finite, which JSON does not know, is null."""
    return json.dumps(_finite(value))


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
