"""How positions travel through each torch function.

Whatever moves rows moves their positions by the same function. Whatever works element by element
brings positions together, and says so if they clash. Whatever is not listed forgets them: positions
are never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from skipstone.foreign.positions.calls import TorchCall
from skipstone.foreign.positions.rules import elementwise, moving, reducing, writing

PositionRule = Callable[[TorchCall], Sequence[Tensor | None]]
"""Positions of the outputs of a call, in order."""

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
    movedim narrow permute repeat repeat_interleave roll select split squeeze swapaxes swapdims t
    tensor_split tile transpose unbind unflatten unsqueeze
"""
_SAME_VALUES = """
    bfloat16 clone contiguous cpu cuda data detach double float half int long to type
"""
_KEEPS_IDS = """
    cat concat concatenate copy index_copy index_put masked_fill scatter setitem where
"""
_GROUPS: list[tuple[str, PositionRule]] = [
    (_POINTWISE, elementwise.pointwise),
    (_ALIKE, elementwise.alike),
    (_REDUCED, reducing.reduced),
    (_MOVED, moving.moved),
    ("getitem", moving.indexed),
    ("view view_as reshape reshape_as", moving.reshaped),
    ("cat concat concatenate stack hstack vstack", moving.joined),
    ("gather", moving.gathered),
    ("take_along_dim", moving.picked),
    ("sort argsort topk", moving.reordered),
    ("allclose dist equal kl_div l1_loss mse_loss", elementwise.compared),
    ("copy", elementwise.copied),
    ("cosine_similarity", reducing.cosine),
    ("linear", reducing.rows_kept),
    ("embedding one_hot", reducing.looked_up),
    ("bmm matmul mm", reducing.matmul),
    ("scaled_dot_product_attention", reducing.attended),
    ("setitem index_put", writing.assigned),
    ("index_copy", writing.index_copied),
    ("scatter", writing.scattered),
]

RULES: Mapping[str, PositionRule] = {
    name: rule for names, rule in _GROUPS for name in names.split()
}
"""By name of the torch function, without the underscores around it."""

_SAME = frozenset(_SAME_VALUES.split())

KEEPS_IDS = frozenset(_KEEPS_IDS.split())
"""Functions that put ids into a canvas, or a canvas together from parts."""

_CUTS = frozenset((*_MOVED.split(), "getitem", "view", "view_as", "reshape", "reshape_as"))
HANDS_ON = _CUTS | _SAME
"""Functions whose result is a part of their argument, or all of it."""
