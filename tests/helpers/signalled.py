"""A command that sends itself a signal at a place, and so never too early or too late.

    python -m tests.helpers.signalled SIGINT torch generate Hi

The place is a module that it comes to for the first time, or a method: ``module:class.method``.
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any


def command(number: signal.Signals, place: str, *arguments: str) -> list[str]:
    """The command line."""
    module = "tests.helpers.signalled"
    return [sys.executable, "-m", module, number.name, place, *arguments]


class _Imports:
    """Looks for no module, and sees which ones are looked for."""

    def __init__(self, name: str, come: Callable[[], None]) -> None:
        self._name, self._come = name, come

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self._name:
            self._come()


def _patch(place: str, come: Callable[[], None]) -> None:
    """Call something before each call of a method."""
    module, _, method = place.partition(":")
    owner, name = method.split(".")
    held = getattr(importlib.import_module(module), owner)
    call = getattr(held, name)

    @wraps(call)
    def noted(*given: Any, **named: Any) -> Any:
        come()
        return call(*given, **named)

    setattr(held, name, noted)


def main() -> None:
    """Run the command whose words follow the signal and the place."""
    number, place = signal.Signals[sys.argv.pop(1)], sys.argv.pop(1)

    def come() -> None:
        os.kill(os.getpid(), number)

    if ":" in place:
        _patch(place, come)
    else:
        sys.meta_path.insert(0, _Imports(place, come))  # type: ignore[arg-type]
    runpy.run_module("skipstone", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
