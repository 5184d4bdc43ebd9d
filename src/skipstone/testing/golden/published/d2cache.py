"""d2Cache (Kamichanw/d2Cache 72feb60): its cache, and its sampling, orders and EB bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenCase, InexpressibleError
from skipstone.testing.golden.published.stepwise import stepwise

ORDERS = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}


def orders(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """A number of tokens a step, or all whose score reaches a threshold."""
    params = case["params"]
    yield stepwise(name, "orders", case, {"cache": "none", **_order(case, params)})


def _order(case: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, str]:
    each, order = int(params.get("num_transfer_tokens", 1)), _named(params["alg"])
    threshold, sigma = params.get("threshold"), params.get("gen_sigma")
    if sigma:
        if order != "confidence":
            raise InexpressibleError(f"no policy weighs {order} by what is decided nearby")
        return {"unmask": f"certainty:each={each},sigma={sigma!r},threshold={threshold!r}"}
    if order == "margin":
        return {"unmask": f"margin:each={each},threshold={threshold}"}
    if order == "entropy":
        # The published score is the negative entropy.
        limit = None if threshold is None else -threshold
        return {"unmask": f"entropy:each={each},limit={limit}"}
    if threshold is not None:
        return {"unmask": f"threshold:value={threshold!r}"}
    blocks = -(-case["gen_length"] // case["block_length"])
    return {"unmask": "fixed", "steps": str(blocks * -(-case["block_length"] // each))}


def entropy_bound(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """As many as keep the bound, whose running maximum the published code takes along the batch."""
    params = case["params"]
    rule = f"gamma={params['gamma']!r},order={_named(params['alg'])},free=last"
    each = int(params.get("num_transfer_tokens", 1))
    unmask = f"entropy_bound:{rule},each={each}"
    yield stepwise(name, "eb", case, {"cache": "none", "unmask": unmask})


def cache(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """Rows that the last step points at; one token a step, or all that reach a threshold."""
    params = case["params"]
    settings = [f"{key}={params[key]!r}" for key in ("rollout_p", "current_k", "inflate_w")]
    rule = {
        "cache": f"d2cache:{','.join(settings)},sigma={params['sigma']!r},published=true",
        **_order(case, {"alg": "maskgit_plus", **params}),
    }
    yield stepwise(name, "d2cache", case, rule)


def _named(alg: str) -> str:
    if alg not in ORDERS:
        raise InexpressibleError(f"alg {alg!r} is no order of the engine")
    return ORDERS[alg]
