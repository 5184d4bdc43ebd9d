"""How a fault is put in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest.mock import patch

Fault = Callable[[], AbstractContextManager[object]]
"""Called for each run; within it, the engine is faulty."""


def instead(owner: object, name: str, new: object) -> AbstractContextManager[object]:
    """Replace one function of the engine for a while."""
    return patch.object(owner, name, new)
