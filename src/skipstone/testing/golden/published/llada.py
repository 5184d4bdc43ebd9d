"""LLaDA's own loops, for iLLaDA and LLaDA-MoE too, and those that others made of them.

``generate`` and ``var_generate`` of ML-GSAI/LLaDA (``generate.py``), NVlabs/Fast-dLLM's
``generate`` without a cache, and the order from left to right of junze-eng/iLLaDA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.engine.settings import spelled
from skipstone.testing.golden.case import GoldenCase, InexpressibleError
from skipstone.testing.golden.published.told import answer, check_only

_ORDERS = {"confidence": "confidence", "left_to_right": "left_to_right"}


def illada(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """The loops of iLLaDA."""
    yield llada(name, case)


def llada(name: str, case: Mapping[str, Any]) -> GoldenCase:
    """One run of a loop whose parameters are those of LLaDA's ``generate``."""
    params, grows = case["params"], case["kind"].startswith("var_generate")
    stops = params.get("stop_token_ids", ())
    if stops == () and params.get("stop_tokens"):
        raise InexpressibleError("the ids of its stop tokens are not told")
    return GoldenCase(
        name=name,
        kind=case["kind"],
        prompt=tuple(case["prompt"]),
        settings={
            "cache": "none",
            "gen_length": str(params["gen_length"]),
            "block_length": str(params["block_length"]),
            **_rule(params, params["gen_length"] // params["block_length"] if grows else 1),
            "growing_canvas": str(grows),
            "eos_stop": "false",
            **({"stop_after": "block", "stop_ids": spelled(tuple(stops))} if stops else {}),
        },
        wanted=answer(case["expect"]),
    )


def _rule(params: Mapping[str, Any], blocks: int) -> dict[str, str]:
    """What is committed; the steps are given for ``blocks`` of them together."""
    check_greedy(params)
    if params.get("threshold") is not None:
        return {"unmask": f"threshold:value={params['threshold']!r}"}
    order = params.get("decode_order", "confidence")
    if order not in _ORDERS:
        raise InexpressibleError(f"no order of the engine is {order!r}")
    # Steps beyond one for each token run, and commit nothing.
    steps = min(params["steps"] * blocks, params["gen_length"])
    return {"unmask": f"fixed:order={_ORDERS[order]}", "steps": str(steps)}


def check_greedy(params: Mapping[str, Any]) -> None:
    """Refuse what draws tokens or masks, or mixes in a second forward.

    Raises:
        InexpressibleError: a parameter asks for it.
    """
    check_only(params, temperature=(0,), cfg_scale=(0,), remasking=("low_confidence",))
