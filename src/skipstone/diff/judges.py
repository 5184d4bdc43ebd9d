"""When an answer counts as right: rules by name, or a function of the user's own."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import cast

from skipstone.errors import ConfigError, nearest
from skipstone.quoting import one_line, shown

Judge = Callable[[str, str], bool]
"""Takes the text that was generated and the known answer; says whether the text is right."""

# Digits, maybe in groups of three, maybe with a fraction.
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def contains(text: str, answer: str) -> bool:
    """Whether a text holds the known answer as whole words; case and spaces do not matter."""
    wanted, found = (_plain(s).casefold() for s in (answer, text))
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", found) is not None


def exact(text: str, answer: str) -> bool:
    """Whether a text is the known answer and nothing else; spaces do not matter."""
    return _plain(text) == _plain(answer)


def number(text: str, answer: str) -> bool:
    """Whether the last number in a text equals the known one: 1,000 is 1000 and 2.50 is 2.5."""
    found = _NUMBER.findall(text)
    return bool(found) and Decimal(found[-1].replace(",", "")) == _decimal(answer)


def one_of(text: str, answers: str) -> bool:
    """Whether a text is one of several right answers, which stand on lines of their own."""
    return any(exact(text, answer) for answer in answers.splitlines() if answer.strip())


def reordered(text: str, given: str) -> bool:
    """Whether a text has the items of a list, parted by commas, in any other order."""
    found, items = (_items(s) for s in (text, given))
    return sorted(found) == sorted(items) and found != items


JUDGES: dict[str, Judge] = {
    "contains": contains,
    "exact": exact,
    "number": number,
    "any": one_of,
    "reordered": reordered,
}


def find_judge(name: str) -> Judge:
    """A rule by its name, or a function by its import path, ``package.module:function``.

    The function is called as ``function(text, answer)`` and returns whether the text is right.

    Raises:
        ConfigError: there is none of this name, or it cannot be imported or called.
    """
    if name in JUDGES:
        return JUDGES[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        known = f"{nearest(name, JUDGES)}, or give a function as package.module:function"
        raise ConfigError(f"judge {shown(name)} is unknown; {known}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"judge {shown(name)} cannot be imported ({one_line(error)}); check the path, and that "
            f"its folder is in PYTHONPATH"
        ) from None
    if not callable(found):
        raise ConfigError(f"judge {shown(name)} is no function; it must take a text and an answer")
    return cast("Judge", found)


def check_answer(name: str, answer: str) -> str | None:
    """Why a judge cannot use a known answer; None if it can."""
    if name == "number" and _decimal(answer) is None:
        return f"answer {shown(answer)} is no number, as judge 'number' needs"
    if name == "reordered" and len(set(_items(answer))) < 2:
        return (
            f"answer {shown(answer)} has no other order; judge 'reordered' needs items with commas"
        )
    return None


def _plain(text: str) -> str:
    return " ".join(text.split())


def _items(text: str) -> list[str]:
    return [_plain(item) for item in _plain(text).removesuffix(".").split(",")]


def _decimal(text: str) -> Decimal | None:
    try:
        value = Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
