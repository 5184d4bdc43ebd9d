"""Processes beside this one, any of which may end while it is looked at."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import psutil

from tests.conftest import ROOT

T = TypeVar("T")


def descendants(pid: int, title: str) -> list[psutil.Process]:
    """The processes below one, whose command line has a word in it."""
    found = psutil.Process(pid).children(recursive=True)
    return [one for one in found if title in "".join(told(one, psutil.Process.cmdline))]


def told(process: psutil.Process, ask: Callable[[psutil.Process], list[T]]) -> list[T]:
    """What a process says of itself; nothing if it has ended."""
    with suppress(psutil.NoSuchProcess):  # those that nobody has waited for are of this kind, too
        return ask(process)
    return []


def ended(code: str) -> tuple[int, str, str]:
    """How a Python process ends that runs some code: its exit code, stdout and stderr."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=90,
    )
    return run.returncode, run.stdout, run.stderr
