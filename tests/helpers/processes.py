"""Processes of other programs, any of which may end while it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import psutil

T = TypeVar("T")


def descendants(pid: int, title: str) -> list[psutil.Process]:
    """The processes below one, whose command line has a word in it."""
    found = psutil.Process(pid).children(recursive=True)
    return [one for one in found if title in "".join(told(one, psutil.Process.cmdline))]


def told(process: psutil.Process, ask: Callable[[psutil.Process], list[T]]) -> list[T]:
    """What a process says of itself; nothing if it has ended."""
    with suppress(psutil.NoSuchProcess):  # those that nobody has waited for are of this kind, too
        return ask(process)
    return []
