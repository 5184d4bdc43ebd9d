"""The engine: settings, one step loop, a runner, observers, results."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from skipstone.engine.settings import Settings, parse_settings, parse_spec

if TYPE_CHECKING:
    from skipstone.engine.commits import Commit
    from skipstone.engine.engine import Engine
    from skipstone.engine.load import EngineLoad
    from skipstone.engine.request import Handle
    from skipstone.engine.result import Result, Stats, StepStats
    from skipstone.engine.told import DecodedStep, ToldSteps

__all__ = [
    "Commit",
    "DecodedStep",
    "Engine",
    "EngineLoad",
    "Handle",
    "Result",
    "Settings",
    "Stats",
    "StepStats",
    "ToldSteps",
    "parse_settings",
    "parse_spec",
]

# Settings are read and checked without torch, so what needs it is imported when it is first used.
_HOMES = {
    "Commit": "commits",
    "DecodedStep": "told",
    "Engine": "engine",
    "EngineLoad": "load",
    "Handle": "request",
    "Result": "result",
    "Stats": "result",
    "StepStats": "result",
    "ToldSteps": "told",
}


def __getattr__(name: str) -> object:
    """Import the engine or a result when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'skipstone.engine' has no attribute {name!r}")
    return getattr(importlib.import_module(f"skipstone.engine.{_HOMES[name]}"), name)
