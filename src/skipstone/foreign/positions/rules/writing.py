"""Rows that are written into a tensor: the slots must be of the same positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skipstone.foreign.positions.calls import Clash, TorchCall, on_host
from skipstone.foreign.positions.position_map import UNKNOWN, compressed, meet, spread


def assigned(call: TorchCall) -> list[Tensor | None]:
    """``target[index] = value``, and ``index_put``."""
    target, value = call.args[0], call.argument(2, "values")
    index = on_host(call.args[1])
    if call.name == "index_put":
        index = tuple(index)
    return _written(call, target, value, index, lambda positions: positions)


def index_copied(call: TorchCall) -> list[Tensor | None]:
    """Whole rows along one dimension."""
    target, index = call.tensor(0, "self"), call.tensor(2, "index")
    if target is None or index is None:
        return []
    before = (slice(None),) * call.dim(1, 0, target.ndim)
    value = call.argument(3, "source")
    return _written(call, target, value, (*before, on_host(index)), lambda positions: positions)


def scattered(call: TorchCall) -> list[Tensor | None]:
    """Single elements along one dimension."""
    target, index = call.tensor(0, "input"), call.tensor(2, "index")
    if target is None or index is None:
        return []
    used = tuple(slice(n) for n in index.shape)
    grid = list(torch.meshgrid([torch.arange(n) for n in index.shape], indexing="ij"))
    grid[call.dim(1, 0, target.ndim)] = on_host(index)
    value = call.argument(3, "src")
    return _written(call, target, value, tuple(grid), lambda positions: positions[used])


def _written(
    call: TorchCall, target: object, value: object, index: Any, used: Callable[[Tensor], Tensor]
) -> list[Tensor | None]:
    """Rows of ``value`` into the slots of a tensor; ``used`` takes the part that is written.

    A slot without known position takes that of the row. A write of all slots gives the tensor a new
    meaning; a write of some must bring rows of the same positions. Numbers that are not rows leave
    the slots what they are.
    """
    assert isinstance(target, Tensor)
    known = call.positions(target)
    if not isinstance(value, Tensor) or call.positions(value) is None:
        return [known]
    if known is None and not target.is_floating_point():
        return []  # a new canvas: tokens may come from anywhere
    before = call.full(target)
    there = before[index]
    arriving = _fitted(used(call.full(value)), there.shape)
    if torch.equal(there, arriving):
        return [compressed(before)]
    slots = before.clone()
    clash = None if _covers(call, target, index) else _clash(call, target, value, there, arriving)
    if clash is None:
        slots[index] = torch.where(arriving < 0, there, arriving)
    else:
        slots[index] = torch.where(clash, UNKNOWN, torch.maximum(there, arriving))
    return [compressed(slots)]


def _clash(
    call: TorchCall, target: Tensor, value: Tensor, there: Tensor, arriving: Tensor
) -> Tensor | None:
    """Where rows are written to slots of other positions; reports it."""
    slots, rows = compressed(there), compressed(arriving)
    if slots is None or rows is None:
        return None
    clash = meet(slots, rows).clash
    if clash is not None:
        call.clashed(Clash(call.name, target, value, slots, rows, clash, None, True))
    return clash


def _fitted(full: Tensor, shape: torch.Size) -> Tensor:
    """Positions of a value, broadcast to the slots it is written into."""
    while full.ndim > len(shape):
        full = full.squeeze(0)
    return full.expand(shape)


def _covers(call: TorchCall, target: Tensor, index: Any) -> bool:
    """Whether a write reaches every row whose position is known."""
    positions = call.positions(target)
    if positions is None:
        return True
    rows = torch.arange(positions.numel()).view(positions.shape)
    return spread(rows, target.shape)[index].unique().numel() == positions.numel()
