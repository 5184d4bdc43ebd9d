"""LocalLeap's ``generate`` (arXiv 2510.07081), without a cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenCase
from skipstone.testing.golden.published.stepwise import stepwise


def localleap(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """Anchors, and what is near them."""
    params = case["params"]
    value, relaxed, radius = (params[n] for n in ("threshold", "relaxed_threshold", "radius"))
    unmask = f"local_leap:value={value!r},relaxed={relaxed!r},radius={radius}"
    yield stepwise(name, "localleap", case, {"cache": "none", "unmask": unmask})
