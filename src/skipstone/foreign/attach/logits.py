"""Comparisons that see a small part of the vocabulary only.

A user who keeps the first hundred entries of each step's logits and compares these sees little of
what changed. Slices of logits are followed, through copies and casts, to the comparison; there the
whole rows are compared too.

Shape letters: V vocabulary, W entries of a slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

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

# From a slice to its rows over the whole vocabulary; from logits to None. It is beside the tensors,
# not in a recorder: what one recorded run keeps may be compared during the next.
_WHOLE = WeakTensorKeyDictionary()


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

    def add(self, logits: Tensor) -> None:
        """Follow the logits of a call."""
        _WHOLE[logits] = None

    def note(self, func: Callable[..., object], args: tuple[object, ...], out: object) -> None:
        """Look at one operation after it was done."""
        if not args or not isinstance(args[0], Tensor):
            return
        first = args[0]
        if func in _COMPARISONS:
            if len(args) > 1 and isinstance(args[1], Tensor):
                self._compare(first, args[1], out)
        elif isinstance(out, Tensor) and first in _WHOLE:
            if func is Tensor.__getitem__:
                self._slice(first, args[1], out)
            elif func in _COPIES:
                _WHOLE[out] = _WHOLE[first]

    def events(self) -> list[Event]:
        """One for each line whose comparisons missed a larger difference."""
        return [_event(p) for p in self._places.values() if p.whole > p.seen]

    def _slice(self, logits: Tensor, index: object, out: Tensor) -> None:
        """A slice keeps its own copy of the whole rows: the caller may write into the logits."""
        rows = _WHOLE[logits]
        if out.dim() == 0 or rows is not None:
            return
        if out.shape[-1] == logits.shape[-1]:
            _WHOLE[out] = None
        elif out.shape[-1] * 2 < logits.shape[-1] and _cuts_vocabulary(index, logits.dim()):
            assert isinstance(index, tuple)
            whole = logits[(*index[:-1], slice(None))]
            if _held() + whole.nbytes <= _MOST_BYTES:
                _WHOLE[out] = whole.clone()

    def _compare(self, a: Tensor, b: Tensor, out: object) -> None:
        whole_a, whole_b = _WHOLE.get(a), _WHOLE.get(b)
        if not (isinstance(whole_a, Tensor) and isinstance(whole_b, Tensor)):
            return
        if a.shape != b.shape or whole_a.shape != whole_b.shape:
            return
        source = place(caller())
        at = self._places.setdefault(source, _Place(source, a.shape[-1], whole_a.shape[-1]))
        at.count += 1
        seen, whole = _distance(a, b), _distance(whole_a, whole_b)
        at.seen, at.whole = max(at.seen, seen), max(at.whole, whole)
        at.passed += out is True and whole > seen


def _held() -> int:
    return sum(rows.nbytes for rows in _WHOLE.values() if isinstance(rows, Tensor))


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
