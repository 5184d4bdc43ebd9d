"""Faults of the key/value cache: what is kept, where it is written, who reads it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from torch import Tensor

from faults.published.code import Call, Code, Context, together
from faults.published.fault import planted
from faults.published.jobs import both, fixed, sure
from faults.truth import (
    CACHED,
    Truth,
    anywhere,
    diverged,
    in_block,
    near_block,
    outside_block,
    when,
)

DUAL = {"fast-dllm": both("dual")}
DUALS = {"fast-dllm": both("dual"), "dllm-fast": sure("dual")[:1], "dream-fast": both("dual")}
PREFIX = {
    "fast-dllm": both("prefix"),
    "dllm-fast": both("prefix")[:1],
    "dream-fast": both("prefix")[1:],
}
CACHED_LOOPS = {"fast-dllm": both("dual")[:1] + both("prefix")[1:]}

# The refresh itself is computed rightly; who goes on from it reads the old cache.
AFTER_THE_REFRESH = when(lambda step: step.block == 1 and step.step > 0)

_LOOPS = {
    "fast-dllm": ("generate.generate_with_dual_cache", "generate.generate_with_prefix_cache"),
    "dllm-fast": ("sampler.FastdLLMLLaDASampler.sample",),
    "dream-fast": ("generate.DreamGenerationMixin._sample",),
}
_ATTENTION = {
    "fast-dllm": "model.LLaDABlock.attention",
    "dllm-fast": "model.FastdLLMLLaDABlock.attention",
    "dream-fast": "model.DreamSdpaAttention.forward",
}


def _in_loops(code: Code, statement: str, *, after: str, nth: int | None) -> Context:
    """Put a statement into every cached loop of a code base."""
    names = _LOOPS[code.base.name]
    return together(*(code.insert(name, statement, after=after, nth=nth) for name in names))


@planted("stale-kv", at=Truth(CACHED, (1,), in_block), into=DUALS)
def values_not_written(code: Code) -> Context:
    """Keys of the block are replaced in the cache, values stay those of the refresh."""
    where, _, statement = _old_rows(code)
    return code.insert(where, statement, after="past_key", nth=1)


@planted("stale-kv", at=Truth(CACHED, (1,), in_block), into=DUALS)
def keys_not_written(code: Code) -> Context:
    """Values of the block are replaced in the cache, keys stay those of the refresh."""
    where, statement, _ = _old_rows(code)
    after = "batch_replace_indices" if code.base.name == "dllm-fast" else "replace_indices"
    return code.insert(where, statement, after=after, nth=0)


def _old_rows(code: Code) -> tuple[str, str, str]:
    """The attention of a code base, and what takes the old keys, or values, for the new ones."""
    rows = {
        "fast-dllm": (
            "k = past_key[:, :, replace_indices]",
            "v = past_value[:, :, replace_indices]",
        ),
        "dllm-fast": (
            "k = past_key[:, :, batch_replace_indices]",
            "v = past_value[:, :, batch_replace_indices]",
        ),
        "dream-fast": (
            "key_states = past_key[:, replace_indices]",
            "value_states = past_value[:, replace_indices]",
        ),
    }
    return (_ATTENTION[code.base.name], *rows[code.base.name])


@planted("wrong-cache-row", at=Truth(CACHED, (1,), near_block), into=DUALS)
def replace_position_off_by_one(code: Code) -> Context:
    """The rows of the block are written one position too far to the right."""

    def shift(call: Call) -> None:
        where = call.kwargs.get("replace_position")
        if where is not None:
            call.kwargs["replace_position"] = where.roll(1, 1)

    return code.calls(shift)


@planted(
    "wrong-cache-row",
    at=Truth(CACHED, (2,), anywhere),
    into=CACHED_LOOPS | {"dream-fast": both("dual")[:1]},
)
def caches_of_two_layers_swapped(code: Code) -> Context:
    """Layer 2 reads the cache of layer 3, and layer 3 that of layer 2."""
    swap = "past_key_values[1], past_key_values[2] = past_key_values[2], past_key_values[1]"
    nth = 1 if code.base.name == "dream-fast" else 0
    return _in_loops(code, swap, after="past_key_values", nth=nth)


@planted("wrong-cache-row", at=Truth(CACHED, (1,), outside_block), into=CACHED_LOOPS)
def keys_and_values_swapped(code: Code) -> Context:
    """What is stored as keys are the values, and the other way round."""
    swap = "past_key_values = [(v, k) for k, v in past_key_values]"
    return _in_loops(code, swap, after="past_key_values", nth=0)


@planted(
    "stale-kv",
    at=Truth(AFTER_THE_REFRESH, (1,), outside_block),
    into={**DUAL, "dream-fast": both("dual")[:1]},
)
def refresh_forgotten(code: Code) -> Context:
    """Every block goes on with the cache of the first one."""
    keep = """
    kept = past_key_values if num_block == 0 else kept
    past_key_values = kept
    """
    nth = 1 if code.base.name == "dream-fast" else 0
    return _in_loops(code, keep, after="past_key_values", nth=nth)


@planted("leftover-state", "wrong-cache-row", at=Truth(CACHED, (1,), outside_block), into=DUAL)
@contextmanager
def cache_of_an_earlier_request(code: Code) -> Generator[None]:
    """The cache of the first block is that of the request before."""
    keep = """
    if num_block == 0:
        past_key_values = globals().setdefault("planted_cache", past_key_values)
        past_key_values = [(k.clone(), v.clone()) for k, v in past_key_values]
    """
    other = tuple((id + 7) % 150 for id in code.job.prompts[0])
    with _in_loops(code, keep, after="past_key_values", nth=0):
        code.decode(replace(code.job, prompts=(other,)))
        try:
            yield
        finally:
            vars(code.modules["generate"]).pop("planted_cache", None)


@planted(
    "visible-set",
    "position-encoding",
    at=Truth(CACHED, (1,), anywhere),
    into={"fast-dllm": both("prefix")},
)
def cache_not_cropped(code: Code) -> Context:
    """The rows that are computed again are seen twice, old and new, and stand behind the end."""
    statement = "past_key_values = output.past_key_values"
    return code.insert(_LOOPS["fast-dllm"][1], statement, after="past_key_values", nth=1)


@planted(
    "visible-set",
    "position-encoding",
    "region-boundaries",
    at=Truth(CACHED, (1,), anywhere),
    into=PREFIX,
)
def cache_cropped_one_short(code: Code) -> Context:
    """The last key before the block is cut off, so that all behind it stand one further left."""

    def crop(call: Call) -> None:
        if call.cached:
            axis = 1 if code.base.name == "dream-fast" else 2
            call.kwargs["past_key_values"] = [
                tuple(x.narrow(axis, 0, x.shape[axis] - 1) for x in pair)
                for pair in call.kwargs["past_key_values"]
            ]

    return code.calls(crop)


@planted("visible-set", at=Truth(CACHED, (1,), in_block), into=DUAL)
def suffix_not_seen(code: Code) -> Context:
    """A cached step attends only what stands up to the end of its block."""
    cut = """
    if replace_position is not None:
        k, v = k[:, :, : replace_indices.max() + 1], v[:, :, : replace_indices.max() + 1]
    """
    return code.insert(_ATTENTION["fast-dllm"], cut, after="present")


@planted("visible-set", at=Truth(CACHED, (1,), in_block), into={"fast-dllm": both("dual")})
def prompt_not_seen(code: Code) -> Context:
    """A cached step does not attend the first half of the prompt."""
    cut = """
    if layer_past is not None:
        mask = torch.zeros(query_len, key_len)
        mask[:, :4] = -torch.inf
        self.hidden_keys = mask
    else:
        self.hidden_keys = None
    """

    def make(attend: Any) -> Any:
        def wrong(
            self: Any, q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, **more: Any
        ) -> Any:
            return attend(self, q, k, v, attn_mask=getattr(self, "hidden_keys", None), **more)

        return wrong

    return together(
        code.insert(_ATTENTION["fast-dllm"], cut, after="query_len"),
        code.change("model.LLaDABlock._scaled_dot_product_attention", make),
    )


@planted("position-encoding", at=Truth(CACHED, (1,), in_block), into=DUAL)
def rotation_one_too_small(code: Code) -> Context:
    """Queries of a cached step are rotated as if they stood one position further left."""

    def make(forward: Any) -> Any:
        def wrong(self: Any, q: Tensor, k: Tensor, end: Tensor | None = None) -> Any:
            return forward(self, q, k, None if end is None else end - 1)

        return wrong

    return code.change("model.RotaryEmbedding.forward", make)


@planted("position-encoding", at=Truth(CACHED, (1,), anywhere), into=CACHED_LOOPS)
def cached_keys_rotated_twice(code: Code) -> Context:
    """Keys are stored after their rotation, and rotated again when they are read."""
    store = "present = (k, v) if use_cache else None"
    return code.insert(_ATTENTION["fast-dllm"], store, after="q", nth=-2)


@planted(
    "quantised",
    at=Truth(CACHED, (1,), anywhere),
    into={"fast-dllm": both("dual") + both("prefix")[:1]},
)
def cache_in_eight_bits(code: Code) -> Context:
    """Keys and values are stored in eight bits with one scale for each row."""
    store = """
    if present is not None:
        scales = [t.abs().amax(-1, keepdim=True) / 127 for t in present]
        present = tuple((t / s).round() * s for t, s in zip(present, scales))
    """
    return code.insert(_ATTENTION["fast-dllm"], store, after="present")


@planted("quantised", at=Truth(CACHED, (1,), anywhere), into={"fast-dllm": fixed("dual")})
def cache_in_bfloat16(code: Code) -> Context:
    """Keys and values are stored in bfloat16."""
    store = """
    if present is not None:
        present = tuple(t.bfloat16().to(t.dtype) for t in present)
    """
    return code.insert(_ATTENTION["fast-dllm"], store, after="present")


# --- a cache that a token enters a step after it was committed ------------------------------------

DELAYED = {"dkv-cache": fixed("decode")}
PARTIAL = when(lambda step: step.rows.size < step.entered_age.size)
"""The first step that leaves rows out."""


@planted("position-encoding", at=Truth(PARTIAL, (1,), anywhere), into=DELAYED)
def angles_of_other_rows(code: Code) -> Context:
    """Rows that are left are rotated as if each stood at its neighbour's position."""
    method = code.net.get_pos_rotary_embedding_cache

    def wrong(left: Tensor) -> object:
        return method(left.roll(1, 1))

    return patch.object(code.net, "get_pos_rotary_embedding_cache", wrong)


@planted(
    "stale-kv",
    at=Truth(diverged, where=anywhere),
    into=DELAYED,
    settings=lambda job: replace(job, options=(("cache_reloading_step", 100),)),
)
def reloaded_never(code: Code) -> Context:
    """The cache is not computed anew every four steps."""
    return nullcontext()
