"""One command in a process of its own that is killed, or not.

A *warm* process is forked from one that has imported everything, and costs milliseconds; a *cold*
one starts as a user's does. A warm one tells what is finished, over a pipe, as soon as it is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

Told = Callable[[str], None]


Act = Callable[[Told], int]
"""What a warm process does: it is given a function that tells what is finished."""


@dataclass(frozen=True)
class Moment:
    """When to kill."""

    seconds: float
    """After the start, or after a sign."""
    sign: Path | None = None
    """A folder in which something appears."""
    words: int = 0
    """So many times something was told to be finished."""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    killed: bool
    code: int
    told: tuple[str, ...]
    seconds: float


def warm(act: Act, here: Path, moment: Moment | None = None) -> Ended:
    """Fork, act and exit with its code; killed at a moment if one is given."""
    read, write = os.pipe()
    before = _names(moment)
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _act_and_exit(act, here, write)
    os.close(write)
    told = b""
    if moment is not None:
        while told.count(b"\n") < moment.words and (more := os.read(read, 1)):
            told += more
        _wait_for(moment, before, lambda: os.waitid(os.P_PID, pid, _LOOK) is not None)
        os.kill(pid, signal.SIGKILL)
    told += _all(read)
    _, status = os.waitpid(pid, 0)
    return _ended(os.waitstatus_to_exitcode(status), told, began)


def cold(arguments: Sequence[str], here: Path, moment: Moment | None = None) -> Ended:
    """Start the command as a user does; killed at a moment if one is given."""
    before, began = _names(moment), time.monotonic()
    with (here.parent / f"{here.name}.err").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "skipstone", *arguments],
            cwd=here,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    if moment is not None:
        _wait_for(moment, before, lambda: process.poll() is not None)
        process.kill()
    return _ended(process.wait(), b"", began)


_LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT


def _names(moment: Moment | None) -> set[str]:
    return set() if moment is None or moment.sign is None else _listed(moment.sign)


def _listed(folder: Path) -> set[str]:
    """Names and sizes in a folder and one below: they change when something is written."""
    with contextlib.suppress(OSError):
        return {
            f"{path} {path.stat().st_size}"
            for inner in (folder, *(p for p in folder.iterdir() if p.is_dir()))
            for path in inner.iterdir()
        }
    return {"something goes on"}


def _wait_for(moment: Moment, before: set[str], over: Callable[[], bool]) -> None:
    if moment.sign is not None:
        while _listed(moment.sign) == before and not over():
            time.sleep(0.001)
    end = time.monotonic() + moment.seconds
    while time.monotonic() < end and not over():
        time.sleep(min(0.002, max(0.0, end - time.monotonic())))


def _all(read: int) -> bytes:
    told = b""
    while more := os.read(read, 1 << 16):
        told += more
    os.close(read)
    return told


def _ended(code: int, told: bytes, began: float) -> Ended:
    # A word without its end was not told.
    whole = told.rpartition(b"\n")[0].decode()
    words = tuple(whole.split("\n")) if whole else ()
    return Ended(code == -signal.SIGKILL, code, words, time.monotonic() - began)


def _tell(write: int, word: str) -> None:
    os.write(write, f"{word}\n".encode())


def _act_and_exit(act: Act, here: Path, write: int) -> None:
    """What the forked process does; it never returns."""
    code = 70
    try:
        os.chdir(here)
        errors = os.open(here.parent / f"{here.name}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = act(partial(_tell, write))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
