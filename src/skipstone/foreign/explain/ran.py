"""One run of a user's function: what it returned or raised, and how long it took."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from skipstone.errors import ConfigError
from skipstone.foreign.explain.held import same_tensor
from skipstone.foreign.shared.source import innermost
from skipstone.quoting import one_line


@dataclass(frozen=True, eq=False)
class Ran:
    """How a run went."""

    returned: object
    """A copy: the next run may write into the same tensors."""
    error: str
    """What it raised, and where; empty if it came to its end."""
    seconds: float

    def same(self, other: Ran) -> bool | None:
        """Whether both ended alike; None where what they returned cannot be compared."""
        if self.error or other.error:
            return self.error == other.error
        return same(self.returned, other.returned)


def caller_of(
    function: Callable[..., object], model: nn.Module | None, name: str
) -> Callable[[], object]:
    """The function without arguments; the model is passed where one is asked for.

    Raises:
        ConfigError: it needs others, or cannot be run at all.
    """
    if isinstance(function, nn.Module):
        raise ConfigError(
            f"{name} is a {type(function).__name__}, a network; give the function that decodes "
            f"with it, such as lambda: generate(model, prompt)"
        )
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"{name} is async; give a function that awaits it: asyncio.run(...)")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return function
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    named = [p.name for p in parameters if p.name in ("model", "net", "network")]
    if len(needed) > 1 or (needed and model is None):
        raise ConfigError(
            f"{name} needs {', '.join(needed)}; it is called with nothing, or with the model: "
            f"give lambda: f(...) with its arguments filled in"
        )
    if needed:
        only_named = next(p for p in parameters if p.name == needed[0]).kind
        if only_named is inspect.Parameter.KEYWORD_ONLY:
            return lambda: function(**{needed[0]: model})
        return lambda: function(model)
    return (lambda: function(**{named[0]: model})) if named and model is not None else function


def run(call: Callable[[], object], model: nn.Module, *, quiet: bool) -> Ran:
    """Run it; whatever it raises is kept, an interrupt goes on its way.

    Args:
        call: the user's function.
        model: whose device is waited for.
        quiet: drop what it prints, which it printed before.
    """
    out: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if quiet:
        out = contextlib.redirect_stdout(io.StringIO())
    returned, error = None, ""
    _wait(model)
    began = time.perf_counter()
    try:
        with out:
            returned = call()
            if inspect.isgenerator(returned):
                returned = list(returned)
    except Exception as raised:
        error = _said(raised)
    _wait(model)
    seconds = time.perf_counter() - began
    return Ran(kept(returned), error, seconds)


def _said(raised: Exception) -> str:
    """An exception in one line, with the line of the user's code."""
    place = innermost(raised.__traceback__)
    text = f"{type(raised).__name__}: {one_line(raised)}"
    return f"{text} ({place})" if place else text


def _wait(model: nn.Module) -> None:
    device = next((p.device for p in model.parameters()), None)
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def kept(value: object) -> object:
    """A copy of all that can be compared: numbers, texts, tensors, and what holds them."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {key: kept(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [kept(part) for part in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: kept(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def same(a: object, b: object) -> bool | None:
    """Whether two kept values are equal; None if there is nothing in them to compare."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return same_tensor(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, dict) and isinstance(b, dict):
        return _all(same(a[key], b[key]) for key in a) if a.keys() == b.keys() else False
    if isinstance(a, list) and isinstance(b, list):
        pairs = zip(a, b, strict=True) if len(a) == len(b) else None
        return False if pairs is None else _all(same(x, y) for x, y in pairs)
    if isinstance(a, (bool, int, float, str, bytes)) and isinstance(b, type(a)):
        return a == b or (a != a and b != b)
    return None


def _all(answers: Iterator[bool | None]) -> bool | None:
    known = [answer for answer in answers if answer is not None]
    return all(known) if known else None
