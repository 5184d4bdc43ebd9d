"""Who called: the line of the user's code that did something.

Lines of torch, of Skipstone and of ``with`` blocks are passed over, but for the code that stands
for a user's own.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType

_HIDDEN_PACKAGES = ("torch", "skipstone", "contextlib")
_STANDS_FOR_USERS = "skipstone.testing."


def user_frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Frames outside torch and Skipstone, the innermost first."""
    while frame is not None:
        if not _hidden(str(frame.f_globals.get("__name__"))):
            yield frame
        frame = frame.f_back


# Asked for each frame between a value that is read and the line that reads it.
@cache
def _hidden(module: str) -> bool:
    """Whether lines of a module are passed over."""
    hidden = module.partition(".")[0] in _HIDDEN_PACKAGES
    return hidden and not module.startswith(_STANDS_FOR_USERS)


def caller(above: int = 1) -> FrameType:
    """The innermost frame of the user's code; the outermost of all if none is theirs.

    Args:
        above: so many frames up from here are known to be ours.
    """
    frame = sys._getframe(above)
    while _hidden(str(frame.f_globals.get("__name__"))) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def place(frame: FrameType) -> str:
    """``file.py:123`` of a frame; below the working directory with its folders."""
    return line_of(frame.f_code.co_filename, frame.f_lineno)


def line_of(filename: str, line: int) -> str:
    """The same of a line of a file."""
    return f"{_shown(filename)}:{line}"


# Asked for every value that a loop reads, and paths are slow.
@cache
def _shown(filename: str) -> str:
    path, here = Path(filename), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name


def innermost(trail: TracebackType | None) -> str:
    """``file.py:123`` of the user's line deepest in a traceback; empty if none is theirs."""
    found = ""
    while trail is not None:
        if next(user_frames(trail.tb_frame), None) is trail.tb_frame:
            found = line_of(trail.tb_frame.f_code.co_filename, trail.tb_lineno)
        trail = trail.tb_next
    return found


def source_line() -> str:
    """``file.py:123`` of the innermost line that is neither torch's nor ours."""
    return place(caller())


def written_at(frame: FrameType, name: str) -> str:
    """The line that set an argument: up through the functions that only pass it on by its name."""
    last = frame
    for last in user_frames(frame):
        if name not in parameters(last):
            break
    return place(last)


def parameters(frame: FrameType) -> dict[str, object]:
    """The arguments of the function that a frame runs, as they are now."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    values = frame.f_locals
    return {name: values[name] for name in names if name in values}


def named_parameters(frame: FrameType) -> dict[str, object]:
    """What a function takes by names that are not its own: its ``**kwargs``."""
    code = frame.f_code
    if not code.co_flags & inspect.CO_VARKEYWORDS:
        return {}
    at = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    found = frame.f_locals.get(code.co_varnames[at])
    return dict(found) if isinstance(found, dict) else {}


def whole_numbers(frame: FrameType, names: Iterable[str]) -> dict[str, str]:
    """Whole numbers that the loop has under some of these names, as text.

    A loop may call the model from a helper beside it: the innermost function of the same file that
    has one of the names is asked.
    """
    file, wanted = frame.f_code.co_filename, tuple(names)
    for outer in user_frames(frame):
        if outer.f_code.co_filename != file or outer.f_code.co_name == "<module>":
            continue
        values = outer.f_locals
        found = {name: values[name] for name in wanted if type(values.get(name)) is int}
        if found:
            return {name: str(value) for name, value in found.items()}
    return {}
