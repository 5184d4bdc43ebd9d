"""Skipstone runs diffusion language models fast, and proves what each shortcut changed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from skipstone.version import __version__ as __version__

if TYPE_CHECKING:
    from skipstone.cache import DualCache, NoCache, PrefixCache
    from skipstone.diff.compare import compare
    from skipstone.engine import Engine, Result, Settings, Stats
    from skipstone.errors import (
        CheckpointError,
        ConfigError,
        DeadlockError,
        NoRoomError,
        NotFiniteError,
        OutputError,
        PolicyError,
        PromptError,
        SkipstoneError,
        StalledError,
        TraceError,
    )
    from skipstone.foreign.attach.attach import attach
    from skipstone.foreign.explain.explain import explain
    from skipstone.foreign.sanitizer.sanitize import sanitize
    from skipstone.models.load import Model, load
    from skipstone.record import TraceWriter, open_trace
    from skipstone.report.notebook import view
    from skipstone.report.report import write_report
    from skipstone.report.study import study
    from skipstone.skip import CosineSkip, NoSkip
    from skipstone.sweep import run_sweep
    from skipstone.tracing import Recorder
    from skipstone.tracing.diagnose import diagnose
    from skipstone.unmask import Factor, Fixed, Threshold

# Loaded on first use: a trace must open on a machine without torch.
_HOMES = {
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "CosineSkip": "skip",
    "DeadlockError": "errors",
    "DualCache": "cache",
    "Engine": "engine",
    "Factor": "unmask",
    "Fixed": "unmask",
    "Model": "models.load",
    "NoCache": "cache",
    "NoSkip": "skip",
    "NoRoomError": "errors",
    "NotFiniteError": "errors",
    "PrefixCache": "cache",
    "OutputError": "errors",
    "PolicyError": "errors",
    "PromptError": "errors",
    "Recorder": "tracing",
    "Result": "engine",
    "Settings": "engine",
    "SkipstoneError": "errors",
    "StalledError": "errors",
    "Stats": "engine",
    "Threshold": "unmask",
    "TraceError": "errors",
    "TraceWriter": "record",
    "attach": "foreign.attach.attach",
    "compare": "diff.compare",
    "diagnose": "tracing.diagnose",
    "explain": "foreign.explain.explain",
    "load": "models.load",
    "open_trace": "record",
    "run_sweep": "sweep",
    "sanitize": "foreign.sanitizer.sanitize",
    "study": "report.study",
    "view": "report.notebook",
    "write_report": "report.report",
}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "CosineSkip",
    "DeadlockError",
    "DualCache",
    "Engine",
    "Factor",
    "Fixed",
    "Model",
    "NoCache",
    "NoRoomError",
    "NoSkip",
    "NotFiniteError",
    "OutputError",
    "PolicyError",
    "PrefixCache",
    "PromptError",
    "Recorder",
    "Result",
    "Settings",
    "SkipstoneError",
    "StalledError",
    "Stats",
    "Threshold",
    "TraceError",
    "TraceWriter",
    "attach",
    "compare",
    "diagnose",
    "explain",
    "load",
    "open_trace",
    "run_sweep",
    "sanitize",
    "study",
    "view",
    "write_report",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'skipstone' has no attribute {name!r}")
    return getattr(importlib.import_module(f"skipstone.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
