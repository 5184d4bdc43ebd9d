"""Sums along a dimension, and products of matrices: a dimension goes, or is mixed."""

from __future__ import annotations

from torch import Tensor

from skipstone.foreign.positions.calls import TorchCall
from skipstone.foreign.positions.position_map import ranked, without
from skipstone.foreign.positions.rules.elementwise import merged, pointwise

_NORMS = frozenset({"norm", "linalg_norm", "linalg_vector_norm"})


def reduced(call: TorchCall) -> list[Tensor | None]:
    """Sums, largest values and the like; with two tensors, ``max`` works element by element."""
    source = call.tensor(0, "input")
    if source is None:
        return []
    index = 2 if call.name in _NORMS else 1
    dims = call.argument(index, "dim")
    if isinstance(dims, Tensor) or "other" in call.kwargs:
        return pointwise(call)
    positions, outputs = call.positions(source), call.outputs
    if positions is None or not outputs:
        return []
    if isinstance(dims, int):
        dims = (dims,)
    if not isinstance(dims, (list, tuple)) or not dims:
        dims = range(source.ndim)
    chosen = [dim for dim in dims if isinstance(dim, int)]
    keep = outputs[0].ndim == source.ndim
    return [without(positions, chosen, keep=keep)] * len(outputs)


def cosine(call: TorchCall) -> list[Tensor | None]:
    """Rows compared with rows."""
    a, b = call.tensor(0, "x1"), call.tensor(1, "x2")
    if a is None or b is None:
        return []
    out = call.outputs[0]
    positions = merged(call, [a, b], computed=out)
    if positions is None:
        return []
    dim = call.dim(2, 1, out.ndim + 1)
    return [without(ranked(positions, out.ndim + 1), [dim], keep=False)]


def rows_kept(call: TorchCall) -> list[Tensor | None]:
    """``linear``: the last dimension is mixed, the rows stay."""
    positions = call.positions(call.tensor(0, "input"))
    return [] if positions is None else [without(positions, [-1], keep=True)]


def looked_up(call: TorchCall) -> list[Tensor | None]:
    """``embedding``: each id becomes a row."""
    positions = call.positions(call.tensor(0, "input"))
    return [] if positions is None else [positions.unsqueeze(-1)]


def matmul(call: TorchCall) -> list[Tensor | None]:
    """The rows of the left factor; else the columns of the right one."""
    a, b = call.tensor(0, "input"), call.tensor(1, "other")
    if a is None or b is None or a.ndim < 2 or b.ndim < 2:
        return []
    rank = max(a.ndim, b.ndim)
    for factor, dim in ((a, -1), (b, -2)):
        positions = call.positions(factor)
        positions = None if positions is None else without(positions, [dim], keep=True)
        if positions is not None:
            return [ranked(positions, rank)]
    return []


def attended(call: TorchCall) -> list[Tensor | None]:
    """Attention: the rows of the queries; keys and values must be of the same rows."""
    query, key, value = (call.tensor(i, n) for i, n in enumerate(("query", "key", "value")))
    if key is not None and value is not None and key.shape == value.shape:
        merged(call, [key, value])
    positions = call.positions(query)
    return [] if positions is None else [without(positions, [-1], keep=True)]
