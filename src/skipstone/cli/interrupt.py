"""Ctrl-C ends every command with exit code 130, whatever it is doing. Imports next to nothing.

SIGTERM ends a command in order where it has something to put in order, and others as it ends every
process.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_INTERRUPTED = 130
_AGAIN_SECONDS = 0.05


def obey_ctrl_c() -> None:
    """Leave at once while modules are imported, and by KeyboardInterrupt at any other time.

    In the middle of an import an exception may be swallowed, or turned into another one: torch
    runs code of its own there. There is nothing to put in order yet either.
    """
    signal.signal(signal.SIGINT, _stop)


def ignore_ctrl_c() -> None:
    """The work is done: what is left is to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block, in order and without an error; to be used in the main thread.

    In the middle of an import it waits for the end of that.
    """
    told = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if _is_importing(frame):
            again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
        elif not told:
            told = True
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        if not told:
            raise
    except SystemExit:
        pass  # While Ray is set up it handles SIGTERM, by this.
    finally:
        signal.signal(signal.SIGTERM, before)


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
