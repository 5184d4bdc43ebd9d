"""Faults of a cache: which rows are renewed, when, and under which position they are kept."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from faults.published.bases.dllm_cache import register
from faults.published.code import Call, Code, Context
from faults.published.fault import planted
from faults.published.jobs import fixed, sure
from faults.truth import (
    CACHED,
    Truth,
    anywhere,
    diverged,
    in_block,
    near_block,
    scored_otherwise,
)
from skipstone.record import RunRecord, StepRecord

KEPT = {"dllm-cache": fixed("cached")}
"""Features of prompt and answer are kept in the layers; the first one is always computed."""
DUAL = {"d2cache": fixed("dual")[:1] + sure("dual")[:1]}


# --- features that are kept in the layers ---------------------------------------------------------


@planted(
    "stale-kv",
    "stale-skipped-state",
    at=Truth(scored_otherwise, (2,), anywhere),
    into={"dllm-cache": fixed("cached", share=0.0)[:1] + fixed("cached")[1:]},
)
def answer_is_never_renewed(code: Code) -> Context:
    """Features of the answer are computed once, and not every other step."""

    def once(self: Any, layer_id: int = 0) -> bool:
        return self.current_step == 1

    return code.change("cache.dLLMCache.refresh_gen", lambda _: once)


@planted("stale-kv", "stale-skipped-state", at=Truth(CACHED, (2,), anywhere), into=KEPT)
def rows_that_changed_least_are_renewed(code: Code) -> Context:
    """The rows that are most like before are computed again, and not the least like."""

    def most(_: object) -> Callable[..., Tensor]:
        def wrong(new: Tensor, old: Tensor, share: float = 0.5, layer_id: int = 0) -> Tensor:
            alike = torch.cosine_similarity(new, old, dim=-1)
            return alike.topk(int(new.shape[1] * share)).indices

        return wrong

    return code.change("hook.refresh_index", most)


@planted("position-encoding", at=Truth(CACHED, (2,), anywhere), into=KEPT)
def renewed_rows_count_from_the_answer(code: Code) -> Context:
    """Queries of renewed rows are rotated as if the answer began at position 0."""

    def make(rotate: Any) -> Any:
        def wrong(self: Any, q: Tensor, k: Tensor, q_index: Tensor | None = None) -> Any:
            prompt = code.modules["cache"].dLLMCache().prompt_length
            if q_index is not None and int(q_index.min()) >= prompt:
                q_index = q_index - prompt
            return rotate(self, q, k, q_index=q_index)

        return wrong

    return _registered(code, code.change("hook.RoPe_forward", make))


@contextmanager
def _registered(code: Code, change: Context) -> Generator[None]:
    with change:
        register(code.modules, code.net)
        yield


@planted(
    "leftover-state",
    "stale-kv",
    "stale-skipped-state",
    at=Truth(lambda a, b: b.steps[0], (2,), anywhere),
    into={"dllm-cache": fixed("cached", prompt_steps=7, answer_steps=3)[:1]},
)
def cache_of_the_request_before(code: Code) -> Context:
    """The cache is not emptied, and its counter of steps goes on, when a new request comes."""

    def nothing(self: object) -> None:
        pass

    return code.change("cache.dLLMCache.init", lambda _: nothing)


# --- a cache that chooses its rows by a mask ------------------------------------------------------


@planted("region-boundaries", at=Truth(CACHED, where=near_block), into=DUAL)
def rows_are_chosen_one_too_late(code: Code) -> Context:
    """The mask of the rows that are computed starts and ends one position too late."""
    late = "q_mask = q_mask.roll(1, 1)"
    return code.insert("prefix.PrefixCache.on_step_end", late, after="q_mask", nth=0)


def read(code: Code, change: Callable[[Any, Any, int], None]) -> Context:
    """Let ``change`` work on cache, context and number of each attention, before it is computed."""

    def make(attention: Any) -> Any:
        @contextmanager
        def wrong(self: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Generator[Any]:
            with attention(self, layer_idx, *args, **kwargs) as ctx:
                change(self, ctx, layer_idx)
                yield ctx

        return wrong

    return code.change("prefix.PrefixCache.attention", make)


@planted("wrong-cache-row", at=Truth(CACHED, (1,), in_block), into=DUAL)
def keys_of_the_block_are_read_backwards(code: Code) -> Context:
    """Keys of the computed rows are read from the cache in the opposite order."""

    def flip(cache: Any, ctx: Any, _: int) -> None:
        if cache.active_q_mask is not None:
            rows = cache.active_q_mask[0].nonzero()[:, 0]
            ctx.k = ctx.k.index_copy(1, rows, ctx.k[:, rows.flip(0)])

    return read(code, flip)


@planted("position-encoding", at=Truth(CACHED, (1,), in_block), into=DUAL)
def chosen_rows_are_counted_from_zero(code: Code) -> Context:
    """Queries of the computed rows are rotated by their number in the call."""

    def first(_: object) -> Callable[..., tuple[Tensor, Tensor]]:
        def wrong(ids: Tensor, rows: Tensor | None = None, _: object = None) -> Any:
            return (ids if rows is None else ids[:, : int(rows[0].sum())]), ids

        return wrong

    return code.change("cache.AttentionContext.select_position_ids", first)


@planted(
    "stale-kv",
    "region-boundaries",
    at=Truth(CACHED, where=anywhere),
    into={"d2cache": fixed("d2cache")[:1] + sure("d2cache")[:1]},
)
def new_tokens_are_not_computed(code: Code) -> Context:
    """Rows that were committed in the step before keep the keys and values of their mask."""
    forget = "response_mask[row_indices, col_indices] = False"
    where = "d2cache.d2Cache.on_step_end"
    return code.insert(where, forget, after="response_mask", nth=-1)


# --- caches as tuples, dictionaries and objects ---------------------------------------------------


@planted(
    "wrong-cache-row",
    "position-encoding",
    "region-boundaries",
    "visible-set",
    at=Truth(CACHED, (1,), anywhere),
    into={"fast-dllm": fixed("prefix")[:1] + sure("prefix")[1:]},
)
def prefix_is_one_too_long(code: Code) -> Context:
    """The prefix that is kept has the first row of the block, too, which is then there twice."""
    kept = "tuple(t[:, :, : current_block_start + 1] for t in pair)"
    longer = f"past_key_values = [{kept} for pair in output.past_key_values]"
    where = "generate.generate_with_prefix_cache"
    return code.insert(where, longer, after="past_key_values", nth=1)


@planted("wrong-cache-row", at=Truth(CACHED, (1,), anywhere), into={"es-dllm": fixed("plain")[:1]})
def values_are_written_to_the_first_rows(code: Code) -> Context:
    """Keys go to the positions of their rows, values to the first rows of the cache."""

    def make(update: Any) -> Any:
        def wrong(data_cache: Any, key: Tensor, value: Tensor, **more: Any) -> Any:
            kept = data_cache["value"].clone()
            update(data_cache, key, value, **more)
            if value.shape[2] < kept.shape[2]:
                data_cache["value"].copy_(kept)
                data_cache["value"][:, :, : value.shape[2]] = value
            return data_cache["key"], data_cache["value"]

        return wrong

    return code.change("early_skipping.update_fetch_kvcache", make)


@planted(
    "region-boundaries",
    "stale-kv",
    at=Truth(diverged),
    into={"dkv-cache": fixed("plain")[:1]},
)
def tokens_are_cached_a_step_later(code: Code) -> Context:
    """What a step commits does not count as committed for the cache until the next step."""
    late = "all_transfer_index = all_transfer_index & ~transfer_index"
    return code.insert("generate.generate", late, after="all_transfer_index", nth=0)


@planted(
    "position-encoding",
    at=Truth(scored_otherwise, (1,), anywhere),
    into={"dkv-cache": fixed("plain")[:1]},
)
def angles_of_the_rows_one_off(code: Code) -> Context:
    """The table of angles for the computed rows is made for the rows one to the right."""

    def make(get: Any) -> Any:
        def wrong(self: Any, rows: Tensor) -> Any:
            return get(self, rows.roll(1, 1))

        return wrong

    return code.change("model.LLaDAModelLM.get_pos_rotary_embedding_cache", make)


def _stores(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The call that stores the first block, which is the last of that block."""
    return next((step for step in reversed(b.steps) if step.block == 0), None)


_BLOCKS = fixed("static", block_length=8)[:1] + sure("dynamic", block_length=8)[:1]


def _computed(step: StepRecord) -> list[int]:
    """Corrected after the first run: SDAR's first block begins within the prompt."""
    return step.rows.tolist()


@planted("position-encoding", at=Truth(_stores, (1,), _computed), into={"sdar": _BLOCKS})
def blocks_are_stored_from_position_zero(code: Code) -> Context:
    """The call that stores a finished block counts positions from its own start."""

    def restart(call: Call) -> None:
        ids = call.kwargs["position_ids"]
        if call.number and call.kwargs["store_kv"]:
            call.kwargs["position_ids"] = ids - ids[:, :1]

    return code.calls(restart)


@planted(
    "visible-set",
    "other-inputs: attention_mask",
    at=Truth(CACHED, (1,), _computed),
    into={"sdar": tuple(replace(job, block_length=4) for job in _BLOCKS)},
)
def only_the_last_block_is_seen(code: Code) -> Context:
    """A block sees itself and the block before it, and no more of the cache."""

    def near(call: Call) -> None:
        seen = call.kwargs["attention_mask"]
        rows = call.args[0].shape[1]
        if call.number and seen.shape[-1] > 2 * rows:
            call.kwargs["attention_mask"] = seen.clone()
            call.kwargs["attention_mask"][..., : -2 * rows] = 0

    return code.calls(near)
