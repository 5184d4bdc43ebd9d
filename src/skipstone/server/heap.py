"""Memory that nothing uses any more, given back to the machine while a server runs.

What is freed lies in pieces between what is in use, and the C library keeps it: a server whose
requests differ in length holds half as much again after some minutes as it needs. glibc gives whole
pages back when it is asked, which takes 1 to 30 ms (man 3 malloc_trim); other C libraries have no
such call, and nothing is done there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from threading import Event, Thread

EVERY = 10.0
"""Seconds between two times."""


def give_back_regularly(every: float = EVERY) -> Callable[[], None]:
    """Begin to give memory back, from a thread of its own, until the process ends.

    Args:
        every: seconds between two times.

    Returns:
        What ends it before.
    """
    trim, stopped = _malloc_trim(), Event()

    def go_on() -> None:
        while trim is not None and not stopped.wait(every):
            trim(0)

    Thread(target=go_on, name="skipstone-heap", daemon=True).start()
    return stopped.set


def _malloc_trim() -> Callable[[int], int] | None:
    """That of this process's C library, which leaves other threads alone, or None."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
