"""What a damaged or hostile trace can raise, as one line that says what cannot be read."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from skipstone.errors import TraceError
from skipstone.quoting import one_line

DAMAGE = (
    sqlite3.Error,
    SafetensorError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
)
"""What the libraries and our own checks raise."""


@contextmanager
def reading(folder: Path, what: str) -> Generator[None, None, None]:
    """Turn whatever is raised into one line.

    Raises:
        TraceError: something was.
    """
    try:
        yield
    except DAMAGE as error:
        raise damaged(folder, what, error) from error


def damaged(folder: Path, what: str, error: BaseException) -> TraceError:
    """The error of a trace in which something cannot be read."""
    return TraceError(
        f"the trace {str(folder)!r} is damaged: {what} cannot be read ({reason(error)}); copy it "
        f"again"
    )


def reason(error: BaseException) -> str:
    """What an error says, on one line of bounded length."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)
