"""Checks of settings objects against their own annotations.

Settings come from Python too, where nothing stops ``gen_length="8"``. A wrong type is refused where
it enters, with the value and the rule, and does not surface later as an error about something else.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeVar

from skipstone.errors import ConfigError, nearest
from skipstone.quoting import shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

N = TypeVar("N")

_RULES = {
    bool: "true or false (a bool)",
    int: "a whole number (an int)",
    float: "a number",
    str: "text",
}


def check_fields(settings: DataclassInstance) -> None:
    """Check each bool, int, float, str or Literal field of a frozen dataclass. Changes the fields.

    Scalars of NumPy and PyTorch, and whole numbers where any number will do, become plain values.
    Fields of other types are left to their owners.

    Raises:
        ConfigError: a value is not of its field's type.
    """
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = checked(field.name, getattr(settings, field.name), hints[field.name])
        object.__setattr__(settings, field.name, value)


def checked(name: str, value: object, hint: object) -> object:
    """One value as its annotation wants it.

    Raises:
        ConfigError: it does not fit.
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    value = _plain(value)
    if value is None and type(None) in options:
        return None
    for option in options:
        if typing.get_origin(option) is Literal:
            allowed = typing.get_args(option)
            # By type too: some values compare in ways of their own.
            if not isinstance(value, str | int) or value not in allowed:
                raise ConfigError(f"{name} is {shown(value)}; {nearest(str(value), allowed)}")
        elif isinstance(option, type) and option in _RULES:
            return _fitted(name, value, option)
    return value


def whole_number(text: str) -> int:
    """A whole number in ASCII digits; Python would take those of any script.

    Raises:
        ValueError: it is none; the message is the rule.
    """
    return _in_ascii(text, int, "integer")


def number(text: str) -> float:
    """A number in ASCII digits.

    Raises:
        ValueError: it is none; the message is the rule.
    """
    return _in_ascii(text, float, "float")


def _in_ascii(text: str, read: Callable[[str], N], kind: str) -> N:
    if not text.isascii():
        raise ValueError(f"is not a valid {kind}: write it in the digits 0 to 9")
    try:
        return read(text)
    except ValueError:
        raise ValueError(f"is not a valid {kind}") from None


def _plain(value: object) -> object:
    """A scalar of NumPy or PyTorch as the Python value that it stands for."""
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def _fitted(name: str, value: object, kind: type) -> object:
    """A value of a kind; a bool is no number, and a whole number is a number."""
    exact = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if exact:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    raise ConfigError(f"{name} is {shown(value)}, must be {_RULES[kind]}")
