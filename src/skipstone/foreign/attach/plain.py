"""Plain values within what a loop was given: fields of objects, dictionaries, configurations.

Loops hand their settings on in objects. What is read of them is bounded in depth and in number, and
never computed: properties and calls may do anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from itertools import islice
from types import FunctionType, MethodType, ModuleType

from torch import Tensor, nn

from skipstone.foreign.shared.calls import as_text

# Objects within objects; a configuration may have a group of values of its own.
_DEEP = 3
# Of all that is reached from one argument.
_MOST_VALUES, _MOST_OBJECTS = 256, 64
_LONGEST = 200
# Code and tensors are compared otherwise, or not at all.
_SECRET = re.compile(r"password|secret|credential|api_?key|(auth|hf|access|bearer)_?token", re.I)
_NEVER = (Tensor, nn.Module, ModuleType, FunctionType, MethodType, type)


def plain_fields(name: str, value: object) -> dict[str, str]:
    """Every plain value within an object, by names such as ``config.rope_scaling.factor``.

    Args:
        name: of the object.
        value: a mapping, a partial function, or whatever has attributes.
    """
    return dict(islice(_fields(name, value, _DEEP, [value]), _MOST_VALUES))


def plain_text(value: object) -> str | None:
    """A number, a text, a flag, nothing, or a few of those, as text; None if it is no such thing.

    Members of an enumeration and dtypes are known by their names.
    """
    if isinstance(value, Enum) or type(value).__name__ == "dtype":
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        listed = type(value) in (list, tuple) and len(value) < _LONGEST
        plain = listed and all(v is None or isinstance(v, bool | int | float | str) for v in value)
        text = str(value) if plain else ""
    elif value is None or isinstance(value, bool | int | float | str):
        text = as_text(value)
    else:
        return None
    return text if 0 < len(text) < _LONGEST or value == "" else None


def _fields(name: str, value: object, depth: int, met: list[object]) -> Iterator[tuple[str, str]]:
    """Depth first; ``met`` are the objects on the way, which may lead back to each other."""
    for field, inner in _own(value):
        whole = f"{name}.{field}"
        text = plain_text(inner)
        if text is not None:
            yield whole, text
        elif depth > 1 and len(met) < _MOST_OBJECTS and not any(inner is one for one in met):
            met.append(inner)
            yield from _fields(whole, inner, depth - 1, met)


def _own(value: object) -> Iterator[tuple[str, object]]:
    """What an object holds, but for what a class keeps for itself alone."""
    if isinstance(value, _NEVER):
        return
    if isinstance(value, partial):
        items: list[tuple[object, object]] = list(value.keywords.items())
    elif isinstance(value, Mapping):
        items = []
        # Somebody else's mapping; a run never ends because of what is read beside it.
        with suppress(Exception):
            items += value.items()
    else:
        items = [*_slots(value).items(), *getattr(value, "__dict__", {}).items()]
    for field, inner in items:
        if not isinstance(field, str) or "__" in field or _SECRET.search(field):
            continue
        # An object of no public name is how another one works.
        if not field.startswith("_") or plain_text(inner) is not None:
            yield field, inner


def _slots(value: object) -> dict[str, object]:
    """Attributes of a class that names them."""
    names = getattr(type(value), "__slots__", ())
    names = (names,) if isinstance(names, str) else tuple(names)
    found = dict[str, object]()
    for name in names:
        # Only those of slots: what a class computes is not asked.
        if type(getattr(type(value), name, None)).__name__ == "member_descriptor":
            with suppress(AttributeError):
                found[name] = getattr(value, name)
    return found
