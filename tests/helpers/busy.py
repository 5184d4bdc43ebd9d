"""Seconds that a busy machine does not lengthen."""

from __future__ import annotations

import os


def busy_seconds() -> float:
    """Seconds of the processor that this process and its ended children have used."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
