"""Hooks on ``forward`` itself: they see calls that bypass ``model(...)`` too.

Hooks of torch fire for ``model(...)`` only; published code calls ``model.forward(...)`` as well,
and wrappers such as DataParallel go through either.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from inspect import Signature
from typing import Protocol

import torch
from torch import nn

from skipstone.foreign.shared.calls import signature_of
from skipstone.foreign.shared.compiled import unseen


class HearsCalls(Protocol):
    """Hears of the calls of one module. Must not raise."""

    def before(
        self, signature: Signature, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        """A call begins, of a function with this signature."""
        ...

    def after(self, output: object) -> None:
        """A call is done."""
        ...

    def broken(self) -> None:
        """A call ended with an exception, which is on its way to the user."""
        ...


def hook_forward(
    on: ExitStack,
    parts: Sequence[nn.Module],
    listener: HearsCalls,
    compiled: Collection[nn.Module],
) -> None:
    """Tell of every call of a model; each ``forward`` is put back when ``on`` is closed.

    Args:
        on: what is taken off with it.
        parts: the model, and what lies within it and may be called in its place. A call within a
            call is a part of it, and is not reported.
        listener: called with each call.
        compiled: modules that somebody has compiled as a whole.
    """
    depth = _Depth()
    for part in parts:
        signature = signature_of(getattr(part, "_orig_mod", part).forward)
        whole = part in compiled
        if part._compiled_call_impl is not None:
            # ``model.compile()``: calls go by this, and past any hook.
            _hook(on, part, "_compiled_call_impl", signature, listener, depth, whole=whole)
        _hook(on, part, "forward", signature, listener, depth, whole=whole)


@dataclass(eq=False)
class _Depth:
    """How many calls are under way."""

    calls: int = 0


def _hook(
    on: ExitStack,
    module: nn.Module,
    name: str,
    signature: Signature,
    listener: HearsCalls,
    depth: _Depth,
    *,
    whole: bool,
) -> None:
    """Put ourselves in the place of one method of a module."""
    method: Callable[..., object] = getattr(module, name)
    own = name in vars(module)
    # A graph that must be whole may not be broken by us: what is compiled as a whole is seen from
    # outside only.
    before, after, broken = map(unseen, (listener.before, listener.after, listener.broken))

    @functools.wraps(method)
    def watched(*args: object, **kwargs: object) -> object:
        if depth.calls or (whole and torch.compiler.is_compiling()):
            return method(*args, **kwargs)
        before(signature, args, kwargs)
        depth.calls += 1
        try:
            output = method(*args, **kwargs)
        except BaseException:
            broken()
            raise
        finally:
            depth.calls -= 1
        after(output)
        return output

    def put_back() -> None:
        if own:
            setattr(module, name, method)
        else:
            delattr(module, name)

    setattr(module, name, watched)
    on.callback(put_back)
