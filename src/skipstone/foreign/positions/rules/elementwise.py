"""Rows combined element by element: so are their positions, and clashes are reported."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from skipstone.foreign.positions.calls import Clash, TorchCall, tensors_in
from skipstone.foreign.positions.position_map import is_point, meet, ranked


def merged(
    call: TorchCall, operands: Sequence[Tensor], computed: Tensor | None = None
) -> Tensor | None:
    """Positions of the operands combined, broadcast; reports those that clash."""
    shape = _broadcast(operands)
    merged, owner = None, None
    for operand in operands:
        positions = call.positions(operand)
        if positions is None:
            continue
        # One row spread over many says nothing of what they are.
        if is_point(positions) and operand.shape.numel() < math.prod(shape):
            continue
        positions = ranked(positions, len(shape))
        if merged is None or owner is None:
            merged, owner = positions, operand
            continue
        ahead = _next_token(owner, merged, operand, positions)
        if ahead is not None:
            merged, owner = ahead
            continue
        met = meet(merged, positions)
        if met.clash is not None:
            clash = Clash(
                call.name, owner, operand, merged, positions, met.clash, computed, call.in_place
            )
            call.clashed(clash)
        if met.positions is None:
            return None
        merged = met.positions
    return merged


def _next_token(
    a: Tensor, positions_a: Tensor, b: Tensor, positions_b: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Ids that meet what the rows one before them predict, as models of the next token do.

    Returns:
        Positions and tensor of the ids, or of what was compared with ids; None if it is not so.
    """
    if a.is_floating_point() and b.is_floating_point():
        return None
    if positions_a.shape != positions_b.shape or positions_a.numel() < 2:
        return None
    if bool((positions_a == positions_b + 1).all()) and not a.is_floating_point():
        return positions_a, a
    if bool((positions_b == positions_a + 1).all()) and not b.is_floating_point():
        return positions_b, b
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
    return [call.positions(source)]


def compared(call: TorchCall) -> list[Tensor | None]:
    """Two tensors that become one number, such as ``equal``."""
    a, b = call.tensor(0, "input"), call.tensor(1, "other")
    if a is not None and b is not None and a.shape == b.shape:
        merged(call, [a, b])
    return []


def copied(call: TorchCall) -> list[Tensor | None]:
    """``copy_``: new contents from end to end, whatever was there."""
    source, target = call.tensor(1, "src"), call.tensor(0, "self")
    positions = call.positions(source)
    return [] if positions is None or target is None else [ranked(positions, target.ndim)]
