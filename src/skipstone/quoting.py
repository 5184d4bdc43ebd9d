"""How values, texts and other libraries' errors stand in a message: on one line, not all of it.

Each is cut here where it enters; a message as a whole has a limit, too, which ``SkipstoneError``
keeps. What steers a terminal is escaped where it is printed.
"""

from __future__ import annotations

import re
from reprlib import Repr

LONGEST_MESSAGE = 480
_LONGEST_VALUE = 120

_REPR = Repr()
_REPR.maxstring = _REPR.maxother = _LONGEST_VALUE


def shown(value: object) -> str:
    """A value as Python writes it, on one line; a long one is cut before it is written out."""
    try:
        return cut(" ".join(_REPR.repr(value).split()))
    # A whole number of more digits than Python prints.
    except ValueError:
        return "a very large number"


def cut(text: str, most: int = _LONGEST_VALUE) -> str:
    """Not all of a text if it is long."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def one_line(error: BaseException, most: int = 200) -> str:
    """What another library's error says, on one line, for the parentheses of our own."""
    return cut(" ".join(str(error)[: 4 * most].split()), most) or type(error).__name__


def in_words(error: Exception) -> str:
    """An error in words: other people's messages tell little without its type."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def within(message: str, longest: int = LONGEST_MESSAGE) -> str:
    """A message of at most ``longest`` characters: long values lose their middle.

    What it says before a value, and the remedy after it, stay whole.
    """
    if len(message) <= longest:
        return message
    for pattern in (r"\S+", r"'[^']*'|\"[^\"]*\""):
        message = re.sub(pattern, lambda found: _ends(found[0], _LONGEST_VALUE), message)
    return _ends(message, longest)


def whole_characters(text: str) -> str:
    r"""Text that any file takes: half a character (a lone surrogate) as an escape like ``\udcff``.

    A shell makes them of bytes that are no UTF-8, and JSON can name them.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _ends(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    left = f"...({len(text)} characters)..."
    kept = longest - len(left)
    return text[: kept - kept // 2] + left + text[len(text) - kept // 2 :]
