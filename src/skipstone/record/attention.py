"""What one layer's attention was given, in numbers: kept beside its tensors as one row.

Shape letters: H query heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FIXED = 6
# Until now it was not kept whether weights are dropped.
_FIXED_BEFORE = 5
_DTYPES = ("", "float64", "float32", "float16", "bfloat16")
"""What something was rounded to; the first if nobody saw it."""
# More layers than any model has.
_CALLS = 1 << 16


def of_call(layer: int, call: int) -> int:
    """Under which layer a call of attention is kept: a layer may attend more than once.

    Args:
        layer: counted from 1.
        call: of the layer, counted from 0.
    """
    return layer + call * _CALLS


@dataclass(frozen=True)
class AttentionNumbers:
    """The numbers of one call of attention."""

    scale: float
    """What scores are multiplied by."""
    keys: int
    """Keys that each row may see at most."""
    causal: bool
    """Whether it was asked to hide what stands behind a row."""
    bias_heads: int
    """Biases that were recorded for each row: 0 if there was none, 1 for one that all heads share,
    else one for each head."""
    bias_layer: int
    """The layer whose record holds the bias: this one, or an earlier one with the same; 0 without
    one."""
    key_heads: tuple[int, ...]
    """Of each query head, which of the recorded heads of keys it reads; heads that are equal were
    recorded once."""
    value_heads: tuple[int, ...]
    """The same of values."""
    drops: float = 0.0
    """Share of the weights that it was asked to drop at random."""
    scored: str = ""
    """The dtype that scores were rounded to before the softmax; empty if one function did all."""
    weighed: str = ""
    """The dtype that weights were rounded to before they were used; empty likewise."""

    def pack(self) -> np.ndarray:
        """As one row of values, float64 [1, 6 + 2 H]."""
        seen = _code(self.scored) * 2 + _code(self.weighed) * 16 + self.causal
        fixed = (self.scale, self.keys, seen, self.bias_heads, self.bias_layer)
        fixed = (*fixed, self.drops)
        return np.array([[*fixed, *self.key_heads, *self.value_heads]], dtype=np.float64)

    @classmethod
    def unpack(cls, row_1W: np.ndarray) -> AttentionNumbers | None:
        """Out of one row; None if these cannot be the numbers of a call."""
        rows, width = row_1W.shape
        # Heads come twice, so whether there is one number more shows.
        fixed = _FIXED if width % 2 == 0 else _FIXED_BEFORE
        heads = (width - fixed) // 2
        if rows != 1 or heads < 1 or not np.isfinite(row_1W).all():
            return None
        scale, *others = row_1W[0].tolist()
        drops = others.pop(_FIXED_BEFORE - 1) if fixed == _FIXED else 0.0
        keys, seen, bias_heads, bias_layer, *shared = map(int, others)
        if keys < 0 or not 0 <= drops <= 1 or not 0 <= seen < 128:
            return None
        scored, weighed = seen // 2 % 8, seen // 16
        if max(scored, weighed) >= len(_DTYPES):
            return None
        if bias_heads not in (0, 1, heads) or not all(0 <= g < heads for g in shared):
            return None
        of_keys, of_values = tuple(shared[:heads]), tuple(shared[heads:])
        return cls(
            *(scale, keys, bool(seen % 2), bias_heads, bias_layer, of_keys, of_values, drops),
            *(_DTYPES[scored], _DTYPES[weighed]),
        )


def _code(dtype: str) -> int:
    """Of a dtype that is kept; others are as if nobody had seen them."""
    return _DTYPES.index(dtype) if dtype in _DTYPES else 0
