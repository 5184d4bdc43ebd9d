"""What do wrong rows of keys and values hold? Other rows, layers, tensors, or older ones.

Every hypothesis is held against all wrong rows at once; the plainest that explains about as many as
any is taken.

Shape letters: N wrong rows, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from skipstone.diagnosis.case.tensors import ComparedTensors
from skipstone.diagnosis.deviation import Deviation
from skipstone.diagnosis.fit import head_widths, nearest
from skipstone.record import Tap, TensorKey, Trace

HeldKind = Literal["zeros", "old", "heads", "swapped", "layer", "shift", "request", "elsewhere"]

# Rows are the same if this close, and clearly closer than to what they should be.
_SAME = 1e-3
_CLEARLY = 4.0
# Share of the wrong rows that a hypothesis has to explain, and by how much more than a plainer one.
_MOST, _BETTER = 0.6, 0.2
_SHIFTS = (1, -1, 2, -2, 3, -3, 4, -4)
_BACK = (1, 2)
# Of the forwards that computed everything, the last ones that are asked.
_REFRESHES = 3
# Of B's caches before rows were computed again, the last ones that are asked.
_STORES = 8
# Ways to roll heads that are tried.
_HEADS = 9
# Rows of a tensor that are looked at.
_LOOKED_AT = 32


@dataclass(frozen=True, eq=False)
class Held:
    """What wrong rows hold."""

    kind: HeldKind
    wrong: tuple[Deviation, ...]
    """All wrong keys and values of the step."""
    first: Deviation
    """The first of them, in order of computation, that this explains."""
    layers: int
    """In how many layers it explains rows."""
    other: int = 0
    """The forward, layer, request or shift in question."""
    owners: tuple[tuple[int, int], ...] = ()
    """Positions of the first rows, and whose rows they hold, where they are others'."""


@dataclass(frozen=True, eq=False)
class _Wrong:
    """Wrong rows of one tensor."""

    deviation: Deviation
    key: TensorKey
    positions: np.ndarray
    values_NW: np.ndarray
    own_N: np.ndarray
    """float64 [N]: distance to what they should be."""

    def equal(self, other_NW: np.ndarray | None) -> np.ndarray:
        """Bool [N]: rows that equal these other ones, and not what they should be."""
        if other_NW is None or other_NW.shape != self.values_NW.shape:
            return np.zeros(self.positions.size, bool)
        apart = _apart(self.values_NW, other_NW)
        return (apart <= max(_SAME, self.deviation.floor)) & (apart * _CLEARLY < self.own_N)


Explains = Callable[[_Wrong], np.ndarray]
"""Which rows of a tensor a hypothesis explains, bool [N]."""


def held(tensors: ComparedTensors) -> Held | None:
    """What the wrong keys and values of the step in question hold; None if nothing explains it."""
    if tensors.recorded is None or tensors.expected is None:
        return None
    found = [d for d in (*tensors.cached_wrong, *tensors.born) if d.kind in ("key", "value")]
    found.sort(key=lambda d: (d.layer or 0, d.kind))
    wrong = [rows for d in found if (rows := _wrong(tensors, d)) is not None]
    total = sum(rows.positions.size for rows in wrong)
    best: tuple[float, HeldKind, int, list[np.ndarray]] | None = None
    for kind, other, explains in _hypotheses(tensors):
        masks = [explains(rows) for rows in wrong]
        share = sum(int(mask.sum()) for mask in masks) / max(1, total)
        if share >= _MOST and (best is None or share > best[0] + _BETTER):
            best = share, kind, other, masks
    if best is None:
        return None
    _, kind, other, masks = best
    explained = [(rows, mask) for rows, mask in zip(wrong, masks, strict=True) if mask.any()]
    first, mask = explained[0]
    return Held(
        kind=kind,
        wrong=tuple(found),
        first=first.deviation,
        layers=len({rows.key.layer for rows, _ in explained}),
        other=_layer_of(tensors, first) if kind == "layer" else other,
        owners=_owners(tensors, first, mask, kind, other),
    )


def _hypotheses(tensors: ComparedTensors) -> Iterator[tuple[HeldKind, int, Explains]]:
    """Each with its number, the plainest first."""
    assert tensors.recorded is not None
    yield "zeros", 0, lambda rows: np.asarray(~rows.values_NW.any(1))
    for older in _earlier(tensors):
        yield "old", older, partial(_is_older, tensors, older)
    yield "old", max(0, tensors.focus - 1), partial(_is_any_older, tensors)
    yield "heads", 0, partial(_is_of_other_heads, tensors)
    yield "swapped", 0, lambda rows: rows.equal(_right(tensors, _swapped(rows.key), rows.positions))
    yield "layer", 0, partial(_is_of_a_layer, tensors)
    for by in _SHIFTS:
        yield "shift", by, partial(_is_moved, tensors, by)
    trace, sample = tensors.recorded
    others = [request for request in range(len(trace.records)) if request != sample]
    for request in others:
        yield "request", request, partial(_is_of_a_request, tensors, request)
    yield "elsewhere", 0, partial(_is_anywhere, tensors)
    for request in others:
        yield "request", request, partial(_is_anywhere_of_a_request, tensors, request)


def _earlier(tensors: ComparedTensors) -> list[int]:
    """Forwards whose keys and values may be left: the ones before, and those before a refresh."""
    steps = [s for s in tensors.runs.record_b.steps if s.forward < tensors.focus]
    length = tensors.runs.record_b.length
    before = [tensors.focus - back for back in _BACK if back <= tensors.focus]
    refreshes = [s.forward for s in steps if s.rows.size == length][-_REFRESHES:]
    found = [*before, *(f - 1 for f in reversed(refreshes) if f), *reversed(refreshes)]
    return list(dict.fromkeys(found))


def _is_older(tensors: ComparedTensors, forward: int, rows: _Wrong) -> np.ndarray:
    """Rows that were computed, or renewed, and are still those of an earlier forward."""
    key = rows.key._replace(forward=forward)
    assert tensors.recorded is not None
    found = np.zeros(rows.positions.size, bool)
    if tensors.focus - forward in _BACK:
        before = tensors.reference(forward)
        found = rows.equal(None if before is None else _rows(before, 0, key, rows.positions))
    # What was computed since can be held against B's own cache, bit for bit.
    own = _rows(*tensors.recorded, key, rows.positions)
    since = tensors.computed_at(key.layer, rows.positions) > forward
    return found | (since & rows.equal(own))


def _is_any_older(tensors: ComparedTensors, rows: _Wrong) -> np.ndarray:
    """Rows that B's cache held at some time before they were computed again, bit for bit.

    Those of a block were written in each of its steps, those beside it only once.
    """
    since = tensors.computed_at(rows.key.layer, rows.positions)
    last = int(since.max(initial=0))
    earlier = range(max(0, last - _STORES), last)
    return np.any([_is_older(tensors, forward, rows) for forward in earlier], axis=0) & (since > 0)


def _is_of_a_layer(tensors: ComparedTensors, rows: _Wrong) -> np.ndarray:
    layers = range(1, tensors.runs.record_b.header.num_layers + 1)
    keys = (rows.key._replace(layer=layer) for layer in layers if layer != rows.key.layer)
    masks = [rows.equal(_right(tensors, key, rows.positions)) for key in keys]
    return np.any(masks, axis=0) if masks else rows.equal(None)


def _is_of_other_heads(tensors: ComparedTensors, rows: _Wrong) -> np.ndarray:
    """Rows whose heads are the right ones in another order."""
    right_NW = _right(tensors, rows.key, rows.positions)
    found = rows.equal(None)
    if right_NW is None:
        return found
    for width in head_widths(rows.values_NW.shape[1]):
        heads = rows.values_NW.shape[1] // width
        if heads > 1:
            moved = (_rolled(right_NW, heads, by) for by in range(1, min(heads, _HEADS)))
            found = found | np.any([rows.equal(other_NW) for other_NW in moved], axis=0)
            found |= rows.equal(right_NW.reshape(-1, heads, width)[:, ::-1].reshape(right_NW.shape))
            # Rows that were cut into heads the other way round.
            found |= rows.equal(
                right_NW.reshape(-1, heads, width).swapaxes(1, 2).reshape(right_NW.shape)
            )
    return found


def _rolled(right_NW: np.ndarray, heads: int, by: int) -> np.ndarray:
    return np.roll(right_NW.reshape(len(right_NW), heads, -1), by, 1).reshape(right_NW.shape)


def _layer_of(tensors: ComparedTensors, rows: _Wrong) -> int:
    """The layer whose rows these are."""
    for layer in range(1, tensors.runs.record_b.header.num_layers + 1):
        key = rows.key._replace(layer=layer)
        if layer != rows.key.layer and rows.equal(_right(tensors, key, rows.positions)).any():
            return layer
    return 0


def _is_moved(tensors: ComparedTensors, by: int, rows: _Wrong) -> np.ndarray:
    return rows.equal(_right(tensors, rows.key, rows.positions + by))


def _is_of_a_request(tensors: ComparedTensors, request: int, rows: _Wrong) -> np.ndarray:
    """Rows that another request has at the same positions, now or when they were computed."""
    assert tensors.recorded is not None
    trace, _ = tensors.recorded
    since = int(tensors.computed_at(rows.key.layer, rows.positions).max(initial=0))
    stores = (
        _rows(trace, request, rows.key._replace(forward=forward), rows.positions)
        for forward in {tensors.focus, since}
    )
    return np.any([rows.equal(store) for store in stores], axis=0)


def _is_anywhere_of_a_request(tensors: ComparedTensors, request: int, rows: _Wrong) -> np.ndarray:
    """Rows that another request has at any position: prompts are of different lengths."""
    assert tensors.recorded is not None
    store = tensors.recorded[0].tensor(request, rows.key)
    if store is None or store.values.shape[1] != rows.values_NW.shape[1]:
        return rows.equal(None)
    return rows.equal(store.values[nearest(rows.values_NW, store.values).rows])


def _is_anywhere(tensors: ComparedTensors, rows: _Wrong) -> np.ndarray:
    return rows.equal(_nearest(tensors, rows)[1])


def _nearest(tensors: ComparedTensors, rows: _Wrong) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions [N] of the right rows that wrong ones are nearest to, and these rows [N, W]."""
    everywhere = np.arange(tensors.runs.record_b.length)
    right = _right(tensors, rows.key, everywhere)
    if right is None:
        return rows.positions, None
    known = ~np.isnan(right).any(1)
    match = nearest(rows.values_NW, right[known])
    return everywhere[known][match.rows], right[known][match.rows]


def _owners(
    tensors: ComparedTensors, rows: _Wrong, explained: np.ndarray, kind: HeldKind, by: int
) -> tuple[tuple[int, int], ...]:
    """Each explained position with the one whose row it holds."""
    if kind not in ("shift", "elsewhere"):
        return ()
    whose = rows.positions + by if kind == "shift" else _nearest(tensors, rows)[0]
    pairs = zip(rows.positions[explained].tolist(), whose[explained].tolist(), strict=True)
    return tuple(pairs)


def _swapped(key: TensorKey) -> TensorKey:
    return key._replace(tap=Tap.VALUE if key.tap is Tap.KEY else Tap.KEY)


def _wrong(tensors: ComparedTensors, deviation: Deviation) -> _Wrong | None:
    """The rows of a deviation, beside what they should be."""
    assert tensors.recorded is not None
    key = TensorKey(tensors.focus, Tap(deviation.kind), deviation.layer or 0)
    every = max(1, deviation.positions.size // _LOOKED_AT)
    positions = deviation.positions[::every]
    values, right = _rows(*tensors.recorded, key, positions), _right(tensors, key, positions)
    if values is None or right is None or not np.isfinite(values).all():
        return None
    return _Wrong(deviation, key, positions, values, _apart(values, right))


def _right(tensors: ComparedTensors, key: TensorKey, positions: np.ndarray) -> np.ndarray | None:
    """What rows should be, [N, W]: cached ones given the run, computed ones given B's own input.

    NaN where it is not known; None if it is known nowhere.
    """
    found = None if tensors.expected is None else _rows(tensors.expected, 0, key, positions)
    local = None if tensors.local is None else _rows(tensors.local, 0, key, positions)
    if found is None or local is None:
        return found
    fresh = np.isin(positions, tensors.fresh(key.layer))
    return np.where(fresh[:, None], local, found)


def _rows(trace: Trace, sample: int, key: TensorKey, positions: np.ndarray) -> np.ndarray | None:
    """Rows of a tensor, float64 [N, W]; NaN where it has none, None if it was not recorded."""
    tensor = trace.tensor(sample, key)
    if tensor is None:
        return None
    known = np.isin(positions, tensor.positions)
    found_NW = np.full((positions.size, tensor.values.shape[1]), np.nan)
    if known.any():
        found_NW[known] = tensor.at(positions[known])
    return found_NW


def _apart(a_NW: np.ndarray, b_NW: np.ndarray) -> np.ndarray:
    """Distance of each pair of rows, relative to the first; infinite if one is not known."""
    scale = np.maximum(np.linalg.norm(a_NW, axis=1), 1e-30)
    apart = np.linalg.norm(a_NW - b_NW, axis=1) / scale
    return np.where(np.isnan(apart), np.inf, apart)
