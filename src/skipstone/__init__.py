"""Skipstone runs diffusion language models fast, and proves what each shortcut changed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipstone.cache import DualCache, NoCache, PrefixCache
    from skipstone.engine import Engine, Result, Settings, Stats
    from skipstone.errors import (
        CheckpointError,
        ConfigError,
        PromptError,
        SkipstoneError,
        StalledError,
    )
    from skipstone.models.load import Model, load
    from skipstone.skip import CosineSkip, NoSkip
    from skipstone.unmask import Factor, Fixed, Threshold

__version__ = "0.1.0"

# Loaded on first use: a trace must open on a machine without torch.
_HOMES = {
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "CosineSkip": "skip",
    "DualCache": "cache",
    "Engine": "engine",
    "Factor": "unmask",
    "Fixed": "unmask",
    "Model": "models.load",
    "NoCache": "cache",
    "NoSkip": "skip",
    "PrefixCache": "cache",
    "PromptError": "errors",
    "Result": "engine",
    "Settings": "engine",
    "SkipstoneError": "errors",
    "StalledError": "errors",
    "Stats": "engine",
    "Threshold": "unmask",
    "load": "models.load",
}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "CosineSkip",
    "DualCache",
    "Engine",
    "Factor",
    "Fixed",
    "Model",
    "NoCache",
    "NoSkip",
    "PrefixCache",
    "PromptError",
    "Result",
    "Settings",
    "SkipstoneError",
    "StalledError",
    "Stats",
    "Threshold",
    "load",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'skipstone' has no attribute {name!r}")
    return getattr(importlib.import_module(f"skipstone.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
