"""What a case is: something that a kind does with broken input, and what came of it."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from skipstone.cli.main import run
from skipstone.errors import SkipstoneError

LONGEST_ERROR = 500
"""Characters of the line that tells an error."""

# What steers a terminal: everything below a space but tab and newline, DEL, and the C1 set.
_RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_EXIT_CODES = range(4)


@dataclass(frozen=True)
class Outcome:
    """What one case came to."""

    refused: bool
    """Whether an error of our own was told; if not, the input was accepted."""
    finding: str = ""
    """What kind of fault this is; empty if it is none."""
    detail: str = ""


@dataclass(frozen=True)
class Scene:
    """Where a case happens."""

    random: Random
    """Of this case alone."""
    number: int
    """Of this case among those of its kind."""
    here: Path
    """An empty folder of this case alone."""
    sound: Path
    """Sound inputs, shared by all cases; see ``tests.fuzz.sound``."""

    def copy(self, name: str, under: str = "") -> Path:
        """A sound file or folder to be changed; under another name if one is given."""
        source, target = self.sound / name, self.here / (under or name)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
        return target


Act = Callable[[Scene], Outcome]


@dataclass(frozen=True)
class Kind:
    """One kind of broken input."""

    name: str
    act: Act
    weight: int
    """Cases among all cases, in proportion."""
    most: int = sys.maxsize
    """How many different ones there are."""


def command(arguments: Sequence[str], stdin: str = "") -> Outcome:
    """Run one command line in this process, and judge what it printed."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(list(arguments))
    except BaseException:
        return Outcome(refused=False, finding="traceback", detail=last_lines())
    finally:
        sys.stdin = before
    told = err.getvalue()
    if "--debug" in arguments:  # which asks for the traceback
        told = told[told.rfind("skipstone: error: ") :]
    return judged(code, out.getvalue(), told)


def call(act: Callable[[], object]) -> Outcome:
    """Call a function of the library: it returns, or raises an error of our own."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            act()
    except SkipstoneError as error:
        if not str(error).strip():
            return Outcome(refused=True, finding="no error line", detail=last_lines())
        return Outcome(refused=True)
    except BaseException:
        return Outcome(refused=False, finding="traceback", detail=last_lines())
    return Outcome(refused=False)


def judged(code: int, out: str, err: str) -> Outcome:
    """Judge what a command printed and how it ended."""
    refused = code == 2
    lines = err.rstrip("\n").split("\n")
    if "internal error" in err:
        return Outcome(refused, "internal error", lines[-1])
    if "Traceback (most recent call last)" in err:
        return Outcome(refused, "traceback", err[-2000:])
    if code not in _EXIT_CODES:
        return Outcome(refused, "exit code", f"{code}: {lines[-1]}")
    raw = _RAW.search(out + err)
    if raw is not None:
        around = (out + err)[max(0, raw.start() - 40) : raw.end() + 40]
        return Outcome(refused, "raw text", repr(around))
    if not refused or err.startswith("Usage: "):
        return Outcome(refused)
    if not lines[-1].startswith("skipstone: error: "):
        return Outcome(refused, "no error line", repr(err[-500:]))
    if len(lines[-1]) > LONGEST_ERROR:
        return Outcome(refused, "long error", f"{len(lines[-1])} characters: {lines[-1][:200]}")
    return Outcome(refused)


def silent(outcome: Outcome, detail: str) -> Outcome:
    """The same, but changed content was taken for what was recorded."""
    return outcome if outcome.finding else replace(outcome, finding="silent", detail=detail)


def last_lines() -> str:
    """The exception at hand, and where it was raised."""
    return traceback.format_exc()[-2000:]
