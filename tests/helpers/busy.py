"""Seconds that a busy machine does not lengthen."""

from __future__ import annotations

import os
import time
from pathlib import Path


def busy_seconds() -> float:
    """Seconds of the processor that this process and its ended children have used."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def waiting_seconds() -> float:
    """Seconds in which this thread had nothing to do; where the system does not say, all of them.

    ``/proc/thread-self/schedstat`` has nanoseconds on a processor, and in line for one.
    """
    seconds = time.monotonic()
    try:
        used, in_line = Path("/proc/thread-self/schedstat").read_text().split()[:2]
    except OSError:
        return seconds
    return seconds - (int(used) + int(in_line)) / 1e9
