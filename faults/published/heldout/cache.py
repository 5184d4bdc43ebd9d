"""Faults of a cache: what is stored, when, for whom, and in which layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from faults.published.code import Call, Code, Context, together
from faults.published.fault import planted
from faults.published.heldout.loop import batch
from faults.published.heldout.rule import rule
from faults.published.jobs import both, fixed, sure
from faults.truth import CACHED, Truth, anywhere, in_block, outside_block, when
from skipstone.record import RunRecord, StepRecord

DUAL = {"dinfer": sure("dual"), "fast-dllm": both("dual")[:1]}
EITHER = {"dinfer": sure("dual")[:1] + sure("prefix")[1:], "fast-dllm": both("dual")[:1]}
BLOCKS = {"sdar": sure("dynamic", block_length=8)[:1] + fixed("static", block_length=8)[:1]}
_LOOPS = ("generate.generate_with_dual_cache", "generate.generate_with_prefix_cache")


def _stored(code: Code, change: Callable[[list[Any]], list[Any]]) -> Context:
    """Change what a refresh stores: keys and values in turn, [B, K, L, D] each."""
    if code.base.name == "dinfer":

        def make(update: Any) -> Any:
            def wrong(self: Any, flat: Any, *more: Any) -> Any:
                return update(self, change(flat) if isinstance(flat, list) else flat, *more)

            return wrong

        return code.change("cache.DiffusionKVCacheManager.update", make)

    def again(pairs: list[Any]) -> list[Any]:
        flat = change([t for pair in pairs for t in pair])
        return list(zip(flat[::2], flat[1::2], strict=True))

    where = _LOOPS[code.job.loop == "prefix"]
    statement = "past_key_values = planted(past_key_values)"
    return together(
        patch.dict(vars(code.modules["generate"]), {"planted": again}),
        code.insert(where, statement, after="past_key_values", nth=0),
    )


# --- whose, and where -----------------------------------------------------------------------------


@planted(
    "wrong-cache-row",
    at=Truth(CACHED, (1,), outside_block),
    into={"dinfer": batch(sure("dual")[:1]) + batch(sure("prefix")[:1])},
)
def cache_of_the_other_request(code: Code) -> Context:
    """The requests of a batch are stored in the opposite order."""
    return _stored(code, lambda flat: [t.flip(0) for t in flat])


@planted("wrong-cache-row: layer 2 reads", at=Truth(CACHED, (2,), anywhere), into=EITHER)
def values_of_the_layer_below(code: Code) -> Context:
    """Each layer reads its own keys, and the values of the layer before it."""

    def below(flat: list[Any]) -> list[Any]:
        values = [flat[1], *(t.clone() for t in flat[1:-2:2])]
        return [t for pair in zip(flat[::2], values, strict=True) for t in pair]

    return _stored(code, below)


@planted("wrong-cache-row", at=Truth(CACHED, (1,), anywhere), into=EITHER)
def heads_and_rows_are_mixed_up(code: Code) -> Context:
    """The cache is filled as if rows came before heads, so that both are scattered."""

    def mix(t: Tensor) -> Tensor:
        return t.transpose(1, 2).reshape(t.shape)

    return _stored(code, lambda flat: [mix(t) for t in flat])


@planted("wrong-cache-row: head", "module-bug: head", at=Truth(CACHED, (1,), anywhere), into=DUAL)
def heads_in_the_opposite_order(code: Code) -> Context:
    """The cache holds the heads in the opposite order."""
    return _stored(code, lambda flat: [t.flip(1) for t in flat])


@planted("leftover-state", "stale-kv", at=Truth(CACHED, (1,), outside_block), into=DUAL)
def answer_is_never_cached(code: Code) -> Context:
    """Only the prompt is written into the cache; the rest of it stays zero, and is attended."""
    size = code.job.gen_length

    def empty(t: Tensor) -> Tensor:
        return torch.cat([t[:, :, :-size], torch.zeros_like(t[:, :, -size:])], 2)

    return _stored(code, lambda flat: [empty(t) for t in flat])


@planted("quantised", at=Truth(CACHED, (1,), anywhere), into=EITHER)
def cache_in_float8(code: Code) -> Context:
    """Keys and values are stored in float8 without a scale."""
    return _stored(code, lambda flat: [t.to(torch.float8_e4m3fn).to(t) for t in flat])


# --- when -----------------------------------------------------------------------------------------


def _closing(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The call that stores the first block."""
    return next((s for s in reversed(b.steps) if s.block == 0), None)


@planted("stale-kv", at=Truth(_closing, where=in_block), into=BLOCKS)
def stored_before_its_last_tokens(code: Code) -> Context:
    """A block is stored as its last step saw it, with the masks that this step filled."""
    before = dict[str, Tensor]()

    def late(call: Call) -> None:
        ids = call.args[0]
        if call.kwargs["store_kv"] and "ids" in before:
            call.args[0] = before.pop("ids")
        elif not call.kwargs["store_kv"]:
            before["ids"] = ids.clone()

    return code.calls(late)


# --- who sees what, and from where ----------------------------------------------------------------


@planted("position-encoding", at=Truth(CACHED, (1,), anywhere), into=BLOCKS)
def positions_of_a_block_one_too_large(code: Code) -> Context:
    """Rows behind the cache are told positions one too large."""

    def shift(call: Call) -> None:
        if call.number:
            call.kwargs["position_ids"] = call.kwargs["position_ids"] + 1

    return code.calls(shift)


@planted(
    "visible-set",
    "other-inputs: attention_mask",
    at=Truth(CACHED, (1,), in_block),
    into=BLOCKS,
)
def block_sees_itself_from_the_left_only(code: Code) -> Context:
    """Within its own block a row sees only what stands left of it."""
    left = "cur_attn_mask = cur_attn_mask.tril(num_block * block_length)"
    return rule(code, left, after="cur_attn_mask", nth=-1)


@planted(
    "visible-set",
    "other-inputs: attention_mask",
    at=Truth(when(lambda step: True), (1,), anywhere),
    into={"sdar": tuple(replace(j, block_length=4) for j in BLOCKS["sdar"])},
)
def prompt_sees_its_later_blocks(code: Code) -> Context:
    """The blocks of the prompt see each other in both directions."""
    return rule(code, "cur_attn_mask = torch.ones_like(cur_attn_mask)", after="cur_attn_mask")
