"""The engine: settings, one step loop, a runner, observers, results."""

from skipstone.engine.engine import Engine
from skipstone.engine.result import Result, Stats, StepStats
from skipstone.engine.settings import Settings, parse_settings, parse_spec

__all__ = ["Engine", "Result", "Settings", "Stats", "StepStats", "parse_settings", "parse_spec"]
