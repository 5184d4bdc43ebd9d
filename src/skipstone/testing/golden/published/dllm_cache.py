"""dLLM-Cache (maomaocun/dLLM-cache 17235bf), and the same rule in d2Cache (Kamichanw 72feb60)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenCase
from skipstone.testing.golden.published.stepwise import stepwise


def hooks(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """The authors' hooks around LLaDA's loop, with its fixed schedule."""
    params = case["params"]
    clocks = (params["prompt_interval_steps"], params["gen_interval_steps"])
    steps = str(case["gen_length"] // params["tokens_per_step"])
    rule = {"cache": _cache(*clocks, params["transfer_ratio"]), "unmask": "fixed", "steps": steps}
    yield stepwise(name, "dllm_cache", case, rule)


def d2cache(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """d2Cache's version, one token a step."""
    params = case["params"]
    cache = _cache(params["kp"], params["kr"], params["rou"])
    rule = {"cache": cache, "unmask": "fixed", "steps": str(case["gen_length"])}
    yield stepwise(name, "dllm_cache_d2cache", case, rule)


def _cache(prompt: int, response: int, ratio: float) -> str:
    return (
        f"dllm:prompt_every={prompt},response_every={response},ratio={ratio!r},"
        f"similarity_dtype=model"
    )
