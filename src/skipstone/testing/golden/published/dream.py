"""Dream's own code and Fast-dLLM's for it.

``diffusion_generate`` of Dream-org's files decodes the whole canvas as one block; NVlabs/Fast-dLLM
(``dream/model/generation_utils*.py``) has a threshold without a cache, and blocks with one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenCase, InexpressibleError
from skipstone.testing.golden.published.told import answer, check_only

_ORDERS = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}


def dream(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """``diffusion_generate``, of whichever file."""
    # Where a call left these out, what the configuration put there was recorded.
    params = {**case["params"], **case.get("effective", {})}
    check_only(params, alg_temp=(None, 0))
    lengths = {"gen_length": params["max_new_tokens"], "steps": params["steps"]}
    lengths["block_length"] = params.get("block_length", params["max_new_tokens"])
    cut = {key: params[key] for key in ("top_p", "top_k", "temperature")}
    yield GoldenCase(
        name=name,
        kind=case["kind"],
        prompt=tuple(case["prompt"]),
        settings={
            "cache": _cache(params),
            "unmask": _rule(params),
            "eos_stop": "false",
            **{key: str(value) for key, value in (lengths | cut).items()},
        },
        wanted=answer(case["expect"]),
    )


def _cache(params: Mapping[str, Any]) -> str:
    """A block_length is a parameter of the cached code alone."""
    if "block_length" not in params:
        return "none"
    return "dual" if params["dual_cache"] else "prefix"


def _rule(params: Mapping[str, Any]) -> str:
    alg, cached = params["alg"], "block_length" in params
    if alg == "confidence_threshold":
        return f"dream_threshold:value={params['threshold']!r},cached={cached}"
    if alg not in _ORDERS:
        raise InexpressibleError(f"no order of the engine is {alg!r}")
    # The cached code goes by entropy whatever it is asked for.
    order = "entropy" if cached else _ORDERS[alg]
    eps = f",eps={params['eps']!r}" if "eps" in params else ""
    return f"fixed:order={order},schedule=time,first_alone={cached}{eps}"
