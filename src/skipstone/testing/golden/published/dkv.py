"""dKV-Cache (horseee/dKV-Cache 49a76fc), its variant Decode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenCase
from skipstone.testing.golden.published.stepwise import stepwise


def decode(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """A fixed schedule; keys and values are kept a step late."""
    params = case["params"]
    rule = {
        "cache": f"dkv:refresh_every={params['cache_reloading_step']}",
        "unmask": "fixed",
        "steps": str(case["gen_length"] // params["tokens_per_step"]),
    }
    yield stepwise(name, "dkv_cache_decode", case, rule)
