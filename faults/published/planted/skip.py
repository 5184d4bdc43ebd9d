"""Faults of a cache by position ids, and of rows that leave early, as ES-dLLM has them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from faults.published.code import Code, Context
from faults.published.fault import planted
from faults.published.jobs import both
from faults.truth import (
    CACHED,
    Truth,
    anywhere,
    diverged,
    in_block,
    near_block,
    skipped,
    skips_part,
)

CACHE = {"es-dllm": both("cache")}
SKIP = {"es-dllm": both("skip")}
_WRITE = "early_skipping.update_fetch_kvcache"


@planted("stale-skipped-state", at=Truth(skips_part, where=skipped), into=SKIP)
def states_never_updated(code: Code) -> Context:
    """The states that a row is compared with stay those of the first step."""

    def make(update: Any) -> Any:
        def wrong(data_cache: Any, hidden_state: Tensor, position_ids: Any = None) -> None:
            if not data_cache.get("planted"):
                update(data_cache, hidden_state, position_ids)
                data_cache["planted"] = True

        return wrong

    return code.change("early_skipping.update_hidden_state", make)


@planted("misaligned-rows", "stale-skipped-state", at=Truth(skips_part, where=skipped), into=SKIP)
def states_compared_by_row_number(code: Code) -> Context:
    """A row is compared with the state of the position that has its row number."""
    where = "early_skipping.skip_in_hidden_state"
    rows = "last_hidden_state = data_cache['hidden_state'][:, : hidden_state.shape[1]]"
    return code.insert(where, rows, after="last_hidden_state")


@planted(
    "stale-skipped-state",
    at=Truth(skips_part, where=skipped),
    into=SKIP,
    settings=lambda job: replace(job, options=(("proportion_steps", [(1.0, 0.0), (0.25, 0.25)]),)),
)
def more_rows_leave(code: Code) -> Context:
    """Fewer rows go on, and from an earlier layer."""
    return nullcontext()


@planted("wrong-cache-row", at=Truth(CACHED, (1,), near_block), into=CACHE)
def written_one_row_off(code: Code) -> Context:
    """Cached steps write their keys and values one position too far to the left."""

    def make(write: Any) -> Any:
        def wrong(
            cache: Any, key: Tensor, value: Tensor, query: Any = None, position_ids: Any = None
        ) -> Any:
            whole = position_ids.shape[1] == cache["key"].shape[2]
            shifted = position_ids if whole else position_ids - 1
            return write(cache, key, value, query=query, position_ids=shifted)

        return wrong

    return code.change(_WRITE, make)


@planted("stale-kv", at=Truth(CACHED, (1,), in_block), into=CACHE)
def values_not_scattered(code: Code) -> Context:
    """Cached steps write their keys, and not their values."""

    def make(write: Any) -> Any:
        def wrong(
            cache: Any, key: Tensor, value: Tensor, query: Any = None, position_ids: Any = None
        ) -> Any:
            if position_ids.shape[1] < cache["key"].shape[2]:
                value = cache["value"].gather(2, position_ids[:, None, :, None].expand_as(value))
            return write(cache, key, value, query=query, position_ids=position_ids)

        return wrong

    return code.change(_WRITE, make)


@planted("position-encoding", at=Truth(CACHED, (1,), anywhere), into=CACHE)
def positions_one_too_small(code: Code) -> Context:
    """Cached steps rotate queries and keys as if they stood one further left."""
    where = "early_skipping.get_qk_position"
    shift = """
    if position_ids is not None and position_ids.shape[1] < data_cache["real_position"].shape[1]:
        q_pos = q_pos - 1
    """
    return code.insert(where, shift, after="q_pos", nth=1)


@planted(
    "stale-kv",
    at=Truth(diverged, where=anywhere),
    into={"es-dllm": both("skip")[:1]},
    settings=lambda job: replace(job, options=(("prompt_update_freq", 256),)),
)
def prompt_refreshed_never(code: Code) -> Context:
    """The prompt is computed once, and not every eight steps."""
    return nullcontext()
