"""A's steps in the place of those steps of B that started from the same canvas.

If the reference engine cannot run on B's canvases, A's own trace says what B should have done: up
to where the two differ, both saw the same canvases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from skipstone.record import RunRecord, StepRecord, TensorKey, TensorRows, Trace


@dataclass(frozen=True, eq=False)
class PairedTrace:
    """A trace of one sample: A's, with B's count of forwards."""

    records: Sequence[RunRecord]
    _trace: Trace
    _sample: int
    _forward_a: Mapping[int, int]
    """By B's forward."""

    @classmethod
    def of(
        cls, trace: Trace, sample: int, steps: Sequence[tuple[StepRecord, StepRecord]]
    ) -> PairedTrace:
        """Take pairs of steps, A's and B's."""
        renamed = tuple(replace(a, forward=b.forward) for a, b in steps)
        record = replace(trace.records[sample], steps=renamed)
        return cls((record,), trace, sample, {b.forward: a.forward for a, b in steps})

    def keys(self, sample: int) -> list[TensorKey]:
        """Tensors that A recorded in these steps, in order of forward, tap and layer."""
        forward_b = {a: b for b, a in self._forward_a.items()}
        return sorted(
            key._replace(forward=forward_b[key.forward])
            for key in self._trace.keys(self._sample)
            if key.forward in forward_b
        )

    def tensor(self, sample: int, key: TensorKey) -> TensorRows | None:
        """One tensor; None if A has not recorded it."""
        forward = self._forward_a.get(key.forward)
        if forward is None:
            return None
        found = self._trace.tensor(self._sample, key._replace(forward=forward))
        return None if found is None else replace(found, key=key)
