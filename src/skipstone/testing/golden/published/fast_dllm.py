"""Fast-dLLM's LLaDA code (NVlabs/Fast-dLLM, ``llada/generate.py``): three caches a case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenAnswer, GoldenCase


def llada(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """``generate``, ``generate_with_prefix_cache`` and ``generate_with_dual_cache``."""
    threshold = case["threshold"]
    rule = {"unmask": "fixed", "steps": str(case["steps"])}
    if threshold is not None:
        rule = {"unmask": f"threshold:value={threshold!r}"}
    lengths = {key: str(case[key]) for key in ("gen_length", "block_length")}
    for cache, expect in case["expect"].items():
        yield GoldenCase(
            name=f"{name} {cache}",
            kind=f"{cache}, {'fixed' if threshold is None else 'threshold'}",
            prompt=tuple(case["prompt"]),
            settings={"cache": cache, "eos_stop": "false", **rule, **lengths},
            wanted=GoldenAnswer(tuple(expect["tokens"]), expect["nfe"]),
        )
