"""Standard streams that fail well: a full disk is an error, a reader that has left is none."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from skipstone.errors import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDOUT, _STDERR = 1, 2


class ReaderGoneError(Exception):
    """Nobody reads stdout any more, as after ``| head``."""


class StdoutError(OutputError):
    """Stdout takes nothing: the disk is full, or it is closed."""


class _Stdout(io.FileIO):
    """Turns what the system says into errors of our own, wherever a buffer is flushed."""

    def write(self, data: ReadableBuffer, /) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise ReaderGoneError from None
            raise StdoutError(
                f"standard output cannot be written ({error.strerror}); check the disk, or where "
                f"it goes"
            ) from None


class _Stderr(io.FileIO):
    """Drops what cannot be written: there is nowhere left to say so."""

    def write(self, data: ReadableBuffer, /) -> int | None:
        with suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes


def guard_streams() -> None:
    """Put guarded streams in place of stdout and stderr.

    Characters that their encoding lacks are written as escapes. Where a stream was closed, nothing
    that is opened later can take its number, and be written to by mistake.
    """
    for number in (0, _STDOUT, _STDERR):
        try:
            os.fstat(number)
        except OSError:
            # Not for writing: it fails like a closed one.
            os.open(os.devnull, os.O_RDONLY)
    sys.stdout = _guarded(_Stdout(_STDOUT, "w", closefd=False), sys.stdout)
    sys.stderr = _guarded(_Stderr(_STDERR, "w", closefd=False), sys.stderr)


def _guarded(raw: io.FileIO, before: io.TextIOBase | object) -> io.TextIOWrapper:
    encoding = getattr(before, "encoding", None)
    terminal = raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=terminal or raw.fileno() == _STDERR,
    )


def drop_output() -> None:
    """Forget what stdout still holds, so that nothing is said about it at the end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STDOUT)
    os.close(null)
