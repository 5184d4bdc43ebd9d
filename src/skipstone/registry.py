"""What other packages register as policies: entry points, and the classes that they name."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
from importlib.metadata import EntryPoint, entry_points

from skipstone.quoting import in_words

GROUP = "skipstone.policies"
"""The entry points; each is called ``kind.name``."""


def registered() -> tuple[EntryPoint, ...]:
    """What other packages register; looked for again when a folder that has packages changed."""
    return _registered(tuple(_state_of(folder) for folder in sys.path))


@functools.lru_cache(maxsize=1)
def _registered(folders: tuple[tuple[int, int, int] | None, ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _state_of(folder: str) -> tuple[int, int, int] | None:
    """Which folder it is, and when something was last put into it; None if it is not there."""
    with contextlib.suppress(OSError, ValueError):
        found = os.stat(folder or ".")
        return found.st_dev, found.st_ino, found.st_mtime_ns
    return None


def loaded_class(entry: EntryPoint) -> type | str:
    """The class that an entry point names, or why it cannot be had."""
    try:
        loaded = entry.load()
    except Exception as error:
        return f"cannot be imported ({in_words(error)}); mend its package, or uninstall it"
    if not (isinstance(loaded, type) and dataclasses.is_dataclass(loaded)):
        return "is no dataclass, as policies must be"
    return loaded
