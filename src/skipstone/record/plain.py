"""Headers, outcomes, events and manifests as JSON, and single values of a database."""

from __future__ import annotations

import json
import typing
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar, cast

from skipstone import strict_json
from skipstone.quoting import shown
from skipstone.record.store import MAX_JSON

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
V = TypeVar("V")

_INT64 = 1 << 63


def whole(value: object) -> int:
    """A value of the database that must be a whole number. Raises ValueError if it is none."""
    return _of(int, value, "whole number")


def number(value: object) -> float:
    """A value of the database that must be a number. Raises ValueError if it is none."""
    return float(value if isinstance(value, float) else _of(int, value, "number"))


def text(value: object) -> str:
    """A value of the database that must be text. Raises ValueError if it is none."""
    return _of(str, value, "text")


def blob(value: object) -> bytes:
    """A value of the database that must be raw bytes. Raises ValueError if it is none."""
    return _of(bytes, value, "blob")


def _of(kind: type[V], value: object, name: str) -> V:
    if not isinstance(value, kind):
        raise ValueError(f"{shown(value)} is no {name}")
    return value


def to_json(value: DataclassInstance) -> str:
    """A header, outcome, event or manifest as JSON."""
    return json.dumps(asdict(value))


def json_object(found: str) -> dict[str, object]:
    """The members of a JSON object.

    Raises:
        ValueError: it is none, a name stands in it twice, or it is nested too deeply.
    """
    if len(found) > MAX_JSON:
        raise ValueError(f"has more than {MAX_JSON} characters")
    try:
        values = strict_json.parse(found)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"holds a {type(values).__name__}, must be a JSON object")
    return cast("dict[str, object]", values)


def from_json(kind: type[T], found: str) -> T:
    """What ``to_json`` wrote.

    Raises:
        ValueError: it is no JSON object, or its fields are not those of ``kind``.
    """
    hints = typing.get_type_hints(kind)
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in json_object(found).items()}
    for name, value in values.items():
        if name not in hints or not _fits(value, hints[name]):
            raise ValueError(f"{shown(name)} is no field of {kind.__name__}, or has a wrong value")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _fits(value: object, hint: object) -> bool:
    """Whether a value read from JSON has the type of its field; numbers fit into 64 bits."""
    kind = typing.get_origin(hint) or hint
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if isinstance(value, tuple):
        return kind is tuple and all(_fits(v, typing.get_args(hint)[0]) for v in value)
    if isinstance(value, dict):
        return kind is dict and all(_fits(v, typing.get_args(hint)[1]) for v in value.values())
    if isinstance(value, int):
        return kind in (int, float) and -_INT64 <= value < _INT64
    return isinstance(value, typing.cast("type", kind))
