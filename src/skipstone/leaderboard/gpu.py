"""What each setting takes on a GPU, from a benchmark's result file: one column more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from skipstone import strict_json
from skipstone.errors import ConfigError
from skipstone.quoting import one_line, shown

_TEXTS = ("card", "model", "date", "conditions")
_NUMBERS = ("seconds_per_answer", "low", "high", "tokens_per_s")


@dataclass(frozen=True)
class GpuTime:
    """Seconds of an answer under one setting."""

    seconds: float
    """Median."""
    low: float
    high: float
    tokens_per_s: float


@dataclass(frozen=True)
class GpuTimes:
    """A benchmark that replayed the schedules of settings with random weights."""

    card: str
    model: str
    """Whose shape the weights had."""
    date: str
    conditions: str
    settings: Mapping[str, GpuTime]
    """By the name that a setting has in the table."""
    failed: Mapping[str, str]
    """Settings that could not be timed, and why."""

    @property
    def about(self) -> str:
        """What was measured, in a sentence."""
        return (
            f"GPU s: measured seconds of an answer at the shape of {self.model} on {self.card}, "
            f"random weights, schedule replayed ({self.date}; {self.conditions})."
        )


def read_gpu_times(path: Path) -> GpuTimes:
    """Read a result file of ``benchmarks/policy_times.py``.

    Raises:
        ConfigError: it cannot be read, or has another shape.
    """
    try:
        found = strict_json.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({one_line(error)})") from None
    try:
        table = _table(found, "the file", (*_TEXTS, "settings"))
        texts = {name: _text(table[name], name) for name in _TEXTS}
        rows = table["settings"]
        if not isinstance(rows, dict) or not rows:
            raise ValueError("settings is no object with a setting in it")
        failed = {name: reason for name, row in rows.items() if (reason := _failure(row))}
        times = {name: _time(name, row) for name, row in rows.items() if name not in failed}
    except ValueError as error:
        raise ConfigError(
            f"{path} is no file of times on a GPU: {error}; benchmarks/policy_times.py writes one"
        ) from None
    return GpuTimes(settings=times, failed=failed, **texts)


def _failure(row: object) -> str:
    """Why a setting could not be timed; empty if it was."""
    reason = cast("dict[str, object]", row).get("failed") if isinstance(row, dict) else None
    return reason if isinstance(reason, str) else ""


def _time(name: str, row: object) -> GpuTime:
    """One setting."""
    where = f"setting {shown(name)}"
    table = _table(row, where, _NUMBERS)
    seconds, low, high, rate = (_positive(table[key], f"{key} of {where}") for key in _NUMBERS)
    if not low <= seconds <= high:
        raise ValueError(f"{where} has a median of {seconds:g}, outside {low:g} to {high:g}")
    return GpuTime(seconds, low, high, rate)


def _table(value: object, where: str, keys: tuple[str, ...]) -> Mapping[str, object]:
    """An object with at least these keys; a benchmark writes more facts beside them."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {shown(value)}, must be an object")
    table = cast("dict[str, object]", value)
    for key in keys:
        if key not in table:
            raise ValueError(f"{where} has no {key}")
    return table


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {shown(value)}, must be text")
    return value


def _positive(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {shown(value)}, must be a number")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {shown(value)}, must be more than 0")
    return float(value)
