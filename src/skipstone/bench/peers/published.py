"""Running published modelling code: imported from a folder, without weights of its own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def modules_of(folder: Path, *names: str) -> list[Any]:
    """Import modules from a folder; its files import each other from there.

    They are forgotten afterwards, since repositories call theirs alike: who imported them has them.
    """
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        # What they print as they are imported is no part of a result.
        with redirect_stdout(StringIO()):
            return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(folder))
        for name in [n for n in sys.modules if n not in before and _lies_in(n, folder)]:
            del sys.modules[name]


def _lies_in(name: str, folder: Path) -> bool:
    module = sys.modules[name]
    file = getattr(module, "__file__", None)
    return bool(file) and Path(str(file)).is_relative_to(folder)


@contextmanager
def standing_in(modules: Mapping[str, ModuleType]) -> Generator[None]:
    """Within it, modules stand for those of their names that are not installed."""
    new = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(new)
    try:
        yield
    finally:
        for name in new:
            del sys.modules[name]


def holding(kind: Any, config: Any, weights: Mapping[str, Tensor], device: torch.device) -> Any:
    """A published network that shares our weights: a second set would not fit beside the first.

    Args:
        kind: its class.
        config: its configuration.
        weights: under their published names.
        device: of the weights.
    """
    with torch.device("meta"):
        network = kind(config)
    network.load_state_dict(weights, strict=True, assign=True)
    # Rotary tables are in no file: they are made anew where the weights are.
    for name, module in list(network.named_modules()):
        if hasattr(module, "inv_freq"):
            parent, _, own = name.rpartition(".")
            made = type(module)(config=config).to(device)
            setattr(network.get_submodule(parent), own, made)
    return network.eval()


def runs_by() -> str:
    """Which transformers published code runs by."""
    return f"transformers {version('transformers')}"


class CallCount:
    """How often a network was called."""

    def __init__(self, network: Any) -> None:
        """Count from now on."""
        self._calls = 0
        network.register_forward_pre_hook(self._called)

    def _called(self, *_: object) -> None:
        self._calls += 1

    def take(self) -> int:
        """Calls since the last time this was asked."""
        calls, self._calls = self._calls, 0
        return calls
