"""Where runs begin: each finds the same seeds, the same model and the same prompt."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from skipstone.foreign.explain.held import Holdings, SavedState, of_tensor

# Weights beyond this many bytes are not copied: whether they were written to is seen all the same.
_MOST_BYTES = 1 << 28


class Start:
    """What a run of a function finds; kept, and put back after each run."""

    def __init__(self, function: Callable[..., object], model: nn.Module, seed: int) -> None:
        """Keep the state of now.

        Args:
            function: what it holds on to is kept.
            model: its weights, buffers and attributes are kept.
            seed: of every run, for Python, NumPy and torch.
        """
        self.changed = dict[str, bool]()
        """Names of what runs changed, and whether that could be put back."""
        self._seed = seed
        holdings = Holdings()
        holdings.add(function)
        modules = {"model": model} | {n: m for n, m in holdings.modules.items() if m is not model}
        self._held = [h for name, module in modules.items() for h in _of_module(name, module)]
        self._held += holdings.held
        self._weights = [w for name, module in modules.items() for w in _large(name, module)]

    @contextmanager
    def run(self) -> Generator[None]:
        """Begin a run where the first one began; seeds and modes are put back after it."""
        self.put_back()
        with _globals_kept():
            random.seed(self._seed)
            np.random.seed(self._seed % (1 << 32))
            torch.manual_seed(self._seed)
            yield

    def put_back(self, *, contents: bool = True) -> None:
        """Bring back what a run has changed.

        Args:
            contents: also what it put into names and containers; False leaves that to the next.
        """
        for held in self._held:
            if (contents or not held.contents) and held.changed():
                self.changed.setdefault(held.name, True)
                held.put_back()
        for weight in self._weights:
            if weight.changed():
                self.changed[weight.name] = False


@contextmanager
def _globals_kept() -> Generator[None]:
    """Random states, modes and defaults of the process are what they were, whatever a run sets."""
    python, numpy = random.getstate(), np.random.get_state()
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)


def _of_module(name: str, module: nn.Module) -> list[SavedState]:
    """Weights, buffers, and all other attributes of a network and its parts."""
    tensors = [*module.named_buffers(), *module.named_parameters()]
    if _size(module) > _MOST_BYTES:
        tensors = [*module.named_buffers()]
    held = [of_tensor(f"{name}.{at}", tensor) for at, tensor in tensors]
    for at, part in module.named_modules():
        held.append(_of_attributes(f"{name}.{at}" if at else name, part))
    return held


def _of_attributes(name: str, module: nn.Module) -> SavedState:
    """Which attributes, weights and parts a network has; lists and dictionaries by content."""
    # Weights, buffers and parts are dictionaries among the attributes, too.
    groups = [vars(module), *(v for v in vars(module).values() if isinstance(v, dict))]
    lists = [v for v in vars(module).values() if isinstance(v, list)]
    before = [dict(group) for group in groups]
    listed = [list(found) for found in lists]

    def changed() -> bool:
        return any(not _alike(now, old) for now, old in zip(groups, before, strict=True)) or any(
            len(now) != len(old) or any(x is not y for x, y in zip(now, old, strict=True))
            for now, old in zip(lists, listed, strict=True)
        )

    def put_back() -> None:
        for group, old in zip(groups, before, strict=True):
            group.clear()
            group.update(old)
        for found, kept in zip(lists, listed, strict=True):
            found[:] = kept

    return SavedState(name, False, changed, put_back)


def _alike(now: dict[Any, Any], old: dict[Any, Any]) -> bool:
    return now.keys() == old.keys() and all(now[key] is old[key] for key in old)


def _large(name: str, module: nn.Module) -> Sequence[SavedState]:
    """Weights that are too large for a copy: whether they were written to, torch counts."""
    if _size(module) <= _MOST_BYTES:
        return []
    weights = [p for p in module.parameters() if not p.is_inference()]
    versions = [p._version for p in weights]
    return [
        SavedState(
            f"{name}'s weights",
            False,
            lambda: [p._version for p in weights] != versions,
            lambda: None,
        )
    ]


def _size(module: nn.Module) -> int:
    return sum(p.nbytes for p in module.parameters())
