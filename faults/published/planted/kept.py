"""Faults of a cache in the hands of the loop: between the call that made it and those that read it.

Shape letters: B batch, H heads, L positions, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from faults.published.code import Call, Code, Context
from faults.published.fault import planted
from faults.published.jobs import FIRST, both, fixed
from faults.published.planted.cache import AFTER_THE_REFRESH
from faults.truth import CACHED, Truth, anywhere, in_prompt, outside_block

Pairs = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, as [B, H, L, W]; what is written into them is in the cache."""

DUAL = {"fast-dllm": both("dual"), "dream-fast": both("dual")[:1], "dllm-fast": both("dual")[:1]}
PREFIX = {"fast-dllm": both("prefix")[:1], "dream-fast": both("prefix")[1:]}
EITHER = {
    "fast-dllm": both("dual")[:1] + both("prefix")[1:],
    "dream-fast": both("dual")[1:],
    "dllm-fast": both("prefix")[:1],
}
_SHARED = tuple((id * 3 + 11) % 150 for id in FIRST)
TWO = tuple(replace(job, prompts=(FIRST, _SHARED)) for job in fixed("prefix")[:1])


def _pairs(call: Call) -> Pairs:
    """The cache of a call; keys without heads have one."""

    def by_heads(store: Tensor) -> Tensor:
        return store.unsqueeze(1) if store.ndim == 3 else store

    return [(by_heads(k), by_heads(v)) for k, v in call.kwargs["past_key_values"]]


def _once_a_block(code: Code, change: Callable[[Pairs], None]) -> Context:
    """Change a cache in its place, when a call reads it for the first time."""
    fresh = True

    def hand_over(call: Call) -> None:
        nonlocal fresh
        if call.cached and fresh:
            change(_pairs(call))
        fresh = not call.cached

    return code.calls(hand_over)


def _round(x: Tensor, largest: Tensor, levels: float) -> None:
    step = largest.clamp_min(1e-12) / levels
    x.copy_((x / step).round() * step)


@planted("quantised", at=Truth(CACHED, (1,), anywhere), into=EITHER)
def eight_bits_by_channel(code: Code) -> Context:
    """The cache is stored in eight bits, with one scale for each channel."""

    def change(pairs: Pairs) -> None:
        for x in (x for pair in pairs for x in pair):
            _round(x, x.abs().amax(-2, keepdim=True), 127)

    return _once_a_block(code, change)


@planted("quantised", at=Truth(CACHED, (1,), anywhere), into=EITHER)
def four_bits_by_row(code: Code) -> Context:
    """The cache is stored in four bits, with one scale for each row."""

    def change(pairs: Pairs) -> None:
        for x in (x for pair in pairs for x in pair):
            _round(x, x.abs().amax((1, -1), keepdim=True), 7)

    return _once_a_block(code, change)


@planted("quantised", at=Truth(CACHED, (1,), anywhere), into=EITHER)
def eight_bit_floats(code: Code) -> Context:
    """The cache is stored as float8, with one scale for each tensor."""

    def change(pairs: Pairs) -> None:
        for x in (x for pair in pairs for x in pair):
            scale = x.abs().amax() / 448
            x.copy_((x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale)

    return _once_a_block(code, change)


@planted("stale-kv", at=Truth(AFTER_THE_REFRESH, (4,), outside_block), into=DUAL)
def last_layer_not_refreshed(code: Code) -> Context:
    """The last layer goes on with its cache of the block before."""
    old = list[Tensor]()
    fresh = False

    def keep(call: Call) -> None:
        nonlocal fresh
        if call.cached:
            last = _pairs(call)[-1]
            if fresh and old:
                for x, before in zip(last, old, strict=True):
                    x.copy_(before)
            old[:] = [x.clone() for x in last]
        fresh = not call.cached

    return code.calls(keep)


@planted("stale-kv", at=Truth(AFTER_THE_REFRESH, (1,), outside_block), into=DUAL)
def refresh_a_step_late(code: Code) -> Context:
    """The first cached step of a block reads the cache of the block before."""
    old = list[tuple[Tensor, Tensor]]()
    fresh = False

    def late(call: Call) -> None:
        nonlocal fresh
        if call.cached:
            new = call.kwargs["past_key_values"]
            if fresh and old:
                call.kwargs["past_key_values"] = [(k.clone(), v.clone()) for k, v in old]
            old[:] = new
        fresh = not call.cached

    return code.calls(late)


@planted("wrong-cache-row", at=Truth(CACHED, (2,), anywhere), into=EITHER)
def cache_of_one_layer_for_all(code: Code) -> Context:
    """Every layer reads the cache of the first."""

    def change(pairs: Pairs) -> None:
        for k, v in pairs[1:]:
            k.copy_(pairs[0][0])
            v.copy_(pairs[0][1])

    return _once_a_block(code, change)


@planted("wrong-cache-row", at=Truth(CACHED, (1,), in_prompt), into=EITHER)
def prompt_in_reverse(code: Code) -> Context:
    """Rows of the prompt lie in the cache in reverse order."""

    def change(pairs: Pairs) -> None:
        end = code.job.ids.shape[1]
        for x in (x for pair in pairs for x in pair):
            x[:, :, :end] = x[:, :, :end].flip(2).clone()

    return _once_a_block(code, change)


@planted("wrong-cache-row", at=Truth(CACHED, (1,), in_prompt), into=EITHER)
def heads_in_another_order(code: Code) -> Context:
    """The heads of the cached keys are in another order than those of the values."""

    def change(pairs: Pairs) -> None:
        heads = 4 if code.base.name != "dream-fast" else 2
        for k, _ in pairs:
            if k.shape[1] == 1:
                k.copy_(k.unflatten(-1, (heads, -1)).roll(1, -2).flatten(-2))
            else:
                k.copy_(k.roll(1, 1))

    return _once_a_block(code, change)


@planted("wrong-cache-row", at=Truth(CACHED, (1,), anywhere), into={"dllm-fast": TWO})
def requests_of_a_batch_mixed(code: Code) -> Context:
    """Each of two requests reads the cache of the other."""

    def change(pairs: Pairs) -> None:
        for x in (x for pair in pairs for x in pair):
            x.copy_(x.flip(0).clone())

    return _once_a_block(code, change)


@planted("stale-kv", at=Truth(CACHED, (1,), in_prompt), into=EITHER)
def first_rows_never_written(code: Code) -> Context:
    """The first four rows of the cache are zeros."""

    def change(pairs: Pairs) -> None:
        for x in (x for pair in pairs for x in pair):
            x[:, :, :4] = 0

    return _once_a_block(code, change)


@planted("visible-set", at=Truth(AFTER_THE_REFRESH, (1,), anywhere), into=PREFIX)
def cache_cropped_to_the_prompt(code: Code) -> Context:
    """Every block sees the prompt, and not the blocks between."""

    def crop(call: Call) -> None:
        if call.cached:
            axis = 1 if code.base.name == "dream-fast" else 2
            end = code.job.ids.shape[1]
            call.kwargs["past_key_values"] = [
                tuple(x.narrow(axis, 0, end) for x in pair)
                for pair in call.kwargs["past_key_values"]
            ]

    return code.calls(crop)


@planted("wrong-cache-row", "module-bug", at=Truth(CACHED, (1,), anywhere), into=EITHER)
def values_at_half_their_size(code: Code) -> Context:
    """Cached values are scaled, as by a scale that is applied twice."""

    def change(pairs: Pairs) -> None:
        for _, v in pairs:
            v.mul_(0.5)

    return _once_a_block(code, change)
