"""How positions travel through each torch function.

Whatever moves rows moves their places by the same function. Whatever works element by element
brings places together, and says so if they clash. Whatever is not listed forgets them: positions
are never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from skipstone.foreign.positions.calls import Call, Clash, on_host, tensors_in
from skipstone.foreign.positions.places import (
    UNKNOWN,
    compressed,
    is_point,
    meet,
    ranked,
    spread,
    without,
)

Rule = Callable[[Call], Sequence[Tensor | None]]
"""Places of the outputs of a call, in order."""


# Moving rows.


def _moved(call: Call) -> list[Tensor | None]:
    """Rows went elsewhere; their places go by the same function."""
    source = call.args[0]
    if not isinstance(source, Tensor) or call.places(source) is None:
        return []
    if any(out.dtype != source.dtype for out in call.outputs):
        return []  # ``view`` of the same bytes as another type
    rest, named = on_host(call.args[1:]), {k: on_host(v) for k, v in call.kwargs.items()}
    moved = call.func(call.full(source), *rest, **named)
    return [compressed(m) for m in tensors_in((moved,))]


def _reshaped(call: Call) -> list[Tensor | None]:
    """``view`` needs strides that places do not have; the shape says it all."""
    source = call.args[0]
    if not isinstance(source, Tensor) or call.places(source) is None:
        return []
    out = call.outputs[0]
    if out.dtype != source.dtype:
        return []
    return [compressed(call.full(source).reshape(out.shape))]


def _indexed(call: Call) -> list[Tensor | None]:
    """Rows by index; a table without positions, looked up by rows that have them, gets theirs."""
    table, index = call.args[0], call.args[1]
    if isinstance(table, Tensor) and call.places(table) is None:
        places = call.places(index) if isinstance(index, Tensor) else None
        if places is None or not isinstance(index, Tensor) or index.dtype == torch.bool:
            return []
        return [places.view(*places.shape, *(1,) * (table.ndim - 1))]
    return _moved(call)


def _joined(call: Call) -> list[Tensor | None]:
    """Tensors one after the other.

    A position that then stands there twice was repeated on purpose, as where logits are shifted by
    one; what the rows stand for after that is not known.
    """
    pieces = call.argument(0, "tensors")
    if not isinstance(pieces, (list, tuple)):
        return []
    labels = [call.full(piece) for piece in tensors_in(pieces)]
    named = {k: v for k, v in call.kwargs.items() if k != "tensors"}
    places = compressed(call.func(labels, *call.args[1:], **named))
    if places is not None and call.name in _CAT and _repeats(places):
        return []
    return [places]


def _repeats(places: Tensor) -> bool:
    """Whether places that change along one dimension have a position twice."""
    known = places[places >= 0]
    one_dim = max(places.shape, default=1) == places.numel()
    return one_dim and places.numel() > 1 and known.unique().numel() < known.numel()


def _gathered(call: Call) -> list[Tensor | None]:
    """Values picked from each row by an index, which should be of the same rows."""
    source, index = call.tensor(0, "input"), call.tensor(2, "index")
    if source is None or index is None:
        return []
    dim = call.dim(1, 0, source.ndim)
    mine, picked = call.places(source), call.places(index)
    if mine is not None and picked is not None and mine.shape[dim] == 1:
        _merged(call, [source, index])
    if mine is None:
        return []
    return [compressed(call.full(source).gather(dim, on_host(index).long()))]


def _picked(call: Call) -> list[Tensor | None]:
    """``take_along_dim``: the index comes before the dimension."""
    source, index = call.tensor(0, "input"), call.tensor(1, "indices")
    dim = call.argument(2, "dim")
    if source is None or index is None or not isinstance(dim, int):
        return []
    return [compressed(torch.take_along_dim(call.full(source), on_host(index).long(), dim))]


def _sorted(call: Call) -> list[Tensor | None]:
    """Rows in a new order, which the last output tells."""
    source = call.tensor(0, "input")
    if source is None or call.places(source) is None or source.ndim == 0:
        return []
    outputs = call.outputs
    dim = call.dim(2 if call.name == "topk" else 1, -1, source.ndim)
    order = on_host(outputs[-1])
    places = compressed(torch.take_along_dim(call.full(source), order, dim))
    return [places] * len(outputs)


# Element by element.


def _merged(
    call: Call, operands: Sequence[Tensor], computed: Tensor | None = None
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
        met = meet(merged, places)
        if met.clash is not None and not call.ledger.related(owner, operand):
            clash = Clash(
                call.name, owner, operand, merged, places, met.clash, computed, call.in_place
            )
            call.clashed(clash)
        if met.places is None:
            return None
        merged = met.places
    return merged


def _broadcast(tensors: Sequence[Tensor]) -> list[int]:
    """The common shape; torch's own function for it is slow."""
    rank = max(tensor.ndim for tensor in tensors)
    shapes = [(1,) * (rank - tensor.ndim) + tuple(tensor.shape) for tensor in tensors]
    return [max(sizes) for sizes in zip(*shapes, strict=True)]


def _pointwise(call: Call) -> list[Tensor | None]:
    """Element by element, with broadcasting."""
    if not isinstance(call.out, Tensor):
        return []  # ``where`` of a condition alone gives indices
    operands = list(tensors_in((*call.args, *call.kwargs.values())))
    return [_merged(call, operands)]


def _alike(call: Call) -> list[Tensor | None]:
    """What is computed along a row, or from one tensor: weights and shapes say nothing."""
    source = call.tensor(0, "input")
    return [call.places(source)]


def _compared(call: Call) -> list[Tensor | None]:
    """Two tensors that become one number, such as ``equal``."""
    a, b = call.tensor(0, "input"), call.tensor(1, "other")
    if a is not None and b is not None and a.shape == b.shape:
        _merged(call, [a, b])
    return []


def _copied(call: Call) -> list[Tensor | None]:
    """``copy_``: new contents from end to end, whatever was there."""
    source, target = call.tensor(1, "src"), call.tensor(0, "self")
    places = call.places(source)
    return [] if places is None or target is None else [ranked(places, target.ndim)]


# Along a dimension.


def _reduced(call: Call) -> list[Tensor | None]:
    """Sums, largest values and the like; with two tensors, ``max`` works element by element."""
    source = call.tensor(0, "input")
    if source is None:
        return []
    index = 2 if call.name in _NORMS else 1
    dims = call.argument(index, "dim")
    if isinstance(dims, Tensor) or "other" in call.kwargs:
        return _pointwise(call)
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


def _cosine(call: Call) -> list[Tensor | None]:
    """Rows compared with rows."""
    a, b = call.tensor(0, "x1"), call.tensor(1, "x2")
    if a is None or b is None:
        return []
    out = call.outputs[0]
    places = _merged(call, [a, b], computed=out)
    if places is None:
        return []
    dim = call.dim(2, 1, out.ndim + 1)
    return [without(ranked(places, out.ndim + 1), [dim], keep=False)]


# Products.


def _rows_kept(call: Call) -> list[Tensor | None]:
    """``linear``: the last dimension is mixed, the rows stay."""
    places = call.places(call.tensor(0, "input"))
    return [] if places is None else [without(places, [-1], keep=True)]


def _looked_up(call: Call) -> list[Tensor | None]:
    """``embedding``: each id becomes a row."""
    places = call.places(call.tensor(0, "input"))
    return [] if places is None else [places.unsqueeze(-1)]


def _matmul(call: Call) -> list[Tensor | None]:
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


def _attended(call: Call) -> list[Tensor | None]:
    """Attention: the rows of the queries; keys and values must be of the same rows."""
    query, key, value = (call.tensor(i, n) for i, n in enumerate(("query", "key", "value")))
    if key is not None and value is not None and key.shape == value.shape:
        _merged(call, [key, value])
    places = call.places(query)
    return [] if places is None else [without(places, [-1], keep=True)]


# Writing into a tensor.


def _set(call: Call) -> list[Tensor | None]:
    """``target[index] = value``, and ``index_put``."""
    target, value = call.args[0], call.argument(2, "values")
    index = on_host(call.args[1])
    if call.name == "index_put":
        index = tuple(index)
    return _written(call, target, value, index, lambda places: places)


def _index_copied(call: Call) -> list[Tensor | None]:
    """Whole rows along one dimension."""
    target, index = call.tensor(0, "self"), call.tensor(2, "index")
    if target is None or index is None:
        return []
    before = (slice(None),) * call.dim(1, 0, target.ndim)
    value = call.argument(3, "source")
    return _written(call, target, value, (*before, on_host(index)), lambda places: places)


def _scattered(call: Call) -> list[Tensor | None]:
    """Single elements along one dimension."""
    target, index = call.tensor(0, "input"), call.tensor(2, "index")
    if target is None or index is None:
        return []
    used = tuple(slice(n) for n in index.shape)
    grid = list(torch.meshgrid([torch.arange(n) for n in index.shape], indexing="ij"))
    grid[call.dim(1, 0, target.ndim)] = on_host(index)
    value = call.argument(3, "src")
    return _written(call, target, value, tuple(grid), lambda places: places[used])


def _written(
    call: Call, target: object, value: object, index: Any, used: Callable[[Tensor], Tensor]
) -> list[Tensor | None]:
    """Rows of ``value`` into the slots of a tensor; ``used`` takes the part that is written.

    A slot without known position takes that of the row. A write of all slots gives the tensor a new
    meaning; a write of some must bring rows of the same positions. Numbers that are not rows leave
    the slots what they are.
    """
    assert isinstance(target, Tensor)
    known = call.places(target)
    if not isinstance(value, Tensor) or call.places(value) is None:
        return [known]
    if known is None and not target.is_floating_point():
        return []  # a new canvas: tokens may come from anywhere
    slots = call.full(target).clone()
    there = slots[index]
    arriving = _fitted(used(call.full(value)), there.shape)
    clash = None if _covers(call, target, index) else _clash(call, target, value, there, arriving)
    if clash is None:
        slots[index] = torch.where(arriving < 0, there, arriving)
    else:
        slots[index] = torch.where(clash, UNKNOWN, torch.maximum(there, arriving))
    return [compressed(slots)]


def _clash(
    call: Call, target: Tensor, value: Tensor, there: Tensor, arriving: Tensor
) -> Tensor | None:
    """Where rows arrive in slots of other positions; tells of it unless it is done on purpose."""
    slots, rows = compressed(there), compressed(arriving)
    if slots is None or rows is None:
        return None
    clash = meet(slots, rows).clash
    if clash is not None and not call.ledger.related(target, value):
        call.clashed(Clash(call.name, target, value, slots, rows, clash, None, True))
    return clash


def _fitted(full: Tensor, shape: torch.Size) -> Tensor:
    """Places of a value, broadcast to the slots it is written into."""
    while full.ndim > len(shape):
        full = full.squeeze(0)
    return full.expand(shape)


def _covers(call: Call, target: Tensor, index: Any) -> bool:
    """Whether a write reaches every row whose position is known."""
    places = call.places(target)
    if places is None:
        return True
    rows = torch.arange(places.numel()).view(places.shape)
    return spread(rows, target.shape)[index].unique().numel() == places.numel()


_CAT = frozenset({"cat", "concat", "concatenate"})
_NORMS = frozenset({"norm", "linalg_norm", "linalg_vector_norm"})

_POINTWISE = """
    abs absolute add addcdiv addcmul and atan2 bernoulli bfloat16 bitwise_and bitwise_not
    bitwise_or bitwise_xor bool ceil clamp clamp_max clamp_min clip clone contiguous cos cpu cuda
    data detach detach_copy div divide double eq erf exp expm1 float floor floor_divide floordiv
    fmax fmin fmod ge greater greater_equal gt half iand int invert ior isclose isfinite isinf
    isnan ixor le lerp less less_equal log log10 log1p log2 logical_and logical_not logical_or
    logical_xor long lt masked_fill maximum minimum mul multiply nan_to_num ne neg negative
    not_equal or pow rand rdiv reciprocal relu remainder rfloordiv ror round rpow rsqrt rsub rxor
    sigmoid sign sin sqrt square sub subtract tan tanh true_divide type where xor
"""
_ALIKE = """
    dropout elu gelu hardtanh leaky_relu layer_norm log_softmax normalize requires_grad rms_norm
    silu softmax softplus to type_as
"""
_REDUCED = """
    all amax amin any argmax argmin count_nonzero linalg_norm linalg_vector_norm logsumexp max mean
    median min mode nansum norm prod std sum var
"""
_MOVED = """
    H T broadcast_to chunk expand expand_as flatten flip index_select mH mT masked_select moveaxis
    movedim narrow permute repeat repeat_interleave select split squeeze swapaxes swapdims t
    tensor_split tile transpose unbind unflatten unsqueeze
"""
_SAME_VALUES = """
    bfloat16 clone contiguous cpu cuda data detach double float half int long to type
"""
_KEEPS_IDS = """
    cat concat concatenate copy index_copy index_put masked_fill scatter setitem where
"""
_GROUPS: list[tuple[str, Rule]] = [
    (_POINTWISE, _pointwise),
    (_ALIKE, _alike),
    (_REDUCED, _reduced),
    (_MOVED, _moved),
    ("getitem", _indexed),
    ("view view_as reshape reshape_as", _reshaped),
    ("cat concat concatenate stack hstack vstack", _joined),
    ("gather", _gathered),
    ("take_along_dim", _picked),
    ("sort argsort topk", _sorted),
    ("allclose dist equal kl_div l1_loss mse_loss", _compared),
    ("copy", _copied),
    ("cosine_similarity", _cosine),
    ("linear", _rows_kept),
    ("embedding one_hot", _looked_up),
    ("bmm matmul mm", _matmul),
    ("scaled_dot_product_attention", _attended),
    ("setitem index_put", _set),
    ("index_copy", _index_copied),
    ("scatter", _scattered),
]

RULES: Mapping[str, Rule] = {name: rule for names, rule in _GROUPS for name in names.split()}
"""By name of the torch function, without the underscores around it."""

_SAME = frozenset(_SAME_VALUES.split())

KEEPS_IDS = frozenset(_KEEPS_IDS.split())
"""Functions that put ids into a canvas, or a canvas together from parts."""

_CUTS = frozenset((*_MOVED.split(), "getitem", "view", "view_as", "reshape", "reshape_as"))
HANDS_ON = _CUTS | _SAME
"""Functions whose result is a part of their argument, or all of it."""
