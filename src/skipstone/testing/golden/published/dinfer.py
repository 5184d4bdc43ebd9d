"""dInfer's loops (inclusionAI/dInfer fce4e328, ``python/dinfer/decoding``).

``generate`` of ``generate_fastdllm.py``, and ``BlockWiseDiffusionLLM`` with the decoders of
``parallel_strategy.py``, without a cache; ``VicinityCacheDiffusionLLM``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenCase, InexpressibleError
from skipstone.testing.golden.published.llada import check_greedy, llada
from skipstone.testing.golden.published.stepwise import stepwise
from skipstone.testing.golden.published.told import answer, check_only

_CREDIT = {
    "value": "threshold",
    "alpha": "credit_alpha",
    "gamma": "boost_gamma",
    "beta": "decay_beta",
}


def llada_moe(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """The loops that were run on LLaDA-MoE: dInfer's, and LLaDA's own."""
    if not case["kind"].startswith("dinfer/"):
        yield llada(name, case)
        return
    params, expect = case["params"], case["expect"]
    check_greedy(params)
    aligned = bool(params.get("start_block_align"))
    new = None
    if params["early_stop"]:
        before = len(case["prompt"]) if aligned else 0
        new = _end_of_block(expect["tokens"], params, before)
    yield GoldenCase(
        name=name,
        kind=case["kind"],
        prompt=tuple(case["prompt"]),
        settings={
            "cache": "none",
            "unmask": _rule(params),
            "gen_length": str(params["gen_length"]),
            "block_length": str(params["block_length"]),
            "absolute_blocks": str(aligned),
            **_ending(params),
        },
        wanted=answer(expect, new),
    )


def hierarchical(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """``HierarchyDecoder`` on LLaDA."""
    params = case["params"]
    rule = {"cache": params.get("cache", "none"), "unmask": _rule(params)}
    yield stepwise(name, "hierarchical", case, rule)


def credit(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """``CreditThresholdParallelDecoder`` on LLaDA."""
    params = case["params"]
    rule = {"cache": params.get("cache", "none"), "unmask": _rule(params)}
    yield stepwise(name, "credit_decoding", case, rule)


def vicinity(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """``VicinityCacheDiffusionLLM`` with the threshold."""
    params = case["params"]
    check_only(params, decoder=("threshold",), cache=("vicinity",))
    if params["cache_update_freq"] and params.get("maximum_unroll", 1) > 1:
        raise InexpressibleError("forwards of an unrolled loop, taken in vain, move its clock")
    near = f"before={params['prefix_look']},after={params['after_look']}"
    clock = f"warmup={params['warmup_steps']},refresh_every={params['cache_update_freq'] or 0}"
    rule = {
        "cache": f"vicinity:{near},{clock},published=true",
        "unmask": f"dinfer_threshold:value={params['threshold']!r}",
    }
    yield stepwise(name, "vicinity", case, rule)


def _rule(params: Mapping[str, Any]) -> str:
    """What is committed; ``decoder`` is a parameter of the loop over blocks."""
    threshold = params["threshold"]
    match params.get("decoder", "threshold"):
        case "threshold" if threshold is not None:
            return f"threshold:value={threshold!r}"
        case "threshold" if params.get("factor") is not None:
            return f"factor:value={params['factor']!r},last=true"
        case "credit":
            shown = {ours: params[name] for ours, name in _CREDIT.items() if name in params}
            return "credit:" + ",".join(f"{name}={value!r}" for name, value in shown.items())
        case "hierarchy":
            return f"hierarchical:value={threshold},low={params['low_threshold']}"
        case other:
            raise InexpressibleError(f"no unmask policy is dInfer's decoder {other!r}")


def _ending(params: Mapping[str, Any]) -> dict[str, str]:
    """An early stop fills what is behind the block in which its id was found."""
    if not params["early_stop"]:
        return {"eos_stop": "false"}
    return {"eos_stop": "false", "stop_ids": str(params["eos_id"]), "stop_after": "block"}


def _end_of_block(tokens: list[int], params: Mapping[str, Any], before: int) -> int:
    """How many tokens there are up to the end of the block that has the first stop id."""
    length = params["block_length"]
    if params["eos_id"] not in tokens:
        return len(tokens)
    block = (tokens.index(params["eos_id"]) + before) // length
    return min(len(tokens), (block + 1) * length - before)
