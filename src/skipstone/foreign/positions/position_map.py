"""Which absolute token position each row of a tensor stands for.

The positions of a tensor are an int32 tensor on the host with as many dimensions, of size 1 in
every dimension along which the position does not change, and -1 where it is not known. States
[B, L, D] have positions [1, L, 1]; after ``states[0, 5]`` they are [1], a single position for the
whole vector: a *point*.

The position map has the positions of all tensors that are alive, and keeps none of them alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

UNKNOWN = -1


def spread(positions: Tensor, shape: Sequence[int]) -> Tensor:
    """Positions of every single element of a tensor of this shape, as a view."""
    return positions.expand(tuple(shape))


def compressed(full: Tensor) -> Tensor | None:
    """Positions from those of every single element; None if no position is known."""
    for dim, size in enumerate(full.shape):
        if size < 2:
            continue
        first = full.narrow(dim, 0, 1)
        if full.stride(dim) == 0 or bool((full == first).all()):
            full = first
    return full if known(full) else None


def known(positions: Tensor) -> bool:
    """Whether any position is known."""
    return positions.numel() > 0 and int(positions.max()) >= 0


def ranked(positions: Tensor, rank: int) -> Tensor:
    """The same positions with dimensions of size 1 before, as broadcasting adds them."""
    missing = rank - positions.ndim
    return positions.view((1,) * missing + tuple(positions.shape)) if missing else positions


def fits(positions: Tensor, tensor: Tensor) -> bool:
    """Whether positions can be those of a tensor of this shape."""
    if positions.ndim > tensor.ndim:
        return False
    sizes = zip(reversed(positions.shape), reversed(tensor.shape), strict=False)
    return all(p in (1, n) for p, n in sizes)


def is_point(positions: Tensor) -> bool:
    """Whether the whole tensor stands for one position."""
    return positions.numel() == 1


def without(positions: Tensor, dims: Sequence[int], *, keep: bool) -> Tensor | None:
    """Positions after a reduction over ``dims``: a position survives if all that went in had it."""
    left = positions
    for dim in dims:
        if left.shape[dim] > 1:
            low, high = left.amin(dim, keepdim=True), left.amax(dim, keepdim=True)
            left = torch.where(low == high, low, UNKNOWN)
    if not keep:
        gone = {dim % positions.ndim for dim in dims}
        left = left.reshape([size for d, size in enumerate(left.shape) if d not in gone])
    return left if known(left) else None


class Meeting(NamedTuple):
    """What comes of combining two tensors element by element."""

    positions: Tensor | None
    """Of the result; None if no position is left."""
    clash: Tensor | None
    """bool, in the shape of the positions: rows of different positions met; None if nowhere."""


def meet(a: Tensor, b: Tensor) -> Meeting:
    """Combine positions as broadcasting does.

    Two tensors meet row by row if their positions change along a common dimension, or if each is a
    point. Anything else (one row with many, queries with keys) is an outer combination: nothing
    clashes, and the result keeps the positions of the one that has more than a point.
    """
    if a is b or (a.shape == b.shape and torch.equal(a, b)):
        return Meeting(a, None)
    rank = max(a.ndim, b.ndim)
    a, b = ranked(a, rank), ranked(b, rank)
    along_a, along_b = ({d for d, n in enumerate(p.shape) if n > 1} for p in (a, b))
    if (along_a or along_b) and not along_a & along_b:
        one_sided = b if not along_a else a if not along_b else None
        return Meeting(one_sided, None)
    clash = (a >= 0) & (b >= 0) & (a != b)
    positions = torch.where(clash, UNKNOWN, torch.maximum(a, b))
    return Meeting(positions if known(positions) else None, clash if bool(clash.any()) else None)


Ref = weakref.ref[Tensor]


class Tag(NamedTuple):
    """What is known about a tensor."""

    positions: Tensor
    base: Ref | None = None
    """The larger tensor that this one was cut from; None if it was not."""
    canvas: int | None = None
    """The run whose token ids these are; None if they are not ids of a canvas."""
    product: tuple[Ref, Ref] | None = None
    """The factors, if this is a product in low precision, or sums of one."""


# Tags of tensors that are gone are removed when there are so many.
_MANY = 1 << 14


class PositionMap:
    """Positions of the tensors that are alive, and what else is known of these, by identity."""

    def __init__(self) -> None:
        """Know nothing."""
        # Twenty times faster than torch's weak dictionary, and asked several times a call.
        self._tags = dict[int, tuple[Ref, Tag]]()
        self._many = _MANY
        self._one = dict[tuple[tuple[int, ...], bytes], Tensor]()
        self._ones = set[int]()

    def get(self, tensor: object) -> Tag | None:
        """What is known about a tensor; None if nothing, or if it is no tensor."""
        found = self._tags.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def set(self, tensor: Tensor, tag: Tag) -> None:
        """Note what is known about a tensor; equal positions become one and the same tensor."""
        self.note(tensor, tag._replace(positions=self.one(tag.positions)))

    def note(self, tensor: Tensor, tag: Tag) -> None:
        """The same for positions that are that one tensor already."""
        tags = self._tags
        tags[id(tensor)] = (weakref.ref(tensor), tag)
        if len(tags) > self._many:
            self._tags = {key: held for key, held in tags.items() if held[0]() is not None}
            self._many = max(_MANY, 2 * len(self._tags))

    def one(self, positions: Tensor) -> Tensor:
        """The one tensor that stands for all positions with this content."""
        if id(positions) in self._ones:
            return positions
        content = (tuple(positions.shape), positions.numpy().tobytes())
        one = self._one.setdefault(content, positions)
        self._ones.add(id(one))
        return one

    def drop(self, tensor: object) -> None:
        """Forget a tensor: what it stands for is not known any more."""
        self._tags.pop(id(tensor), None)

    def base(self, tensor: Tensor) -> Tensor:
        """The largest tensor alive that this one was cut from, or itself."""
        tag = self.get(tensor)
        base = None if tag is None or tag.base is None else tag.base()
        return tensor if base is None else base

    def related(self, a: Tensor, b: Tensor) -> bool:
        """Whether both are parts of one tensor.

        Combining a tensor with itself, one row further on, is done on purpose.
        """
        if self.base(a) is self.base(b):
            return True
        same = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
        return same and a.numel() > 0
