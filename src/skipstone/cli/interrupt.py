"""Ctrl-C ends every command with exit code 130, whatever it is doing. Imports next to nothing."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType

EXIT_INTERRUPTED = 130


def obey_ctrl_c() -> None:
    """Leave at once while modules are imported, and by KeyboardInterrupt at any other time.

    In the middle of an import an exception may be swallowed, or turned into another one: torch
    runs code of its own there. There is nothing to put in order yet either.
    """
    signal.signal(signal.SIGINT, _stop)


def ignore_ctrl_c() -> None:
    """The work is done: what is left is to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop(_number: int, frame: FrameType | None) -> None:
    if not _is_importing(frame):
        raise KeyboardInterrupt
    with suppress(OSError):
        os.write(2, b"skipstone: error: interrupted\n")
    os._exit(EXIT_INTERRUPTED)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
