"""Tensors of two aligned runs, row by row: how far apart, whose bits differ, where that began.

Rows are joined by absolute position; a row that only one side has is never compared. What was
never computed is not compared either.

Shape letters: N rows, W values of a row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from skipstone.record import sketch
from skipstone.record.schema import StepRecord
from skipstone.record.tensors import OF_ATTENTION, Source, Tap, TensorKey, TensorRows
from skipstone.record.trace import Trace

_TAP_ORDER = {
    Tap.KEY: 0,
    Tap.VALUE: 1,
    Tap.STATE: 2,
    Tap.SKETCH: 3,
    Tap.LOGITS: 4,
    Tap.UNGUIDED: 5,
}


@dataclass(frozen=True, eq=False)
class RowErrors:
    """How far the rows of one tensor are apart; one array a quantity, [N] each."""

    positions: np.ndarray
    """int32: absolute, ascending."""
    relative_l2: np.ndarray
    """float64: ``|a - b| / |a|``, 0 for equal bits. Of logits: of the log-softmax, against the
    spread of A's, so that adding a constant changes nothing. Of sketches: an estimate."""
    cosine: np.ndarray
    """float64; of logits after taking away their mean."""
    norm_ratio: np.ndarray
    """float64: ``|b| / |a|``."""
    bits_differ: np.ndarray | None
    """bool; None if the dtypes differ, so that bits say nothing."""
    kl: np.ndarray | None = None
    """float64, of logits only: KL divergence of B's distribution from A's, in nats."""
    largest_log_ratio: np.ndarray | None = None
    """float64, of logits only: largest change of any token's log-probability."""
    top1_flip: np.ndarray | None = None
    """bool, of logits only: the most probable token is another one."""


@dataclass(frozen=True, eq=False)
class TensorPair:
    """One tensor as both runs recorded it, in steps that saw the same canvas."""

    step_a: StepRecord
    step_b: StepRecord
    a: TensorRows
    """A's rows at the common positions, in order of position."""
    b: TensorRows
    """B's rows at the same positions, in the same order."""
    only_a: np.ndarray
    """int32: positions that only A has."""
    only_b: np.ndarray

    @property
    def key(self) -> TensorKey:
        """As A counts forwards."""
        return self.a.key

    @property
    def refusal(self) -> str:
        """Why the rows cannot be compared; empty if they can."""
        widths = self.a.values.shape[1], self.b.values.shape[1]
        if widths[0] == widths[1]:
            return ""
        return f"{self.key.tap} rows have {widths[0]} and {widths[1]} values: not compared"

    @property
    def same_bits(self) -> bool:
        """Whether every common row is equal bit for bit."""
        same_kind = self.a.values.dtype == self.b.values.dtype
        return same_kind and self.a.values.tobytes() == self.b.values.tobytes()

    def errors(self) -> RowErrors:
        """Compare all rows."""
        return row_errors(self.a, self.b)


def computed(key: TensorKey) -> tuple[int, int, int]:
    """Sorts tensors into the order in which a run computes them."""
    return key.forward, key.layer, _TAP_ORDER[key.tap]


def tensor_pairs(
    a: Trace,
    b: Trace,
    steps: Iterable[tuple[StepRecord, StepRecord]],
    *,
    sample_a: int = 0,
    sample_b: int = 0,
    taps: Collection[Tap] = frozenset(Tap) - OF_ATTENTION,
) -> Iterator[TensorPair]:
    """Every tensor of some taps that both runs recorded of these steps, in order of computation.

    A sketch is left out where both have the state itself.
    """
    keys_a, keys_b = _by_forward(a, sample_a), _by_forward(b, sample_b)
    for step_a, step_b in steps:
        theirs = {(k.layer, k.tap) for k in keys_b.get(step_b.forward, ())}
        mine = (k for k in keys_a.get(step_a.forward, ()) if k.tap in taps)
        common = [k for k in mine if (k.layer, k.tap) in theirs]
        states = {k.layer for k in common if k.tap is Tap.STATE}
        for key in sorted(common, key=computed):
            if key.tap is Tap.SKETCH and key.layer in states:
                continue
            rows_a = a.tensor(sample_a, key)
            rows_b = b.tensor(sample_b, key._replace(forward=step_b.forward))
            if rows_a is not None and rows_b is not None:
                yield _joined(step_a, step_b, rows_a, rows_b)


def row_errors(a: TensorRows, b: TensorRows) -> RowErrors:
    """Compare rows of equal positions in equal order, in float64.

    States that are not finite give errors that are not; they are not equal unless their bits are.
    """
    bits_differ = _bits_differ(a.values, b.values) if a.dtype == b.dtype else None
    with np.errstate(all="ignore"):
        if a.key.tap is Tap.SKETCH:
            return _sketch_errors(a, b)
        x_NW, y_NW = a.values.astype(np.float64), b.values.astype(np.float64)
        if a.key.tap in (Tap.LOGITS, Tap.UNGUIDED):
            return _logit_errors(a.positions, x_NW, y_NW, bits_differ)
        return _state_errors(a.positions, x_NW, y_NW, bits_differ)


def _by_forward(trace: Trace, sample: int) -> dict[int, list[TensorKey]]:
    found = dict[int, list[TensorKey]]()
    for key in trace.keys(sample):
        found.setdefault(key.forward, []).append(key)
    return found


def _joined(step_a: StepRecord, step_b: StepRecord, a: TensorRows, b: TensorRows) -> TensorPair:
    known_a, known_b = (np.flatnonzero(t.source != Source.NEVER) for t in (a, b))
    at_a, at_b = a.positions[known_a], b.positions[known_b]
    _, i, j = np.intersect1d(at_a, at_b, return_indices=True)
    return TensorPair(
        step_a,
        step_b,
        _rows(a, known_a[i]),
        _rows(b, known_b[j]),
        np.setdiff1d(at_a, at_b),
        np.setdiff1d(at_b, at_a),
    )


def _rows(tensor: TensorRows, index: np.ndarray) -> TensorRows:
    return TensorRows(
        key=tensor.key,
        positions=tensor.positions[index],
        values=tensor.values[index],
        source=tensor.source[index],
        age=tensor.age[index],
        canvas=tensor.canvas[index],
        score=tensor.score[index],
    )


def _bits_differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each row, [N]; rows of another width differ."""
    if a.shape != b.shape or not a.size:
        return np.full(a.shape[0], a.shape != b.shape)
    raw = [np.ascontiguousarray(x).view(np.uint8).reshape(x.shape[0], -1) for x in (a, b)]
    return (raw[0] != raw[1]).any(1)


def _state_errors(
    positions: np.ndarray, x_NW: np.ndarray, y_NW: np.ndarray, bits_differ: np.ndarray | None
) -> RowErrors:
    norm_x, norm_y = np.linalg.norm(x_NW, axis=1), np.linalg.norm(y_NW, axis=1)
    equal = (x_NW == y_NW).all(1)
    if bits_differ is not None:
        equal |= ~bits_differ
    return RowErrors(
        positions=positions,
        relative_l2=np.where(equal, 0.0, np.linalg.norm(x_NW - y_NW, axis=1) / norm_x),
        cosine=np.where(equal, 1.0, (x_NW * y_NW).sum(1) / (norm_x * norm_y)),
        norm_ratio=np.where(equal, 1.0, norm_y / norm_x),
        bits_differ=bits_differ,
    )


def _logit_errors(
    positions: np.ndarray, x_NW: np.ndarray, y_NW: np.ndarray, bits_differ: np.ndarray | None
) -> RowErrors:
    x_NW, y_NW = _log_softmax(x_NW), _log_softmax(y_NW)
    # A token that can never be predicted has probability 0 on both sides: no difference.
    same_NW = x_NW == y_NW if bits_differ is None else (x_NW == y_NW) | ~bits_differ[:, None]
    apart_NW = np.where(same_NW, 0.0, x_NW - y_NW)
    centred = _state_errors(positions, _centred(x_NW), _centred(y_NW), bits_differ)
    probable_NW = np.exp(x_NW)
    spread_N = np.linalg.norm(_centred(x_NW), axis=1)
    apart_N = np.linalg.norm(apart_NW, axis=1)
    return RowErrors(
        positions=positions,
        relative_l2=np.where(apart_N == 0, 0.0, apart_N / spread_N),
        cosine=centred.cosine,
        norm_ratio=centred.norm_ratio,
        bits_differ=bits_differ,
        kl=np.where(probable_NW > 0, probable_NW * apart_NW, 0.0).sum(1),
        largest_log_ratio=np.abs(apart_NW).max(1, initial=0.0),
        top1_flip=x_NW.argmax(1) != y_NW.argmax(1),
    )


def _log_softmax(x_NW: np.ndarray) -> np.ndarray:
    x_NW = x_NW - x_NW.max(1, keepdims=True, initial=-np.inf)
    return x_NW - np.log(np.exp(x_NW).sum(1, keepdims=True))


def _centred(x_NW: np.ndarray) -> np.ndarray:
    """Finite values minus their mean; 0 where a token can never be predicted."""
    finite_NW = ~np.isneginf(x_NW)
    count_N1 = np.maximum(finite_NW.sum(1, keepdims=True), 1)
    mean_N1 = np.where(finite_NW, x_NW, 0.0).sum(1, keepdims=True) / count_N1
    return np.where(finite_NW, x_NW - mean_N1, 0.0)


def _sketch_errors(a: TensorRows, b: TensorRows) -> RowErrors:
    x, y = sketch.unpack(a.values), sketch.unpack(b.values)
    estimate = _state_errors(
        a.positions, x.projection.astype(np.float64), y.projection.astype(np.float64), None
    )
    return RowErrors(
        positions=a.positions,
        relative_l2=sketch.distance(x, y),
        cosine=estimate.cosine,
        norm_ratio=np.where(x.hash == y.hash, 1.0, y.norm.astype(np.float64) / x.norm),
        bits_differ=x.hash != y.hash,
    )
