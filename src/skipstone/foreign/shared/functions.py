"""The one torch function mode: every operation is looked at once, by all who listen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch

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


class Functions(Mode):
    """Runs every torch function as it is, then tells who listens. Changes nothing."""

    def __init__(self, guard: Guard, listeners: Sequence[Hears]) -> None:
        """Nobody is told before the mode is entered."""
        super().__init__()
        self._guard, self._listeners = guard, listeners

    def leave(self) -> None:
        """Hear nothing for a while: a model calls thousands of functions in a step."""
        self.away = take_off(self)

    def come_back(self) -> None:
        """Hear again."""
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
