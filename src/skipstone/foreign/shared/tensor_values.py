"""Values that go along with tensors of other people, for as long as these live.

They hang on weak references to the tensor itself: nobody owns a table of them, so a recorder finds
what another one has put there, and a tensor that is saved or copied has nothing of ours on it.
"""

from __future__ import annotations

import weakref
from typing import TypeVar

from torch import Tensor

V = TypeVar("V")


class _ValueRef(weakref.ref[Tensor]):
    """A weak reference that carries a value."""

    value: object = None


def set_value(tensor: Tensor, value: object) -> None:
    """Have a value go along with a tensor, in place of one of its type."""
    for held in weakref.getweakrefs(tensor):
        if isinstance(held, _ValueRef) and type(held.value) is type(value):
            held.value = value
            return
    reference = _ValueRef(tensor)
    reference.value = value
    # Somebody has to hold the reference until the tensor goes.
    weakref.finalize(tensor, _let_go, reference)


def value_of(tensor: Tensor, kind: type[V]) -> V | None:
    """The value of a type that goes along with a tensor; None if there is none."""
    for held in weakref.getweakrefs(tensor):
        if isinstance(held, _ValueRef) and isinstance(held.value, kind):
            return held.value
    return None


def _let_go(held: object) -> None:
    """The tensor is gone, and with it what held the reference."""
