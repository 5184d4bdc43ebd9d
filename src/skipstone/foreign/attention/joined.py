"""Calls of attention that are parts of one: heads, samples or rows that are computed one by one.

Shape letters: C batch of the call, H query heads, G heads of keys and values, N rows, K keys,
W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from skipstone.foreign.attention.call import SeenAttention

_SAMPLES, _HEADS, _ROWS = 0, 1, 2


def joined(calls: Sequence[SeenAttention], batch: int, rows: int) -> tuple[SeenAttention, ...]:
    """The calls of a layer, those that are parts of one as one.

    Args:
        calls: in order.
        batch: of the layer.
        rows: of the states that went into it.
    """
    if len(calls) < 2 or len({_numbers(call) for call in calls}) > 1:
        return tuple(calls)
    sizes = [call.query_CHNW.shape for call in calls]
    if sum(n for _, _, n, _ in sizes) == rows and _one_store(calls):
        return (_along(_ROWS, calls),)
    if len({(c.query_CHNW.shape, c.key_CGKW.shape, c.value_CGKW.shape) for c in calls}) > 1:
        return tuple(calls)
    if batch == len(calls) and sizes[0][0] == 1:
        return (_along(_SAMPLES, calls),)
    # Of several heads each would be a call of its own kind, not a part of one.
    return (_along(_HEADS, calls),) if sizes[0][1] == 1 else tuple(calls)


def _numbers(call: SeenAttention) -> tuple[object, ...]:
    has_mask = call.mask is not None
    return call.scale, call.causal, call.drops, call.scored, call.weighed, has_mask


def _one_store(calls: Sequence[SeenAttention]) -> bool:
    """Whether all read the same keys and values."""
    return len({(_place(call.key_CGKW), _place(call.value_CGKW)) for call in calls}) == 1


def _place(x: Tensor) -> tuple[object, ...]:
    return x.data_ptr(), x.shape, x.stride()


def _along(axis: int, calls: Sequence[SeenAttention]) -> SeenAttention:
    """One call of several, which differ along one axis."""

    def together(part: Callable[[SeenAttention], Tensor]) -> Tensor:
        return torch.cat([part(call) for call in calls], axis)

    first = calls[0]
    mask = None if first.mask is None else together(_whole_mask)
    if axis == _ROWS:
        key, value = first.key_CGKW, first.value_CGKW
    else:
        key, value = together(lambda c: c.key_CGKW), together(lambda c: c.value_CGKW)
    return replace(
        first,
        query_CHNW=together(lambda c: c.query_CHNW),
        key_CGKW=key,
        value_CGKW=value,
        mask=mask,
        mixed_CHNW=together(lambda c: c.mixed_CHNW),
    )


def _whole_mask(call: SeenAttention) -> Tensor:
    """The mask of a call for each of its samples, heads and rows."""
    assert call.mask is not None
    shape = (*call.query_CHNW.shape[:3], call.key_CGKW.shape[2])
    return call.mask.expand(shape)
