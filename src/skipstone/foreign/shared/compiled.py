"""What listens to code stays out of what ``torch.compile`` compiles.

Dynamo traces the function modes on the stack into the graphs of the user's code, and functions that
tell of themselves likewise: each compiled function would be compiled again for us, with our code in
it, and would then round otherwise. So a mode is taken off the stack while a compiled function runs,
which is then one operation like any other: it gives the same bits as without us, and what happens
inside is not seen.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, FunctionType
from typing import Any, Protocol

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# Dynamo has no public place for this. It goes through this function of its own whenever a compiled
# region begins (with what compiles) or ends (with what was before).
_SWITCH = "_maybe_set_eval_frame"


class Steps(Protocol):
    """What listens to code, and steps aside while compiled code runs."""

    away: bool
    """Whether it stepped aside by itself: then it comes back when it says so."""

    def leave(self) -> bool:
        """Step aside; False if it was not there."""
        ...

    def come(self) -> None:
        """Be there again."""
        ...


class Mode(TorchFunctionMode):
    """A function mode that may leave the stack for a while by itself."""

    away = False
    """Whether it has."""

    def leave(self) -> bool:
        """Take it off the stack; False if it is not there."""
        return take_off(self)

    def come(self) -> None:
        """Put it on top of the stack."""
        push([self])


@contextmanager
def active(watch: Steps) -> Generator[None]:
    """Have something listen to all code but what is compiled.

    With a torch that has no such switch any more it listens to compiled code, too.
    """
    # Loading Dynamo takes seconds; while nobody has, nothing is compiled.
    eval_frame = sys.modules.get("torch._dynamo.eval_frame")
    switch = getattr(eval_frame, _SWITCH, None)
    if eval_frame is None or switch is None:
        with _there(watch):
            yield
        return
    thread = threading.get_ident()
    outermost: FrameType | None = None
    """Of Dynamo, whose region has begun: it switches again when the region ends."""

    def switched(callback: Any) -> Any:
        nonlocal outermost
        if watch.away or threading.get_ident() != thread:
            return switch(callback)
        begins = outermost is None and callable(callback)
        frame = _beyond_ours(sys._getframe(1)) if begins or not callable(callback) else None
        if begins and watch.leave():
            outermost = frame
            # Last of all: what is called from here on would be compiled.
            return switch(callback)
        before = switch(callback)
        if frame is not None and outermost is frame:
            outermost = None
            watch.come()
        return before

    setattr(eval_frame, _SWITCH, switched)
    try:
        with _there(watch):
            yield
    finally:
        setattr(eval_frame, _SWITCH, switch)


@contextmanager
def _there(watch: Steps) -> Generator[None]:
    """Have it come, unless it is away by itself, and leave at the end."""
    if not watch.away:
        watch.come()
    try:
        yield
    finally:
        if not watch.away:
            watch.leave()


def _beyond_ours(frame: FrameType) -> FrameType:
    """The frame that called, past the switches of other modes."""
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    return frame


def unseen(function: Callable[..., Any]) -> Callable[..., Any]:
    """A hook of ours into which Dynamo does not trace, where the model itself is compiled."""
    return torch.compiler.disable(function) if "torch._dynamo" in sys.modules else function


def skipped(function: Callable[..., Any]) -> None:
    """Have Dynamo run a function as it is, at no cost; functions that it calls are compiled."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    skip = getattr(dynamo, "skip_code", None)
    if skip is not None and isinstance(function, FunctionType):
        skip(function.__code__)


def at_work() -> Callable[[], object]:
    """A function that says, without a frame of Python, whether Dynamo compiles what is called."""
    if "torch._dynamo" not in sys.modules:
        return bool
    return getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", bool)


@dataclass(frozen=True)
class Compiled:
    """What somebody has compiled of a model."""

    whole: frozenset[nn.Module]
    """Modules that are compiled as a whole, and the modules around them."""
    wrappers: tuple[nn.Module, ...]
    """What ``torch.compile(model)`` gave; loops call it instead of the model."""


def compiled_of(model: nn.Module) -> Compiled:
    """Find out what is compiled of a model, by itself or by wrappers anywhere around it."""
    eval_frame = sys.modules.get("torch._dynamo.eval_frame")
    if eval_frame is None:
        return Compiled(frozenset(), ())
    kind: type[nn.Module] = eval_frame.OptimizedModule
    wrappers = list[nn.Module]()
    if _may_have_wrappers(eval_frame):
        wrappers = [found for found in gc.get_objects() if type(found) is kind]
    itself = [part for part in model.modules() if part._compiled_call_impl is not None]
    whole = frozenset(part for outer in (*wrappers, *itself) for part in outer.modules())
    return Compiled(whole, tuple(w for w in wrappers if next(w.children(), None) is model))


def _may_have_wrappers(eval_frame: Any) -> bool:
    """Whether anybody has compiled a module: only then are all objects there are looked through.

    That takes a tenth of a second, and most loops compile a function or two. Dynamo keeps the code
    of what it was asked to compile: of a module that is a method, or a function of Dynamo's own.
    """
    asked = getattr(getattr(eval_frame, "always_optimize_code_objects", None), "refs", None)
    if not isinstance(asked, Mapping):
        return True
    codes = [code for ref in asked.values() if (code := ref()) is not None]
    return any(c.co_varnames[:1] == ("self",) or "_dynamo" in c.co_filename for c in codes)


def take_off(mode: TorchFunctionMode) -> bool:
    """Take a mode off the stack, the ones above it stay; False if it is not there."""
    above, found = list[TorchFunctionMode](), False
    while not found and torch._C._len_torch_function_stack():
        above.append(torch._C._pop_torch_function_stack())
        found = above[-1] is mode
    push(above[:-1] if found else above)
    return found


def push(modes: list[TorchFunctionMode]) -> None:
    """Put modes on the stack, the first of them on top."""
    for mode in reversed(modes):
        torch._C._push_on_torch_function_stack(mode)
