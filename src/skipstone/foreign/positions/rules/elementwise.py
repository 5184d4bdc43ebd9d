"""Rows that meet row by row: their places come together, and it is told where they clash."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from skipstone.foreign.positions.calls import Clash, TorchCall, tensors_in
from skipstone.foreign.positions.places import is_point, meet, ranked


def merged(
    call: TorchCall, operands: Sequence[Tensor], computed: Tensor | None = None
) -> Tensor | None:
    """Places of the operands together, broadcast; tells of those that clash."""
    shape = _broadcast(operands)
    merged, owner = None, None
    for operand in operands:
        places = call.places(operand)
        if places is None:
            continue
        # One row spread over many says nothing of what they are.
        if is_point(places) and operand.shape.numel() < math.prod(shape):
            continue
        places = ranked(places, len(shape))
        if merged is None or owner is None:
            merged, owner = places, operand
            continue
        ahead = _next_token(owner, merged, operand, places)
        if ahead is not None:
            merged, owner = ahead
            continue
        met = meet(merged, places)
        if met.clash is not None:
            clash = Clash(
                call.name, owner, operand, merged, places, met.clash, computed, call.in_place
            )
            call.clashed(clash)
        if met.places is None:
            return None
        merged = met.places
    return merged


def _next_token(
    a: Tensor, places_a: Tensor, b: Tensor, places_b: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Ids that meet what the rows one before them predict, as models of the next token do.

    Returns:
        Places and tensor of the ids, or of what was compared with ids; None if it is not so.
    """
    if a.is_floating_point() and b.is_floating_point():
        return None
    if places_a.shape != places_b.shape or places_a.numel() < 2:
        return None
    if bool((places_a == places_b + 1).all()) and not a.is_floating_point():
        return places_a, a
    if bool((places_b == places_a + 1).all()) and not b.is_floating_point():
        return places_b, b
    return None


def _broadcast(tensors: Sequence[Tensor]) -> list[int]:
    """The common shape; torch's own function for it is slow."""
    rank = max(tensor.ndim for tensor in tensors)
    shapes = [(1,) * (rank - tensor.ndim) + tuple(tensor.shape) for tensor in tensors]
    return [max(sizes) for sizes in zip(*shapes, strict=True)]


def pointwise(call: TorchCall) -> list[Tensor | None]:
    """Element by element, with broadcasting."""
    if not isinstance(call.out, Tensor):
        return []  # ``where`` of a condition alone gives indices
    operands = list(tensors_in((*call.args, *call.kwargs.values())))
    return [merged(call, operands)]


def alike(call: TorchCall) -> list[Tensor | None]:
    """What is computed along a row, or from one tensor: weights and shapes say nothing."""
    source = call.tensor(0, "input")
    return [call.places(source)]


def compared(call: TorchCall) -> list[Tensor | None]:
    """Two tensors that become one number, such as ``equal``."""
    a, b = call.tensor(0, "input"), call.tensor(1, "other")
    if a is not None and b is not None and a.shape == b.shape:
        merged(call, [a, b])
    return []


def copied(call: TorchCall) -> list[Tensor | None]:
    """``copy_``: new contents from end to end, whatever was there."""
    source, target = call.tensor(1, "src"), call.tensor(0, "self")
    places = call.places(source)
    return [] if places is None or target is None else [ranked(places, target.ndim)]
