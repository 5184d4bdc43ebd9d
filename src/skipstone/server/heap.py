"""Memory that nothing uses any more, given back to the machine while a server runs.

What is freed lies in pieces between what is in use, and the C library keeps it: a server whose
requests differ in length holds half as much again after some minutes as it needs. glibc gives whole
pages back when it is asked, which takes 1 to 30 ms (man 3 malloc_trim), but for the end of what
each thread allocates from; so all shall share one arena (man 3 mallopt). Other C libraries have no
such calls, and nothing is done there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from threading import Event, Thread

EVERY = 10.0
"""Seconds between two times."""
_ARENA_MAX = -8
"""Of malloc.h."""


def share_one_arena() -> None:
    """Let threads that begin after this allocate from where the first one does."""
    if (mallopt := _of_libc("mallopt")) is not None:
        mallopt(_ARENA_MAX, 1)


def give_back_regularly(every: float = EVERY) -> Callable[[], None]:
    """Begin to give memory back, from a thread of its own, until the process ends.

    Args:
        every: seconds between two times.

    Returns:
        What ends it before.
    """
    trim, stopped = _of_libc("malloc_trim"), Event()

    def go_on() -> None:
        while trim is not None and not stopped.wait(every):
            trim(0)

    Thread(target=go_on, name="skipstone-heap", daemon=True).start()
    return stopped.set


def _of_libc(name: str) -> Callable[..., int] | None:
    """A function of glibc, which leaves other threads alone while it runs, or None."""
    try:
        libc = ctypes.CDLL(None)
        return getattr(libc, name) if hasattr(libc, "gnu_get_libc_version") else None
    except (AttributeError, OSError, TypeError):
        return None
