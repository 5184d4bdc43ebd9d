"""The one torch function mode: every operation is looked at once, by all who listen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MethodWrapperType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from skipstone.foreign.shared.compiled import Mode, push, take_off
from skipstone.foreign.shared.guard import Guard
from skipstone.foreign.shared.source import source_line


class Operation(NamedTuple):
    """A torch function that has just run."""

    func: Callable[..., object]
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    out: object


class Hears(Protocol):
    """Hears of every operation of the code that is watched."""

    def heard(self, operation: Operation) -> None:
        """An operation is done."""
        ...


# Attributes of tensors: what they give is news only if it is a tensor.
_GETTER = MethodWrapperType


class Functions(Mode):
    """Runs every torch function as it is, then tells who listens. Changes nothing."""

    def __init__(
        self, guard: Guard, listeners: Sequence[Hears], within: Sequence[Hears] = ()
    ) -> None:
        """No listener is called before the mode is entered.

        Args:
            guard: gets what goes wrong in a listener.
            listeners: get what is done between the calls of a model.
            within: get what a model does in its calls; without any, the mode is off then.
        """
        super().__init__()
        self._guard, self._within = guard, within
        self._between = self._listeners = listeners

    def call_begins(self) -> None:
        """A model calls thousands of functions in a step: only ``within`` listens to them."""
        self._listeners = self._within
        if not self._within:
            self.away = take_off(self)

    def call_is_over(self) -> None:
        """All listeners are called again."""
        self._listeners = self._between
        if self.away:
            push([self])
        self.away = False

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Do what was asked, then look at it. Dynamo runs this as it is and never traces it."""
        named = kwargs or {}
        out = func(*args, **named)
        if type(func) is _GETTER and not isinstance(out, Tensor):
            return out
        operation = Operation(func, args, named, out)
        # Not by ``within``: this runs for every operation, and entering costs more than listening.
        with torch._C.DisableTorchFunction():
            try:
                for listener in self._listeners:
                    listener.heard(operation)
            except Exception as error:
                self._guard.failed(f"looking at {_name(func)}", error, source_line)
        return out


def _name(func: Callable[..., object]) -> str:
    return getattr(func, "__name__", "a function")
