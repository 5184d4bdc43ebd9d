"""Comparisons that see a small part of the vocabulary only.

A user who keeps the first hundred entries of each step's logits and compares these sees little of
what changed. Slices of logits are followed, through copies and casts, to the comparison; there the
whole rows are compared too.

Shape letters: V vocabulary, W entries of a slice.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from skipstone.foreign.shared.beside import beside, put_beside
from skipstone.foreign.shared.source import caller, place
from skipstone.record import Event

_COPIES = frozenset(
    {
        Tensor.clone,
        Tensor.contiguous,
        Tensor.cpu,
        Tensor.cuda,
        Tensor.detach,
        Tensor.double,
        Tensor.float,
        Tensor.to,
        torch.clone,
        torch.detach,
    }
)
_COMPARISONS = frozenset(
    {
        Tensor.allclose,
        Tensor.equal,
        Tensor.isclose,
        Tensor.sub,
        torch.allclose,
        torch.equal,
        torch.isclose,
        torch.sub,
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

    def add(self, logits: Tensor) -> None:
        """Follow the logits of a call."""
        put_beside(logits, _Rows(None))

    def note(self, func: Callable[..., object], args: tuple[object, ...], out: object) -> None:
        """Look at one operation after it was done."""
        if not args or not isinstance(args[0], Tensor):
            return
        first = args[0]
        if func in _COMPARISONS:
            if len(args) > 1 and isinstance(args[1], Tensor):
                self._compare(first, args[1], out)
        elif isinstance(out, Tensor) and (func is Tensor.__getitem__ or func in _COPIES):
            rows = beside(first, _Rows)
            if rows is not None and func in _COPIES:
                put_beside(out, rows)
            elif rows is not None and rows.whole is None:
                self._slice(first, args[1], out)

    def events(self) -> list[Event]:
        """One for each line whose comparisons missed a larger difference."""
        return [_event(p) for p in self._places.values() if p.whole > p.seen]

    def _slice(self, logits: Tensor, index: object, out: Tensor) -> None:
        """A slice keeps its own copy of the whole rows: the caller may write into the logits."""
        if out.dim() == 0:
            return
        if out.shape[-1] == logits.shape[-1]:
            put_beside(out, _Rows(None))
        elif out.shape[-1] * 2 < logits.shape[-1] and _cuts_vocabulary(index, logits.dim()):
            assert isinstance(index, tuple)
            whole = logits[(*index[:-1], slice(None))]
            if self._bytes() + whole.nbytes <= _MOST_BYTES:
                whole = whole.detach().clone()
                self._held.append(weakref.ref(whole))
                put_beside(out, _Rows(whole))

    def _bytes(self) -> int:
        alive = [(held, rows) for held in self._held if (rows := held()) is not None]
        self._held = [held for held, _ in alive]
        return sum(rows.nbytes for _, rows in alive)

    def _compare(self, a: Tensor, b: Tensor, out: object) -> None:
        rows_a, rows_b = beside(a, _Rows), beside(b, _Rows)
        whole_a = None if rows_a is None else rows_a.whole
        whole_b = None if rows_b is None else rows_b.whole
        if whole_a is None or whole_b is None:
            return
        if a.shape != b.shape or whole_a.shape != whole_b.shape:
            return
        source = place(caller())
        at = self._places.setdefault(source, _Place(source, a.shape[-1], whole_a.shape[-1]))
        at.count += 1
        seen, whole = _distance(a, b), _distance(whole_a, whole_b)
        at.seen, at.whole = max(at.seen, seen), max(at.whole, whole)
        at.passed += out is True and whole > seen


def _cuts_vocabulary(index: object, dims: int) -> bool:
    """Whether the last part of an index is a slice of the last dimension."""
    if not isinstance(index, tuple) or not isinstance(index[-1], slice):
        return False
    return len(index) == dims or any(part is Ellipsis for part in index[:-1])


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
