"""One call of attention as it was recorded, and what it gives if it is computed again.

Shape letters: N rows, K keys, H query heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from skipstone.diagnosis.dtypes import rounded
from skipstone.record import AttentionNumbers, Tap, TensorKey, TensorRows, Trace, of_call

HALF = ("float16", "bfloat16")
"""Dtypes that scores and weights are seen to be rounded to."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What attention was given in one layer, and what it gave; all numbers in float64."""

    positions_N: np.ndarray
    """Of the rows, ascending."""
    places_K: np.ndarray
    """Of the keys among all keys, ascending: their positions, if keys are stored in that order."""
    query_NHW: np.ndarray
    key_KGW: np.ndarray
    value_KGW: np.ndarray
    bias_NHK: np.ndarray
    """Added to the scores: minus infinity hides a key. H is 1 if all heads share it."""
    scale: float
    key_heads: tuple[int, ...]
    """Of each query head, which of the G heads of keys it reads."""
    value_heads: tuple[int, ...]
    """The same of values."""
    mixed_NHW: np.ndarray
    """What it gave."""
    dtype: str
    """Of the queries."""
    drops: float = 0.0
    """Share of the weights that it was asked to drop at random."""
    scored: str = ""
    """The dtype that scores were rounded to before the softmax; empty if it is not known."""
    weighed: str = ""
    """The dtype that weights were rounded to before they were used; empty likewise."""

    def at(self, rows: np.ndarray) -> AttentionCall:
        """The same call for some of its rows, by index."""
        return replace(
            self,
            positions_N=self.positions_N[rows],
            query_NHW=self.query_NHW[rows],
            bias_NHK=self.bias_NHK[rows],
            mixed_NHW=self.mixed_NHW[rows],
        )

    def without_unseen(self, kept_K: np.ndarray) -> AttentionCall:
        """The same call without the keys that no row sees, but for those at some places."""
        seen = ~np.isneginf(self.bias_NHK).all((0, 1)) | np.isin(self.places_K, kept_K)
        return replace(
            self,
            places_K=self.places_K[seen],
            key_KGW=self.key_KGW[seen],
            value_KGW=self.value_KGW[seen],
            bias_NHK=self.bias_NHK[:, :, seen],
        )

    def computed(self) -> np.ndarray:
        """What attention gives by its own definition, [N, H, W]."""
        key_KHW = self.key_KGW[:, list(self.key_heads)]
        value_KHW = self.value_KGW[:, list(self.value_heads)]
        with np.errstate(all="ignore"):
            score_NHK = np.einsum("nhw,khw->nhk", self.query_NHW, key_KHW) * self.scale
            score_NHK = _as(score_NHK + self.bias_NHK, self.scored)
            weight_NHK = np.exp(score_NHK - score_NHK.max(-1, keepdims=True))
            weight_NHK /= weight_NHK.sum(-1, keepdims=True)
            return np.einsum("nhk,khw->nhw", _as(weight_NHK, self.weighed), value_KHW)


def read(
    trace: Trace, sample: int, forward: int, layer: int, call: int = 0
) -> AttentionCall | None:
    """A call of a layer; None if it was not recorded, or not as a whole."""

    def tensor(tap: Tap, cached: Tap | None = None, of: int = of_call(layer, call)) -> _Found:
        found = trace.tensor(sample, TensorKey(forward, tap, of))
        if found is None and cached is not None:
            return trace.tensor(sample, TensorKey(forward, cached, layer))
        return found

    row = tensor(Tap.ATTENTION)
    query, mixed = tensor(Tap.QUERY), tensor(Tap.MIXED)
    key = tensor(Tap.ATTENDED_KEY, Tap.KEY)
    value = tensor(Tap.ATTENDED_VALUE, Tap.VALUE)
    numbers = None if row is None else AttentionNumbers.unpack(row.values)
    if query is None or mixed is None or key is None or value is None or numbers is None:
        return None
    bias = tensor(Tap.BIAS, of=numbers.bias_layer) if numbers.bias_heads else None
    of_keys, of_values = (max(read_by) + 1 for read_by in (numbers.key_heads, numbers.value_heads))
    heads, rows, keys = len(numbers.key_heads), query.positions.size, numbers.keys
    cut = (query, heads), (mixed, heads), (key, of_keys), (value, of_values)
    sizes = [(x.positions.size, x.values.shape[1] % parts) for x, parts in cut]
    widths = [x.values.shape[1] // parts for x, parts in cut]
    if sizes != [(rows, 0)] * 2 + [(keys, 0)] * 2:
        return None
    if widths[0] != widths[2] or widths[1] != widths[3]:
        return None
    bias_NHK = np.zeros((rows, 1, keys))
    if numbers.bias_heads:
        shape = rows, numbers.bias_heads * keys
        if bias is None or bias.values.shape != shape:
            return None
        bias_NHK = bias.values.astype(np.float64).reshape(rows, numbers.bias_heads, keys)
    if numbers.causal:
        hidden_NK = np.triu(np.ones((rows, keys), bool), 1)
        bias_NHK = np.where(hidden_NK[:, None], -np.inf, bias_NHK)
    order_N, order_K = np.argsort(query.positions), np.argsort(key.positions)
    return AttentionCall(
        positions_N=query.positions[order_N],
        places_K=key.positions[order_K],
        query_NHW=_heads(query, heads)[order_N],
        key_KGW=_heads(key, of_keys)[order_K],
        value_KGW=_heads(value, of_values)[order_K],
        bias_NHK=bias_NHK[order_N][:, :, order_K],
        scale=numbers.scale,
        key_heads=numbers.key_heads,
        value_heads=numbers.value_heads,
        mixed_NHW=_heads(mixed, heads)[order_N],
        dtype=query.dtype,
        drops=numbers.drops,
        scored=numbers.scored,
        weighed=numbers.weighed,
    )


_Found = TensorRows | None


def _as(values: np.ndarray, dtype: str) -> np.ndarray:
    return rounded(values, dtype) if dtype in HALF else values


def _heads(rows: TensorRows, heads: int) -> np.ndarray:
    return rows.values.astype(np.float64).reshape(rows.positions.size, heads, -1)
