"""One call of attention, in one layout whatever the code that made it.

Shape letters: C batch of the call, H query heads, G heads of keys and values, N rows, K keys,
W width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SeenAttention:
    """One call of attention."""

    query_CHNW: Tensor
    key_CGKW: Tensor
    value_CGKW: Tensor
    mask: Tensor | None
    """Added to the scores, or true where a key is seen; [..., N, K]."""
    causal: bool
    scale: float
    drops: float
    """Share of the weights that it was asked to drop at random."""
    mixed_CHNW: Tensor
    scored: torch.dtype | None = None
    """What the scores were rounded to before the softmax; None if nobody saw them."""
    weighed: torch.dtype | None = None
    """What the weights were rounded to before they were used; None if nobody saw them."""


def by_heads(x: Tensor, outer: Sequence[int], batch: int, *, whole: bool = False) -> Tensor | None:
    """A tensor of attention as [C or 1, G, A, B], whatever its axes before the last two are.

    Args:
        x: [*outer, A, B]; what all share may be 1.
        outer: the axes of the scores: one for samples and heads, or the samples first.
        batch: C.
        whole: have every head stand there, also where all share one, or some do.

    Returns:
        None if the axes cannot be samples and heads.
    """
    if not outer:
        return x[None, None]
    # One sample at a time, or nothing but their number distinguishes the samples.
    if outer[0] != batch and not (outer[0] == 1 and len(outer) > 1):
        if outer[0] % batch or batch in outer[1:]:
            return None
        x = x.unflatten(0, (batch, -1)) if x.shape[0] == outer[0] else x.unsqueeze(0)
        outer = batch, outer[0] // batch, *outer[1:]
    if len(outer) == 1:
        return x.unsqueeze(1)
    heads, mine = tuple(outer[1:]), tuple(x.shape[1:-2])
    same = next((i for i, (a, b) in enumerate(zip(heads, mine, strict=True)) if a != b), len(heads))
    # Heads that share one are adjacent: then one is enough.
    if whole or any(size != 1 for size in mine[same:]):
        x = x.expand(x.shape[0], *heads, *x.shape[-2:])
    return x.flatten(1, -3)
