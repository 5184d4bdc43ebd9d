"""Comparisons that see a small part of the vocabulary only.

A user who keeps the first hundred entries of each step's logits and compares these sees little of
what changed. Slices of logits are followed, through copies and casts, to the comparison; there the
whole rows are compared too. Where they leave torch to be kept, what compares them is not seen; that
it cannot see the rest of the vocabulary is said there.

Shape letters: V vocabulary, W entries of a slice.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from skipstone.foreign.shared.functions import Operation
from skipstone.foreign.shared.source import caller, place
from skipstone.foreign.shared.tensor_values import set_value, value_of
from skipstone.record import Event

# By name: a function of torch, a method of a tensor, and one that somebody has wrapped are alike.
_COPIES = frozenset(
    {
        "__deepcopy__",
        "bfloat16",
        "clone",
        "contiguous",
        "cpu",
        "cuda",
        "detach",
        "double",
        "flatten",
        "float",
        "half",
        "reshape",
        "squeeze",
        "to",
        "unsqueeze",
        "view",
    }
)
# Slices of several steps in one tensor.
_JOINS = frozenset({"cat", "concat", "stack"})
# From here on others compute: NumPy, or Python itself.
_LEAVES = frozenset({"__array__", "numpy", "tolist"})
_COMPARISONS = frozenset(
    {
        "__eq__",
        "__ne__",
        "allclose",
        "cosine_similarity",
        "dist",
        "eq",
        "equal",
        "isclose",
        "kl_div",
        "l1_loss",
        "mse_loss",
        "ne",
        "pairwise_distance",
        "smooth_l1_loss",
        "sub",
        "subtract",
    }
)
# Whole rows are kept as long as their slices; beyond this, slices are no longer followed.
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class _Rows:
    """What goes along with logits, and with slices of them.

    It is beside the tensors, not in a recorder: what one recorded run keeps may be compared during
    the next.
    """

    whole: Tensor | None
    """Over the whole vocabulary, of a slice; None for logits themselves."""


@dataclass(frozen=True, eq=False)
class _Leaving:
    """A slice that was turned into an array or a list."""

    tensor: Tensor
    source: str
    frame: int
    at: int
    """Place in the byte code."""

    def goes_on_in(self, other: _Leaving) -> bool:
        """Whether both stand in one expression, the other one further right."""
        here, there = (self.source, self.frame), (other.source, other.frame)
        return here == there and other.at > self.at and other.tensor is not self.tensor


@dataclass
class _Place:
    """What was compared at one line."""

    source: str
    entries: int
    vocab: int
    count: int = 0
    seen: float = 0.0
    whole: float = 0.0
    passed: int = 0


@dataclass(eq=False)
class LogitSlices:
    """Follows logits, and slices of less than half of their vocabulary."""

    _places: dict[str, _Place] = field(default_factory=dict)
    _held: list[weakref.ref[Tensor]] = field(default_factory=list)
    """Whole rows that are alive."""
    _leaving: _Leaving | None = None
    _kept: dict[str, _Place] = field(default_factory=dict)
    """Lines at which slices leave torch."""

    def add(self, logits: Tensor) -> None:
        """Follow the logits of a call."""
        set_value(logits, _Rows(None))

    def note(self, operation: Operation) -> None:
        """Look at one operation after it was done."""
        func, args, kwargs, out = operation
        name = getattr(func, "__name__", "")
        if name in _JOINS and isinstance(out, Tensor):
            self._join(args[0] if args else kwargs.get("tensors"), out)
            return
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        rows = value_of(given[0], _Rows) if given else None
        if rows is None:
            return
        if name in _COMPARISONS:
            if len(given) > 1:
                self._compare(given[0], given[1], place(caller()), passed=_agreed(name, out))
        elif name in _LEAVES:
            self._left(given[0], rows)
        elif isinstance(out, Tensor) and name in _COPIES:
            set_value(out, rows)
        elif isinstance(out, Tensor):
            self._slice(given[0], rows, _index(name, args, kwargs), out)

    def events(self) -> list[Event]:
        """One for each line whose comparisons missed a larger difference, or that keeps slices."""
        missed = [_event(p) for p in self._places.values() if p.whole > p.seen]
        kept = (p for p in self._kept.values() if p.count > 1 and p.source not in self._places)
        return [*missed, *map(_event_of_kept, kept)]

    def _slice(self, given: Tensor, rows: _Rows, index: tuple[Any, ...], out: Tensor) -> None:
        """A slice keeps its own copy of the whole rows: the caller may write into the logits."""
        if not index or out.dim() == 0:
            return
        if out.shape[-1] == given.shape[-1]:
            # Other rows of the same entries.
            set_value(out, _Rows(None if rows.whole is None else rows.whole[index]))
            return
        narrow = rows.whole is None and out.shape[-1] * 2 < given.shape[-1]
        if narrow and _cuts_vocabulary(index, given.dim()):
            self._keep(out, given[(*index[:-1], slice(None))].detach())

    def _join(self, parts: object, out: Tensor) -> None:
        """Slices side by side: their whole rows likewise, where all are known."""
        if not isinstance(parts, (list, tuple)) or not parts:
            return
        rows = [value_of(part, _Rows) for part in parts if isinstance(part, Tensor)]
        whole = [r.whole for r in rows if r is not None and r.whole is not None]
        if len(whole) == len(parts) and len({w.shape for w in whole}) == 1:
            self._keep(out, torch.stack(whole))

    def _keep(self, out: Tensor, whole: Tensor) -> None:
        if self._bytes() + whole.nbytes <= _MOST_BYTES:
            whole = whole.clone()
            self._held.append(weakref.ref(whole))
            set_value(out, _Rows(whole))

    def _left(self, given: Tensor, rows: _Rows) -> None:
        """A slice leaves torch: two that do so in one expression are held against each other.

        In a loop over many the same place in the code comes again; in one expression each has its
        own place, from left to right.
        """
        if rows.whole is None:
            return
        frame = caller()
        now = _Leaving(given, place(frame), id(frame), frame.f_lasti)
        before, self._leaving = self._leaving, now
        at = self._kept.setdefault(
            now.source, _Place(now.source, given.shape[-1], rows.whole.shape[-1])
        )
        at.count += 1
        if before is not None and before.goes_on_in(now):
            self._compare(before.tensor, given, now.source, passed=False)
            self._leaving = None

    def _bytes(self) -> int:
        alive = [(held, rows) for held in self._held if (rows := held()) is not None]
        self._held = [held for held, _ in alive]
        return sum(rows.nbytes for _, rows in alive)

    def _compare(self, a: Tensor, b: Tensor, source: str, *, passed: bool) -> None:
        rows_a, rows_b = value_of(a, _Rows), value_of(b, _Rows)
        whole_a = None if rows_a is None else rows_a.whole
        whole_b = None if rows_b is None else rows_b.whole
        if whole_a is None or whole_b is None:
            return
        if a.shape != b.shape or whole_a.shape != whole_b.shape:
            return
        at = self._places.setdefault(source, _Place(source, a.shape[-1], whole_a.shape[-1]))
        at.count += 1
        seen, whole = _distance(a, b), _distance(whole_a, whole_b)
        at.seen, at.whole = max(at.seen, seen), max(at.whole, whole)
        at.passed += passed and whole > seen


def _index(name: str, args: tuple[object, ...], kwargs: Mapping[str, object]) -> tuple[Any, ...]:
    """How an operation cuts its first argument; empty if it does not."""
    if name == "__getitem__":
        return args[1] if isinstance(args[1], tuple) else (args[1],)
    if name == "narrow":
        tensor, dim, start, length = (*args, *kwargs.values())[:4]
        numbers = isinstance(dim, int) and isinstance(start, int) and isinstance(length, int)
        if isinstance(tensor, Tensor) and numbers:
            index = [slice(None)] * tensor.dim()
            index[dim] = slice(start, start + length)
            return tuple(index)
    return ()


def _cuts_vocabulary(index: tuple[Any, ...], dims: int) -> bool:
    """Whether the last part of an index picks from the last dimension."""
    if not isinstance(index[-1], (slice, list, Tensor)):
        return False
    return len(index) == dims or any(part is Ellipsis for part in index[:-1])


def _agreed(name: str, out: object) -> bool:
    """Whether a comparison called its two sides equal."""
    if isinstance(out, bool):
        return out
    return name in ("__eq__", "eq", "isclose") and isinstance(out, Tensor) and bool(out.all())


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest difference; equal infinities do not differ."""
    return float(torch.where(a == b, 0.0, a.double() - b.double()).abs().max())


def _event(at: _Place) -> Event:
    return Event(
        kind="partial_logits_compare",
        message=(
            f"logits are compared on {at.entries} of {at.vocab} vocabulary entries: the largest "
            f"difference there is {at.seen:.3g}, over all entries it is {at.whole:.3g}; called "
            f"equal although they differ elsewhere: {at.passed} of {at.count}"
        ),
        source=at.source,
        numbers={
            "entries": at.entries,
            "vocabulary": at.vocab,
            "seen_difference": at.seen,
            "whole_difference": at.whole,
            "passed": at.passed,
        },
        count=at.count,
    )


def _event_of_kept(at: _Place) -> Event:
    return Event(
        kind="partial_logits_kept",
        message=(
            f"{at.entries} of {at.vocab} vocabulary entries of the logits are kept outside torch: "
            f"whatever compares them does not see the others"
        ),
        source=at.source,
        numbers={"entries": at.entries, "vocabulary": at.vocab},
        count=at.count,
    )
