"""SlowFast (LiangrunFlora/Slow-Fast-Sampling dd9958f), without its cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenCase
from skipstone.testing.golden.published.stepwise import stepwise

_SETTINGS = {
    "value": "high_confidence_threshold",
    "explore": "k_exploration_steps",
    "reach": "cycle_len_confidence_threshold",
    "window": "cycle_length_stability_window",
    "spread": "cycle_length_stability_std_dev_threshold",
}


def slowfast(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """Exploring, and filling."""
    params = case["params"]
    told = ",".join(f"{ours}={params[theirs]!r}" for ours, theirs in _SETTINGS.items())
    unmask = {"cache": "none", "unmask": f"slow_fast:{told},cut=true"}
    yield stepwise(name, "slowfast", case, unmask)
