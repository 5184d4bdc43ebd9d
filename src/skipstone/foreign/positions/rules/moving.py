"""Rows that are moved: their positions are moved by the same function."""

from __future__ import annotations

import torch
from torch import Tensor

from skipstone.foreign.positions.calls import TorchCall, on_host, tensors_in
from skipstone.foreign.positions.position_map import compressed
from skipstone.foreign.positions.rules.elementwise import merged

_CAT = frozenset({"cat", "concat", "concatenate"})


def moved(call: TorchCall) -> list[Tensor | None]:
    """Rows were moved; their positions are moved by the same function."""
    source = call.args[0]
    if not isinstance(source, Tensor) or call.positions(source) is None:
        return []
    if any(out.dtype != source.dtype for out in call.outputs):
        return []  # ``view`` of the same bytes as another type
    rest, named = on_host(call.args[1:]), {k: on_host(v) for k, v in call.kwargs.items()}
    moved = call.func(call.full(source), *rest, **named)
    return [compressed(m) for m in tensors_in((moved,))]


def reshaped(call: TorchCall) -> list[Tensor | None]:
    """``view`` needs strides that positions do not have; the shape says it all."""
    source = call.args[0]
    if not isinstance(source, Tensor) or call.positions(source) is None:
        return []
    out = call.outputs[0]
    if out.dtype != source.dtype:
        return []
    return [compressed(call.full(source).reshape(out.shape))]


def indexed(call: TorchCall) -> list[Tensor | None]:
    """Rows by index; a table without positions, looked up by rows that have them, gets theirs."""
    table, index = call.args[0], call.args[1]
    if isinstance(table, Tensor) and call.positions(table) is None:
        positions = call.positions(index) if isinstance(index, Tensor) else None
        if positions is None or not isinstance(index, Tensor) or index.dtype == torch.bool:
            return []
        return [positions.view(*positions.shape, *(1,) * (table.ndim - 1))]
    return moved(call)


def joined(call: TorchCall) -> list[Tensor | None]:
    """Tensors one after the other.

    A position that then stands there twice was repeated on purpose, as where logits are shifted by
    one; what the rows stand for after that is not known.
    """
    pieces = call.argument(0, "tensors")
    if not isinstance(pieces, (list, tuple)):
        return []
    labels = [call.full(piece) for piece in tensors_in(pieces)]
    named = {k: v for k, v in call.kwargs.items() if k != "tensors"}
    positions = compressed(call.func(labels, *call.args[1:], **named))
    if positions is not None and call.name in _CAT and _repeats(positions):
        return []
    return [positions]


def _repeats(positions: Tensor) -> bool:
    """Whether positions that change along one dimension have a position twice."""
    known = positions[positions >= 0]
    one_dim = max(positions.shape, default=1) == positions.numel()
    return one_dim and positions.numel() > 1 and known.unique().numel() < known.numel()


def gathered(call: TorchCall) -> list[Tensor | None]:
    """Values picked from each row by an index, which should be of the same rows."""
    source, index = call.tensor(0, "input"), call.tensor(2, "index")
    if source is None or index is None:
        return []
    dim = call.dim(1, 0, source.ndim)
    mine, picked = call.positions(source), call.positions(index)
    if mine is not None and picked is not None and mine.shape[dim] == 1:
        merged(call, [source, index])
    if mine is None:
        return []
    return [compressed(call.full(source).gather(dim, on_host(index).long()))]


def picked(call: TorchCall) -> list[Tensor | None]:
    """``take_along_dim``: the index comes before the dimension."""
    source, index = call.tensor(0, "input"), call.tensor(1, "indices")
    dim = call.argument(2, "dim")
    if source is None or index is None or not isinstance(dim, int):
        return []
    return [compressed(torch.take_along_dim(call.full(source), on_host(index).long(), dim))]


def reordered(call: TorchCall) -> list[Tensor | None]:
    """Rows in a new order, which the last output tells."""
    source = call.tensor(0, "input")
    if source is None or call.positions(source) is None or source.ndim == 0:
        return []
    outputs = call.outputs
    dim = call.dim(2 if call.name == "topk" else 1, -1, source.ndim)
    order = on_host(outputs[-1])
    positions = compressed(torch.take_along_dim(call.full(source), order, dim))
    return [positions] * len(outputs)
