"""Tables and labelled lines that fit any width: they fold, and never cut a number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text as Styled

from skipstone.cli.escape import printable
from skipstone.cli.terminal import STYLES, say, say_rich, width
from skipstone.digits import told_apart

_GAP = 2
_LABEL = 12
_INDENT = "   "
# A word of letters may be folded into a column of this width; what holds a digit may not.
_LEAST_TEXT = 12
# A number close to 1 is one piece, like ``1 - 3.1e-7``.
_PIECE = r"\b1 [-+] [\d.e-]+|[^\s,;=/:]*[,;=/:]+|[^\s,;=/:]+"


def say_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    keys: int = 1,
    alike: Sequence[str] = (),
) -> None:
    """Print a plain table; numbers to the right, text to the left, nothing taken as markup.

    Args:
        columns: their names.
        rows: their cells.
        keys: how many of the first columns say which row it is. Where a terminal is too narrow for
            all columns, the table goes on below with these repeated.
        alike: columns whose numbers are held against each other. What differs there, or within
            another column, does not look the same.
    """
    whole = [list(row) for row in rows]
    texts = [any(isinstance(row[i], str) for row in whole) for i in range(len(columns))]
    cells = _cells(whole, [-1 if name in alike else i for i, name in enumerate(columns)])
    room = width()
    least = [
        min(room, max(_least(name), *(_least(row[i]) for row in cells), 1))
        for i, name in enumerate(columns)
    ]
    for number, part in enumerate(_parts(least, keys, room)):
        if number:
            say()
        _say_part([columns[i] for i in part], [[r[i] for i in part] for r in cells], texts, part)


def say_labelled(label: str, text: str, style: str = "") -> None:
    """A label, and text that folds beside it."""
    table = Table.grid(padding=(0, 0))
    table.add_column(width=_LABEL, no_wrap=True)
    table.add_column(overflow="fold")
    value = foldable(printable(text), max(1, width() - _LABEL))
    table.add_row(Styled(f"{printable(label):{_LABEL}}", STYLES["label"]), Styled(value, style))
    say_rich(table)


def say_indented(text: str) -> None:
    """Text under the line before it, folded where it is wider than the terminal."""
    room = max(1, width() - len(_INDENT))
    for line in foldable(printable(text), room).split("\n"):
        say(f"{_INDENT}{line}")


def _say_part(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    texts: Sequence[bool],
    part: Sequence[int],
) -> None:
    widths = _widths(columns, rows)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style=STYLES["head"])
    for i, name, columns_width in zip(part, columns, widths, strict=True):
        side = "left" if texts[i] else "right"
        table.add_column(Styled(name), justify=side, width=columns_width, overflow="fold")
    for row in rows:
        folded = (foldable(cell, size) for cell, size in zip(row, widths, strict=True))
        table.add_row(*map(Styled, folded))
    say_rich(table)


def _parts(least: Sequence[int], keys: int, room: int) -> list[list[int]]:
    """The columns of each part of a table; every part has the key columns and at least one more."""
    key = list(range(min(keys, len(least))))
    parts, part = list[list[int]](), list(key)
    for i in range(len(key), len(least)):
        needed = sum(least[j] for j in (*part, i)) + _GAP * len(part)
        if needed > room and len(part) > len(key):
            parts.append(part)
            part = list(key)
        part = [*part, i]
    return [*parts, part]


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each column: what it needs in one line, or less where there is no room for that."""
    ideal = [max(map(cell_len, column)) for column in zip(columns, *rows, strict=True)]
    least = [max(map(_least, column)) for column in zip(columns, *rows, strict=True)]
    room = width() - _GAP * (len(columns) - 1)
    widths = [min(a, b) for a, b in zip(ideal, least, strict=True)]
    for i in sorted(range(len(columns)), key=lambda i: ideal[i] - widths[i]):
        others = sum(widths) - widths[i]
        widths[i] = max(1, min(ideal[i], max(widths[i], room - others)))
    return widths


def _least(text: str) -> int:
    """The narrowest column for a text: that of its longest piece which may not be cut."""
    pieces = _pieces(text)
    return max(
        (cell_len(p) if _has_digit(p) else min(cell_len(p), _LEAST_TEXT) for p in pieces), default=0
    )


def _has_digit(text: str) -> bool:
    return any(c.isdigit() for c in text)


def _pieces(text: str) -> list[str]:
    """Where a line may be broken: at blanks, and after the separators of settings and paths."""
    return re.findall(_PIECE, text)


def foldable(text: str, size: int) -> str:
    """Text with line breaks in words that do not fit, where they can be broken best."""
    if cell_len(text) <= size:
        return text
    return "\n".join(_lines(text, size))


def _lines(text: str, size: int) -> list[str]:
    lines, line = list[str](), ""
    for piece in re.findall(rf"{_PIECE}|\s+", text):
        if cell_len(line) + cell_len(piece.rstrip()) <= size:
            line += piece
            continue
        if line.strip():
            lines.append(line.rstrip())
        line = piece.lstrip()
        while cell_len(line) > size:
            head = _head(line, size)
            lines.append(head)
            line = line[len(head) :]
    return [*lines, line.rstrip()] if line.strip() else lines


def _head(text: str, size: int) -> str:
    """As many characters as fit, at least one."""
    used = 0
    for count, character in enumerate(text):
        used += cell_len(character)
        if used > size and count:
            return text[:count]
    return text


def _cells(rows: Sequence[Sequence[object]], group: Sequence[int]) -> list[list[str]]:
    """Texts of all cells; numbers have as many digits as distinguish them within their column."""
    numbers = dict[int, list[float]]()
    for row in rows:
        for of, value in zip(group, row, strict=True):
            if isinstance(value, float):
                numbers.setdefault(of, []).append(value)
    texts = {
        of: dict(zip(found, told_apart(found, 7), strict=True)) for of, found in numbers.items()
    }
    return [
        [
            texts[of][value] if isinstance(value, float) else _cell(value)
            for of, value in zip(group, row, strict=True)
        ]
        for row in rows
    ]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else ""
    return printable(str(value))
