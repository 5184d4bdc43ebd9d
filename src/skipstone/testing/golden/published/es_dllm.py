"""ES-dLLM's ``batch_generate`` (zhuzj19/ES-dLLM 3c5151d): its cache and its skip.

``delay_eos_generation`` gives EOS the probability 0 while its left neighbour is a mask and there is
no EOS yet; no setting here does. In what was recorded EOS is never the most probable token there: a
replay looks, and a case in which it is counts as a miss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from skipstone.testing.golden.case import GoldenCase, InexpressibleError
from skipstone.testing.golden.published.stepwise import stepwise


def es_dllm(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """A part of the rows at given depths, over a cache that computes all rows once."""
    params = case["params"]
    for key, only in (("ESdLLM_mode", "HiddenState"), ("use_kvcache", True), ("sparse_kv", 1)):
        if params[key] != only:
            raise InexpressibleError(f"{key} is {params[key]!r}, and only {only!r} is compared")
    found = stepwise(
        name,
        "es_dllm",
        case,
        {
            "cache": f"once:refresh_every={params['prompt_update_freq']}",
            "skip": f"ratio:{_skip(params)}",
            **_unmask(case),
        },
    )
    yield replace(found, delays_eos=params["delay_eos_generation"])


def _skip(params: Mapping[str, Any]) -> str:
    whole, *stages = params["proportion_steps"]
    if whole != [1, 0]:
        raise InexpressibleError(f"proportion_steps begins with {whole!r}, not with all rows")
    keep = "+".join(f"{ratio!r}@{depth!r}" for ratio, depth in stages)
    alpha = params["importance_score_alpha"]
    return (
        f"keep={keep},alpha={alpha!r},full_every={params['block_update_freq']},"
        # With the confidence alone, nothing else is forced.
        f"keep_committed={alpha < 1.0},keep_neighbours=False,ties=torch"
    )


def _unmask(case: Mapping[str, Any]) -> dict[str, str]:
    params = case["params"]
    if params["parallel_mode"]:
        return {"unmask": f"threshold:value={params['threshold']!r}"}
    if params["threshold"] is not None:
        raise InexpressibleError("a threshold that lowers a fixed number is no rule of the engine")
    steps = case["gen_length"] // params["token_per_step"]
    return {"unmask": "fixed", "steps": str(steps)}
