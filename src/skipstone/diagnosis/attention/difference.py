"""Which part of what attention was given makes two runs differ: tried by giving B's call A's part.

Shape letters: N rows, K keys, H query heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np

from skipstone.diagnosis.attention.call import HALF, AttentionCall
from skipstone.record import StepRecord

Tensor = Literal["queries", "keys", "values"]
AttentionPart = Literal[
    "visible", "scale", "sharing", "rounding", "keys", "values", "queries", "arithmetic"
]
_GIVEN: tuple[AttentionPart, ...] = (
    *("visible", "scale", "sharing", "rounding"),
    *("keys", "values", "queries"),
)
# Share of a difference that may be left where what was rounded is rounded again: a number beside
# the middle of two others may fall to either.
_LEFT = 0.25
# Rows that are computed again: each attends all keys.
_LOOKED_AT = 64


@dataclass(frozen=True, eq=False)
class AttentionDifference:
    """Attention of one layer, which got equal states in both runs and gave others."""

    step: StepRecord
    """B's."""
    layer: int
    a: AttentionCall
    """A's call, in the rows that both computed."""
    b: AttentionCall
    """B's call, in the same rows."""
    level: float
    """What noise can do to a row, relative."""
    bases: tuple[float, ...] = ()
    """Of rotary embeddings, as the configurations of both name them."""
    call: int = 0
    """Of the calls of attention in the layer."""

    @cached_property
    def parts(self) -> tuple[AttentionPart, ...]:
        """The fewest parts of A's with which B's attention gives what A's gave; none if none do.

        ``arithmetic`` if all was given alike, and B's output is not what this gives.
        """
        differ = [part for part in _GIVEN if self._differs(part)]
        if not differ:
            return ("arithmetic",) if self.computed_a and not self.computed_b else ()
        if differ == ["rounding"] and self.rounds:
            return ("rounding",)
        if not (self.computed_a and self.computed_b):
            return ()
        sizes = range(1, len(differ) + 1)
        tried = (parts for size in sizes for parts in combinations(differ, size))
        return next((parts for parts in tried if self.gives_a(parts)), ())

    @cached_property
    def differ(self) -> tuple[AttentionPart, ...]:
        """Parts that were not given alike."""
        return tuple(part for part in _GIVEN if self._differs(part))

    @cached_property
    def computed_a(self) -> bool:
        """Whether A's output is what its attention gives when it is computed again."""
        return _close(self._few_a.computed(), self._few_a.mixed_NHW, self._precision)

    @cached_property
    def computed_b(self) -> bool:
        """Whether B's output is what its attention gives when it is computed again."""
        return _close(self._few_b.computed(), self._few_b.mixed_NHW, self._precision)

    def gives_a(self, parts: tuple[AttentionPart, ...]) -> bool:
        """Whether B's attention with these parts of A's gives what A's gave."""
        mixed = _with(self._few_b, self._few_a, parts)
        return mixed is not None and _close(
            mixed.computed(), self._few_a.mixed_NHW, self._precision
        )

    @cached_property
    def rounds(self) -> bool:
        """Whether both give what is computed again with scores and weights rounded as in each."""
        apart = _error(self._few_b.mixed_NHW, self._few_a.mixed_NHW)
        left = sum(_error(x.computed(), x.mixed_NHW) for x in (self._few_a, self._few_b))
        return bool(np.sum(left) <= _LEFT * np.sum(apart))

    @cached_property
    def positions(self) -> np.ndarray:
        """Rows whose output differs, int [P]."""
        return self.a.positions_N[_error(self.b.mixed_NHW, self.a.mixed_NHW) > self.level]

    @cached_property
    def size(self) -> float:
        """Largest relative difference of an output."""
        return float(_error(self.b.mixed_NHW, self.a.mixed_NHW).max(initial=0.0))

    @cached_property
    def fewer_keys(self) -> tuple[int, ...]:
        """Places of A's keys that B has none for, where all others are there in their order.

        Values tell: they have no rotation, which other places would change.
        """
        a, b = self.a.value_KGW, self.b.value_KGW
        if len(b) >= len(a) or a.shape[1:] != b.shape[1:]:
            return ()
        missing = list[int]()
        at = 0
        for place, row in zip(self.a.places_K.tolist(), a, strict=True):
            if at < len(b) and _close(b[at][None], row[None], self.level):
                at += 1
            else:
                missing.append(place)
        return tuple(missing) if at == len(b) else ()

    @cached_property
    def swapped(self) -> bool:
        """Whether B's queries are A's keys, and B's keys A's queries."""
        a, b = self.a, self.b
        common, of_rows, of_keys = np.intersect1d(
            a.positions_N, self.places[0], return_indices=True
        )
        key_a, key_b = (x.key_KGW[i] for x, i in zip((a, b), self.places[1:], strict=True))
        if not common.size or a.query_NHW.shape[1:] != key_a.shape[1:]:
            return False
        return _close(b.query_NHW[of_rows], key_a[of_keys], self.level) and _close(
            key_b[of_keys], a.query_NHW[of_rows], self.level
        )

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places that both have keys for, int [K], and their indices in A and in B."""
        return np.intersect1d(self.a.places_K, self.b.places_K, return_indices=True)

    def pair(self, part: Tensor) -> tuple[np.ndarray, ...]:
        """Positions [M], and A's and B's rows [M, heads, W] of a part, where both have them."""
        if part == "queries":
            return self.a.positions_N, self.a.query_NHW, self.b.query_NHW
        places, of_a, of_b = self.places
        if part == "keys":
            return places, self.a.key_KGW[of_a], self.b.key_KGW[of_b]
        return places, self.a.value_KGW[of_a], self.b.value_KGW[of_b]

    def wrong(self, part: Tensor) -> np.ndarray:
        """Which rows of a part differ, bool [M]."""
        _, a, b = self.pair(part)
        if a.shape != b.shape:
            return np.ones(len(a), bool)
        return _error(b, a) > self.level

    @cached_property
    def hidden(self) -> tuple[np.ndarray, np.ndarray]:
        """Where A and B hide a key from a row, over all places of either, bool [N, H, K] each."""
        every = np.union1d(self.a.places_K, self.b.places_K)
        return _hidden(self.a, every), _hidden(self.b, every)

    @cached_property
    def every_place(self) -> np.ndarray:
        """Places that either has, int [K]."""
        return np.union1d(self.a.places_K, self.b.places_K)

    def _differs(self, part: AttentionPart) -> bool:
        a, b = self.a, self.b
        if part == "scale":
            return not np.isclose(a.scale, b.scale, rtol=1e-6, atol=0)
        if part == "sharing":
            return (a.key_heads, a.value_heads) != (b.key_heads, b.value_heads)
        if part == "visible":
            return not _same_bias(a, b)
        if part == "rounding":
            return _rounding(a, b) != _rounding(b, a)
        if part in ("keys", "values", "queries"):
            return bool(self.wrong(part).any())
        return False

    @cached_property
    def _rows(self) -> np.ndarray:
        """The rows that are computed again, with some of those that differ."""
        order = np.argsort(-_error(self.b.mixed_NHW, self.a.mixed_NHW), kind="stable")
        return np.sort(order[:_LOOKED_AT])

    @cached_property
    def _few_a(self) -> AttentionCall:
        return self.a.at(self._rows)

    @cached_property
    def _few_b(self) -> AttentionCall:
        return self.b.at(self._rows)

    @property
    def _precision(self) -> float:
        """Sums over keys are taken in another order here, and not rounded."""
        return self.level


def _with(
    b: AttentionCall, a: AttentionCall, parts: tuple[AttentionPart, ...]
) -> AttentionCall | None:
    """B's call with parts of A's; None where they do not fit into it."""
    names = [name for part in parts for name in _FIELDS.get(part, ())]
    mixed = replace(b, **{name: getattr(a, name) for name in names})
    places = a.places_K if "visible" in parts else b.places_K
    every = np.union1d(a.places_K, b.places_K)
    keys = _taken(a, b, "key_KGW", every, first="keys" in parts)
    values = _taken(a, b, "value_KGW", every, first="values" in parts)
    bias = _spread(a if "visible" in parts else b, every)
    if keys is None or values is None:
        return None
    if max(mixed.key_heads) >= keys.shape[1] or max(mixed.value_heads) >= values.shape[1]:
        return None
    bias = np.where(np.isin(every, places), bias, -np.inf)
    return replace(mixed, places_K=every, key_KGW=keys, value_KGW=values, bias_NHK=bias)


_FIELDS: dict[AttentionPart, tuple[str, ...]] = {
    "scale": ("scale",),
    "sharing": ("key_heads", "value_heads"),
    "rounding": ("scored", "weighed"),
    "queries": ("query_NHW",),
}


def _rounding(call: AttentionCall, other: AttentionCall) -> tuple[str, str]:
    """What scores and weights of a call are rounded to, where the other call shows it as well.

    Nobody sees that of attention in one function; but it keeps what its queries do.
    """
    seen = ((call.scored, other.scored), (call.weighed, other.weighed))
    unseen = other.dtype not in HALF
    scored, weighed = (mine if mine in HALF and (its or unseen) else "" for mine, its in seen)
    return scored, weighed


def _taken(
    a: AttentionCall, b: AttentionCall, name: str, every: np.ndarray, *, first: bool
) -> np.ndarray | None:
    """Keys or values at every place: those of one call, and where it has none, of the other."""
    own, other = (a, b) if first else (b, a)
    mine, theirs = getattr(own, name), getattr(other, name)
    if np.array_equal(own.places_K, every):
        return mine
    if mine.shape[1:] != theirs.shape[1:]:
        return None
    found = np.zeros((every.size, *mine.shape[1:]))
    found[np.searchsorted(every, other.places_K)] = theirs
    found[np.searchsorted(every, own.places_K)] = mine
    return found


def _spread(call: AttentionCall, every: np.ndarray) -> np.ndarray:
    """The bias over every place; what a call has no key for is hidden."""
    rows, heads, _ = call.bias_NHK.shape
    found = np.full((rows, heads, every.size), -np.inf)
    found[:, :, np.searchsorted(every, call.places_K)] = call.bias_NHK
    return found


def _hidden(call: AttentionCall, every: np.ndarray) -> np.ndarray:
    return np.isneginf(_spread(call, every))


def _same_bias(a: AttentionCall, b: AttentionCall) -> bool:
    if not np.array_equal(a.places_K, b.places_K):
        return False
    with np.errstate(invalid="ignore"):
        return bool(((a.bias_NHK == b.bias_NHK) | (np.abs(a.bias_NHK - b.bias_NHK) < 1e-6)).all())


def _error(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Relative difference of each row over all its heads, [N]; infinite if it is not a number."""
    flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    apart = np.linalg.norm(flat_b - flat_a, axis=1)
    scale = np.linalg.norm(flat_a, axis=1)
    found = np.where(apart == 0, 0.0, apart / np.where(scale > 0, scale, 1.0))
    return np.where(np.isnan(found), np.inf, found)


def _close(a: np.ndarray, b: np.ndarray, level: float) -> bool:
    return a.shape == b.shape and bool((_error(a, b) <= level).all())
