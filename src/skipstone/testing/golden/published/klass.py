"""KLASS (shkim0116/KLASS ad87ecb, ``src/model/llada_klass.py``), without a cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenCase, InexpressibleError
from skipstone.testing.golden.published.stepwise import stepwise

_SCHEDULES = {"topk_margin": "margin", "entropy": "most_entropy", "confidence": "confidence"}
"""Its other orders; its entropy commits the least certain first."""
_READY = {"all": "all", "max_conf": "best"}


def klass(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """Stable and confident, or an order."""
    params, each = case["params"], int(case["params"].get("tokens_per_step", 1))
    blocks = -(-case["gen_length"] // case["block_length"])
    steps = blocks * -(-case["block_length"] // each)
    rule = {"cache": "none", "unmask": _rule(params), "steps": str(steps)}
    yield stepwise(name, "klass", case, rule)


def _rule(params: Mapping[str, Any]) -> str:
    if params["alg"] in _SCHEDULES:
        return f"fixed:order={_SCHEDULES[params['alg']]}"
    if params["alg"] != "klass":
        raise InexpressibleError(f"alg {params['alg']!r} is no order of the engine")
    strategy = params.get("unmask_strategy", "all")
    if strategy not in _READY:
        raise InexpressibleError(f"unmask_strategy {strategy!r} is not known")
    value, drift = params["conf_threshold"], params["kl_threshold"]
    history = params["kl_history_length"]
    return f"klass:value={value!r},drift={drift!r},history={history},ready={_READY[strategy]}"
