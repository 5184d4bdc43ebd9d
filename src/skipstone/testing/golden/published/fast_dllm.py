"""Fast-dLLM's LLaDA code (NVlabs/Fast-dLLM, ``llada/generate.py``), and what grew from it.

Fast-dLLM++ (Ringo-Star/FastdLLM_plusplus 29fd034) has the prefix of Frechet's bound in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenAnswer, GoldenCase
from skipstone.testing.golden.published.stepwise import stepwise


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


def frechet(cache: str, name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """The prefix of Frechet's bound beside one of the caches."""
    unmask = f"frechet:margin={case['params']['frechet_margin']!r}"
    yield stepwise(name, f"frechet_{cache}", case, {"cache": cache, "unmask": unmask})
