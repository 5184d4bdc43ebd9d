"""WINO's ``decoding_wino`` (Feng-Hong/WINO-DLLM 9549a1d), which has no cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenCase
from skipstone.testing.golden.published.stepwise import stepwise


def wino(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """Committing, and taking back."""
    value, back = (case["params"][n] for n in ("threshold", "threshold_back"))
    unmask = f"wino:value={value!r},back={back!r}"
    yield stepwise(name, "wino", case, {"cache": "none", "unmask": unmask})
