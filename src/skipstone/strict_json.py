"""JSON that others wrote, where no key may stand twice: readers differ in which one they take."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

from skipstone.quoting import shown


class DuplicateKeyError(ValueError):
    """A JSON object has a key twice."""


def parse(text: str, constant: Callable[[str], object] | None = None) -> object:
    """The value of a JSON text.

    Args:
        text: the whole of it.
        constant: what is made of NaN and Infinity, which JSON does not know; floats if None.

    Raises:
        ValueError: it is no JSON, or has a number too long to convert.
        DuplicateKeyError: an object has a key twice.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_members, parse_constant=constant)


def check_characters(text: str, value: object) -> None:
    r"""Refuse half a character (a lone surrogate), which no tokenizer and no file takes.

    Args:
        text: that was decoded from UTF-8, so that only an escape such as ``\ud800`` can name one.
        value: what was parsed from it.

    Raises:
        UnicodeEncodeError: there is one.
    """
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode()


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise DuplicateKeyError(f"the key {shown(twice)} is given twice")
    return members
