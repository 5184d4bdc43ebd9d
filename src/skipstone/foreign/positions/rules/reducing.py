"""Sums along a dimension, and products of matrices: a dimension goes, or is mixed."""

from __future__ import annotations

from torch import Tensor

from skipstone.foreign.positions.calls import TorchCall
from skipstone.foreign.positions.places import ranked, without
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
    places, outputs = call.places(source), call.outputs
    if places is None or not outputs:
        return []
    if isinstance(dims, int):
        dims = (dims,)
    if not isinstance(dims, (list, tuple)) or not dims:
        dims = range(source.ndim)
    chosen = [dim for dim in dims if isinstance(dim, int)]
    keep = outputs[0].ndim == source.ndim
    return [without(places, chosen, keep=keep)] * len(outputs)


def cosine(call: TorchCall) -> list[Tensor | None]:
    """Rows compared with rows."""
    a, b = call.tensor(0, "x1"), call.tensor(1, "x2")
    if a is None or b is None:
        return []
    out = call.outputs[0]
    places = merged(call, [a, b], computed=out)
    if places is None:
        return []
    dim = call.dim(2, 1, out.ndim + 1)
    return [without(ranked(places, out.ndim + 1), [dim], keep=False)]


def rows_kept(call: TorchCall) -> list[Tensor | None]:
    """``linear``: the last dimension is mixed, the rows stay."""
    places = call.places(call.tensor(0, "input"))
    return [] if places is None else [without(places, [-1], keep=True)]


def looked_up(call: TorchCall) -> list[Tensor | None]:
    """``embedding``: each id becomes a row."""
    places = call.places(call.tensor(0, "input"))
    return [] if places is None else [places.unsqueeze(-1)]


def matmul(call: TorchCall) -> list[Tensor | None]:
    """The rows of the left factor; else the columns of the right one."""
    a, b = call.tensor(0, "input"), call.tensor(1, "other")
    if a is None or b is None or a.ndim < 2 or b.ndim < 2:
        return []
    rank = max(a.ndim, b.ndim)
    for factor, dim in ((a, -1), (b, -2)):
        places = call.places(factor)
        places = None if places is None else without(places, [dim], keep=True)
        if places is not None:
            return [ranked(places, rank)]
    return []


def attended(call: TorchCall) -> list[Tensor | None]:
    """Attention: the rows of the queries; keys and values must be of the same rows."""
    query, key, value = (call.tensor(i, n) for i, n in enumerate(("query", "key", "value")))
    if key is not None and value is not None and key.shape == value.shape:
        merged(call, [key, value])
    places = call.places(query)
    return [] if places is None else [without(places, [-1], keep=True)]
