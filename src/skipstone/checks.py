"""Checks of settings objects against their own annotations.

Settings come from Python too, where nothing stops ``gen_length="8"``. A wrong type is refused where
it enters, with the value and the rule, and does not surface later as an error about something else.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import TYPE_CHECKING, Literal

from skipstone.errors import ConfigError, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_RULES = {
    bool: "true or false (a bool)",
    int: "a whole number (an int)",
    float: "a number",
    str: "text",
}


def check_fields(settings: DataclassInstance) -> None:
    """Check each bool, int, float, str or Literal field of a dataclass.

    Fields of other types are left to their owners.

    Raises:
        ConfigError: a value is not of its field's type.
    """
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        check_value(field.name, getattr(settings, field.name), hints[field.name])


def check_value(name: str, value: object, hint: object) -> None:
    """Check one value against its annotation.

    Raises:
        ConfigError: it does not fit.
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return
    for option in options:
        if typing.get_origin(option) is Literal:
            allowed = typing.get_args(option)
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; {nearest(str(value), allowed)}")
        elif isinstance(option, type) and option in _RULES and not _fits(value, option):
            raise ConfigError(f"{name} is {value!r}, must be {_RULES[option]}")


def _fits(value: object, kind: type) -> bool:
    """Whether a value is of a kind; a bool is no number, and a whole number is a number."""
    if kind is bool:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)
