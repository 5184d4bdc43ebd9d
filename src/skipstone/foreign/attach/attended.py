"""What attention was given in the layers of one call, on its way into the record.

Shape letters: C batch of the call, H query heads, G heads of keys and values, N rows, K keys,
W width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipstone.foreign.attach.kept import Rowed
from skipstone.foreign.attach.snapshot import Copy, Snapshot
from skipstone.foreign.attention.call import SeenAttention
from skipstone.record import AttentionNumbers, Tap, TensorKey, of_call


@dataclass(eq=False)
class _Layer:
    """Attention of one layer, for the whole batch."""

    number: int
    call: int
    """Of the calls of attention in the layer."""
    attention: SeenAttention | None
    """Held until the call ends: its keys and values may be the cache's own."""
    positions: Sequence[np.ndarray]
    """int32 [N] of each sample."""
    query_CHNW: Copy
    mixed_CHNW: Copy
    mask: Copy | None
    causal: bool
    scale: float
    drops: float
    rounds: tuple[str, str]
    """Dtypes of scores and weights; empty if nobody saw them."""
    key_CGKW: Copy | None = None
    """None if the cache has them."""
    value_CGKW: Copy | None = None


class Attended:
    """Collects the layers of one call."""

    def __init__(self, forward: int, length: int, snapshot: Snapshot) -> None:
        """No attention was seen yet.

        Args:
            forward: number of the call.
            length: of the canvas.
            snapshot: takes the copies of the call.
        """
        self._forward, self._length, self._snapshot = forward, length, snapshot
        self._layers = list[_Layer]()
        self._mask: tuple[Tensor, int, Copy] | None = None
        """The mask that was copied last, as it was, and its copy: layers share one."""

    def add(
        self, layer: int, call: int, attention: SeenAttention, positions: Sequence[np.ndarray]
    ) -> None:
        """Keep one call.

        Args:
            layer: counted from 1.
            call: of the layer, counted from 0.
            attention: of the whole batch.
            positions: int32 [N] of the rows of each sample.
        """
        self._layers.append(
            _Layer(
                number=layer,
                call=call,
                attention=attention,
                positions=positions,
                query_CHNW=self._snapshot.take(attention.query_CHNW),
                mixed_CHNW=self._snapshot.take(attention.mixed_CHNW),
                mask=None if attention.mask is None else self._taken(attention.mask),
                causal=attention.causal,
                scale=attention.scale,
                drops=attention.drops,
                rounds=(_name(attention.scored), _name(attention.weighed)),
            )
        )

    def end(self, cache: Sequence[tuple[Tensor, Tensor]]) -> None:
        """The call is done: copy keys and values, but what the cache has is copied already.

        Args:
            cache: keys and values of each layer, as they were recorded.
        """
        for kept in self._layers:
            attention, kept.attention = kept.attention, None
            assert attention is not None
            key, value = cache[kept.number - 1] if kept.number <= len(cache) else (None, None)
            if not _is(attention.key_CGKW, key):
                kept.key_CGKW = self._snapshot.take(attention.key_CGKW)
            if not _is(attention.value_CGKW, value):
                kept.value_CGKW = self._snapshot.take(attention.value_CGKW)

    def kept(self, b: int, c: int) -> Iterator[KeptAttention]:
        """What is kept of one sample, layer by layer.

        Args:
            b: of the sample.
            c: of its part of the batch of the call.
        """
        for layer in self._layers:
            yield KeptAttention(self._forward, self._length, layer, b, c)

    def _taken(self, mask: Tensor) -> Copy:
        """A copy of a mask; of what was expanded only once."""
        old = self._mask
        if old is not None and _same(old[0], mask) and old[1] == _version(mask):
            return old[2]
        once = [slice(0, 1) if step == 0 else slice(None) for step in mask.stride()]
        self._mask = mask, _version(mask), self._snapshot.take(mask[tuple(once)])
        return self._mask[2]


@dataclass(frozen=True, eq=False)
class KeptAttention:
    """Attention of one layer and one sample."""

    forward: int
    length: int
    """Of the canvas."""
    layer: _Layer
    b: int
    """Of the sample."""
    c: int
    """Of its part of the batch of the call."""

    @property
    def key(self) -> TensorKey:
        """Of its numbers."""
        return self._key(Tap.ATTENTION)

    def rowed(self, found: Rowed) -> Rowed:
        """Its tensors; waits for them.

        Args:
            found: what was kept of the cache, and of the layers before.
        """
        layer, positions = self.layer, self.layer.positions[self.b]
        query_HNW, mixed_HNW = (x.array()[self.c] for x in (layer.query_CHNW, layer.mixed_CHNW))
        heads, rows, width = query_HNW.shape
        key, value = (self._store(tap, width, found) for tap in _STORES)
        kept = {
            self._key(Tap.QUERY): (positions, _side_by_side(query_HNW)),
            self._key(Tap.MIXED): (positions, _side_by_side(mixed_HNW)),
        }
        places = places_of(key.keys, positions)
        inside = places < self.length
        for store in (key, value):
            if store.values is not None:
                kept[self._key(store.tap)] = places[inside], store.values[inside]
        bias = None if layer.mask is None else _bias(layer.mask.array(), self.c, rows, key.keys)
        told = 0 if bias is None else self._told(bias, found)
        if bias is not None and not told:
            kept[self._key(Tap.BIAS)] = positions, bias
        numbers = AttentionNumbers(
            scale=layer.scale,
            keys=key.keys,
            causal=layer.causal,
            bias_heads=0 if bias is None else bias.shape[1] // max(1, key.keys),
            bias_layer=0 if bias is None else told or self.key.layer,
            key_heads=_read_by(heads, key.first),
            value_heads=_read_by(heads, value.first),
            drops=layer.drops,
            scored=layer.rounds[0],
            weighed=layer.rounds[1],
        )
        kept[self.key] = np.zeros(1, np.int32), numbers.pack()
        return kept

    def _store(self, tap: Tap, width: int, found: Rowed) -> _Store:
        """Keys or values."""
        copy = self.layer.key_CGKW if tap is Tap.ATTENDED_KEY else self.layer.value_CGKW
        held = found.get(TensorKey(self.forward, _STORES[tap], self.layer.number))
        if copy is None:
            assert held is not None
            # None of the cache's own heads was repeated.
            return _Store(tap, len(held[1]), list(range(held[1].shape[1] // width)), None)
        x_GKW = copy.array()[self.c]
        first = _first_alike(x_GKW)
        index = sorted(set(first))
        values = _side_by_side(x_GKW if len(index) == len(x_GKW) else x_GKW[index])
        same = held is not None and held[1].dtype == values.dtype
        if same and held is not None and np.array_equal(held[1], values):
            return _Store(tap, len(values), first, None)
        return _Store(tap, len(values), first, values)

    def _told(self, bias: np.ndarray, found: Rowed) -> int:
        """The call before, if any, whose bias was the same; else 0."""
        earlier = [key for key in found if key.tap is Tap.BIAS]
        same = earlier and np.array_equal(found[earlier[-1]][1], bias)
        return earlier[-1].layer if same else 0

    def _key(self, tap: Tap) -> TensorKey:
        return TensorKey(self.forward, tap, of_call(self.layer.number, self.layer.call))


_STORES = {Tap.ATTENDED_KEY: Tap.KEY, Tap.ATTENDED_VALUE: Tap.VALUE}
"""With the tap that has them where they are the cache's own."""


@dataclass(frozen=True, eq=False)
class _Store:
    """Keys or values that attention was given."""

    tap: Tap
    keys: int
    """K"""
    first: list[int]
    """Of each head, the first one that is the same."""
    values: np.ndarray | None
    """[K, heads that differ * W]; None if they are the cache's."""


def _name(dtype: torch.dtype | None) -> str:
    return "" if dtype is None else str(dtype).removeprefix("torch.")


def places_of(keys: int, positions: np.ndarray) -> np.ndarray:
    """Where keys stand, int32 [K]: in their order; or, if they are all of the rows, where these do.

    Args:
        keys: K.
        positions: int32 [N] of the rows of the call.
    """
    own = keys == positions.size and np.unique(positions).size == keys
    return positions if own else np.arange(keys, dtype=np.int32)


def _is(x: Tensor, cached: Tensor | None) -> bool:
    """Whether a tensor is the cache's own, not a copy of it."""
    return (
        cached is not None
        and x.data_ptr() == cached.data_ptr()
        and (x.shape, x.stride(), x.dtype) == (cached.shape, cached.stride(), cached.dtype)
    )


def _same(mask: Tensor, other: Tensor) -> bool:
    """Whether two are one tensor, or views of one that show the same: it is cut anew in a layer."""
    return mask is other or (mask._base is other._base is not None and _is(mask, other))


def _version(x: Tensor) -> int:
    """How often a tensor was written to; tensors of inference mode do not count."""
    return -1 if x.is_inference() else x._version


def _side_by_side(x_HNW: np.ndarray) -> np.ndarray:
    """Heads side by side, [N, H W]."""
    heads, rows, width = x_HNW.shape
    return np.ascontiguousarray(x_HNW.swapaxes(0, 1)).reshape(rows, heads * width)


def _first_alike(x_GKW: np.ndarray) -> list[int]:
    """Of each head, the first one that is the same: those that share one were often repeated."""
    every = list(range(len(x_GKW)))
    if not x_GKW.shape[1]:
        return every
    # One key tells most heads apart; then all are compared at once.
    first_GW = x_GKW[:, 0]
    found = (first_GW[:, None] == first_GW[None]).all(-1).argmax(-1).tolist()
    return found if found == every or np.array_equal(x_GKW, x_GKW[found]) else every


def _read_by(heads: int, first: list[int]) -> tuple[int, ...]:
    """Of each query head, which of the heads that differ it reads; torch repeats each in a row."""
    index = sorted(set(first))
    return tuple(index.index(g) for g in first for _ in range(heads // len(first)))


def _bias(mask: np.ndarray, c: int, rows: int, keys: int) -> np.ndarray | None:
    """What is added to the scores, float16 [N, K] or [N, H K]; None if nothing is."""
    if mask.ndim == 4:
        mask = mask[c if len(mask) > 1 else 0]
    if mask.dtype == bool:
        bias = np.where(mask, np.float16(0), np.float16(-np.inf))
    else:
        # The lowest number of any dtype hides as well as minus infinity does, which it becomes.
        bias = np.clip(mask.astype(np.float32), -np.inf, 6e4)
        bias = np.where(bias < -6e4, -np.inf, bias).astype(np.float16)
    if not bias.any():
        return None
    if bias.ndim == 3 and (len(bias) == 1 or bool((bias == bias[:1]).all())):
        bias = bias[0]
    bias = np.broadcast_to(bias, (*bias.shape[:-2], rows, keys))
    return np.ascontiguousarray(bias) if bias.ndim == 2 else _side_by_side(bias)
