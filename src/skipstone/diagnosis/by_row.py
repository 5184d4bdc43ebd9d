"""Logits of two runs by the same way of counting, where one of them shifts its scores.

A record has logits where they are taken: at the position that a row scores. If one run takes the
scores of the row before and the other does not, that is what is looked for; so the logits of both
are shown at their own rows, and the loops say which row they read.

Shape letters: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from skipstone.record import (
    SCORE_OFFSET,
    RunRecord,
    Tap,
    TensorKey,
    TensorRows,
    Trace,
)

_LOGITS = (Tap.LOGITS, Tap.UNGUIDED)


def unlike(a: RunRecord, b: RunRecord) -> bool:
    """Whether only one of two runs takes the scores of the row before."""
    return offset_of(a) != offset_of(b)


def by_row(trace: Trace, sample: int = 0) -> Trace:
    """A trace with its logits at the rows that computed them; ``sample`` says how they stand."""
    return ByRow(trace) if offset_of(trace.records[sample]) else trace


def offset_of(record: RunRecord) -> int:
    """Which row a record says to score a position: -1 for the one before, 0 for its own."""
    said = record.header.environment.get(SCORE_OFFSET, "0")
    events = (e for e in record.events if e.kind == SCORE_OFFSET)
    return -1 if said == "-1" or any(e.numbers.get("offset") == -1 for e in events) else 0


@dataclass(frozen=True, eq=False)
class ByRow:
    """A trace of shifted scores, with its logits at the rows that computed them."""

    trace: Trace

    @property
    def records(self) -> Sequence[RunRecord]:
        """As they are."""
        return self.trace.records

    def keys(self, sample: int) -> Sequence[TensorKey]:
        """As they are."""
        return self.trace.keys(sample)

    def tensor(self, sample: int, key: TensorKey) -> TensorRows | None:
        """One tensor; None if it was not recorded."""
        found = self.trace.tensor(sample, key)
        if found is None or key.tap not in _LOGITS:
            return found
        # Position 0 is scored by its own row, which scores position 1 as well.
        kept = found.positions > 0
        return replace(found, positions=found.positions[kept] - 1, values=found.values[kept])
