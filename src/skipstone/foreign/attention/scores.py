"""Scores of attention on their way from one product to the next: what each function makes of them.

Shape letters: C batch of the call, H heads, N rows, K keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skipstone.foreign.attention.call import SeenAttention, by_heads
from skipstone.foreign.attention.contraction import Axes, Contraction, aligned, is_weight

LEFT, RIGHT = "left", "right"
"""The axes that only one of the two tensors of the product has: rows and keys, in either order."""
# What is added to hide a key is far below any score.
_HIDES = -1e3


@dataclass(frozen=True, eq=False)
class AttentionScores:
    """A tensor that is a product of two, times a number, plus something, and perhaps a softmax."""

    left: Tensor
    """[*product, LEFT, width]"""
    right: Tensor
    """[*product, RIGHT, width]"""
    product: tuple[int, ...]
    """Sizes of the axes that both have, or that only one of them runs along."""
    axes: Axes
    """Of the tensor now: LEFT and RIGHT, and others."""
    outer: Axes
    """The others, in the order of samples and heads."""
    batch: int
    scale: float = 1.0
    added: tuple[tuple[Tensor, float], ...] = ()
    """What was added, [C or 1, H or 1, LEFT or 1, RIGHT or 1], and times what."""
    drops: float = 0.0
    scored: torch.dtype | None = None
    weighed: torch.dtype | None = None
    exponential: bool = False
    """Whether they are powers of e."""
    shares: bool = False
    """Whether they add up to one: a softmax, in one function or in several."""
    odd: str = ""
    """A function that did something to them that is not followed."""

    # What a function makes of them. Each gives None where they cannot be followed any further.

    def scaled(self, factor: object, *, divides: bool) -> AttentionScores | None:
        """Times a number, or divided by one."""
        if isinstance(factor, Tensor) and factor.numel() == 1:
            factor = float(factor)
        if not isinstance(factor, (int, float)) or factor == 0:
            return None
        times = 1 / factor if divides else float(factor)
        added = tuple((tensor, by * times) for tensor, by in self.added)
        return replace(self, scale=self.scale * times, added=added)

    def plus(self, other: object, shape: torch.Size, factor: float = 1.0) -> AttentionScores | None:
        """With something added to them; a number alone changes no softmax."""
        if isinstance(other, (int, float)):
            return self
        if not isinstance(other, Tensor):
            return None
        placed = self._placed(other, shape)
        return None if placed is None else replace(self, added=(*self.added, (placed, factor)))

    def filled(self, where: object, value: object, shape: torch.Size) -> AttentionScores | None:
        """With a number in some places, which hides them."""
        if isinstance(value, Tensor) and value.numel() == 1:
            value = float(value)
        if not isinstance(where, Tensor) or not isinstance(value, (int, float)):
            return None
        if not value < _HIDES:
            return None
        hidden = torch.zeros(where.shape, dtype=torch.float32, device=where.device)
        return self.plus(hidden.masked_fill_(where, value), shape)

    def moved(self, function: Callable[[Tensor], object], now: Tensor) -> AttentionScores | None:
        """With their axes in another order."""
        # Sizes that all differ tell which axis went where.
        sizes = range(2, 2 + len(self.axes))
        out = function(torch.empty(tuple(sizes), device="meta"))
        if not isinstance(out, Tensor) or out.dim() != now.dim():
            return None
        new = iter(range(now.dim()))
        axes = tuple(
            self.axes[size - 2] if size in sizes else f"new{next(new)}" for size in out.shape
        )
        return self._with_axes(axes)

    def shaped(self, before: torch.Size, after: torch.Size) -> AttentionScores | None:
        """With axes joined or split: rows and keys stay what they are."""
        if [a for a in self.axes if a in self.outer] != list(self.outer):
            return None
        axes = [f"outer{i}" for i in range(len(after))]
        for old, made in _groups(before, after):
            kept = [i for i in old if self.axes[i] in (LEFT, RIGHT)]
            same = [j for j in made if kept and after[j] == before[kept[0]]]
            if len(kept) > 1 or (kept and not same):
                return None
            if kept:
                axes[same[-1]] = self.axes[kept[0]]
        return self._with_axes(tuple(axes))

    def _with_axes(self, axes: Axes) -> AttentionScores | None:
        if {LEFT, RIGHT} - set(axes):
            return None
        others = [axis for axis in axes if axis not in (LEFT, RIGHT)]
        known = [axis for axis in self.outer if axis in others]
        if known and len(known) < len(others):
            # An axis of one came in: it stands where it was put.
            known = others
        return replace(self, axes=axes, outer=tuple(known or others))

    def rounded(self, dtype: torch.dtype) -> AttentionScores:
        """As the result of a function has them."""
        if self.exponential or self.shares:
            return replace(self, weighed=_coarser(self.weighed, dtype))
        return replace(self, scored=_coarser(self.scored, dtype))

    # Where they end.

    def used(self, found: Contraction, shape: torch.Size) -> SeenAttention | None:
        """As weights of a sum over keys.

        Args:
            found: the product that they are the left side of.
            shape: of them.

        Returns:
            None if they are not summed over rows or keys, or samples and heads look alike.
        """
        names = dict(zip(found.left_axes, self.axes, strict=True))
        over = [names[a] for a in found.left_axes if a not in found.out_axes]
        width = [a for a in found.right_axes if a not in names]
        if len(over) != 1 or over[0] not in (LEFT, RIGHT) or len(width) != 1:
            return None
        if not self.exponential:
            return None
        keys = over[0]
        rows = LEFT if keys == RIGHT else RIGHT
        value_axes = tuple(names.get(a, "width") for a in found.right_axes)
        mixed_axes = tuple(names.get(a, "width") for a in found.out_axes)
        if set(mixed_axes) - {*self.outer, rows, "width"} or rows not in mixed_axes:
            return None
        outer = self._sizes(shape)
        value = aligned(found.right, value_axes, (*self.outer, keys, "width"))
        mixed = aligned(found.out, mixed_axes, (*self.outer, rows, "width"))
        query, key = (self.left, self.right) if keys == RIGHT else (self.right, self.left)
        parts = (
            by_heads(query, self.product, self.batch, whole=True),
            by_heads(key, self.product, self.batch),
            by_heads(value, outer, self.batch),
            by_heads(mixed, outer, self.batch, whole=True),
        )
        if any(part is None for part in parts):
            return None
        query, key, value, mixed = (part for part in parts if part is not None)
        return SeenAttention(
            query_CHNW=query,
            key_CGKW=key,
            value_CGKW=value,
            mask=self._mask(turned=keys == LEFT),
            causal=False,
            scale=self.scale,
            drops=self.drops,
            mixed_CHNW=mixed,
            scored=self.scored,
            weighed=self.weighed,
        )

    def _mask(self, *, turned: bool) -> Tensor | None:
        """All that was added, as one tensor."""
        if not self.added:
            return None
        first, factor = self.added[0]
        if len(self.added) == 1 and (factor == 1 or first.dtype == torch.bool):
            total = first
        else:
            total = sum((x.float() * by for x, by in self.added), start=first.new_zeros(()).float())
        return total.transpose(-1, -2) if turned else total

    def _placed(self, other: Tensor, shape: torch.Size) -> Tensor | None:
        """Something that was added, by samples and heads."""
        if other.dim() > len(self.axes):
            return None
        for _ in range(len(self.axes) - other.dim()):
            other = other.unsqueeze(0)
        other = aligned(other, self.axes, (*self.outer, LEFT, RIGHT))
        outer = self._sizes(shape)
        alone = all(size == 1 for size in other.shape[1 if len(outer) > 1 else 0 : -2])
        return by_heads(other, outer, self.batch, whole=not alone)

    def _sizes(self, shape: torch.Size) -> tuple[int, ...]:
        """Of the axes of samples and heads."""
        return tuple(shape[self.axes.index(axis)] for axis in self.outer)


def scores_of(found: Contraction, batch: int, rows: int) -> AttentionScores | None:
    """What a product is, if it may be scores of attention; None if not.

    Args:
        found: of two tensors, neither of which is a weight.
        batch: of the call.
        rows: of the states of the layer.
    """
    if is_weight(found.left) or is_weight(found.right):
        return None
    shared = [a for a in found.left_axes if a in found.right_axes]
    summed = [a for a in shared if a not in found.out_axes]
    left, right = (
        [a for a in mine if a not in other and a in found.out_axes]
        for mine, other in (
            (found.left_axes, found.right_axes),
            (found.right_axes, found.left_axes),
        )
    )
    if len(summed) != 1 or not left or not right:
        return None
    # A sum of one product each is an outer product, such as that of angles and positions.
    if len(shared) + len(left) != found.left.dim() or found.left.shape[_at(found, summed[0])] == 1:
        return None
    sizes = dict(zip(found.out_axes, found.out.shape, strict=True))
    row, column = _one(left, sizes, rows), _one(right, sizes, rows)
    outer = tuple(a for a in _order(found) if a not in (row, column, summed[0]))
    return AttentionScores(
        left=aligned(found.left, found.left_axes, (*outer, row, summed[0])),
        right=aligned(found.right, found.right_axes, (*outer, column, summed[0])),
        product=tuple(sizes[a] for a in outer),
        axes=tuple({row: LEFT, column: RIGHT}.get(a, a) for a in found.out_axes),
        outer=outer,
        batch=batch,
        scored=found.out.dtype,
        scale=found.factor,
    )


def _at(found: Contraction, axis: str) -> int:
    return found.left_axes.index(axis)


def _one(axes: Sequence[str], sizes: dict[str, int], rows: int) -> str:
    """Which of the axes that only one side has are its rows: the others are heads that share."""
    return next((a for a in reversed(axes) if sizes[a] == rows), axes[-1])


def _order(found: Contraction) -> list[str]:
    """Axes of a product as the first tensor that has all outer ones has them."""
    mine = found.left_axes if len(found.left_axes) >= len(found.right_axes) else found.right_axes
    return [*mine, *(a for a in found.out_axes if a not in mine)]


def _coarser(a: torch.dtype | None, b: torch.dtype) -> torch.dtype:
    """The dtype that keeps less of a number."""
    if a is None or not b.is_floating_point:
        return a or b
    return a if torch.finfo(a).eps >= torch.finfo(b).eps else b


def _groups(
    before: Sequence[int], after: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Axes before and after a view that hold the same numbers, group by group."""
    found = list[tuple[tuple[int, ...], tuple[int, ...]]]()
    i = j = 0
    while i < len(before) and j < len(after):
        old, new, a, b = [i], [j], before[i], after[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b and i < len(before):
                old, a, i = [*old, i], a * before[i], i + 1
            elif b < a and j < len(after):
                new, b, j = [*new, j], b * after[j], j + 1
            else:
                return found
        found.append((tuple(old), tuple(new)))
    if i < len(before):
        found.append((tuple(range(i, len(before))), ()))
    if j < len(after):
        found.append(((), tuple(range(j, len(after)))))
    return found
