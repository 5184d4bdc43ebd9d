"""What noise can do: how far scores move under changes that should not matter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter

from skipstone.diagnosis.case.divergence import Parting
from skipstone.diagnosis.case.inquiry import Inquiry
from skipstone.diagnosis.case.runs import Runs
from skipstone.diagnosis.experiment import VARIATIONS, Choice, Follow, Rerun, SideName, Variation
from skipstone.diff import Divergence, Floor, compare, estimated_floor, floor_from
from skipstone.diff.floor import confidence_apart, roundoff
from skipstone.record import RunRecord, Trace

_LED: frozenset[Choice] = frozenset(("rows", "skip"))
_FREE: frozenset[Choice] = frozenset()


@dataclass(eq=False)
class Noise:
    """The floor around the divergence, and repetitions of each side."""

    runs: Runs
    inquiry: Inquiry
    divergence: Parting

    @cached_property
    def floor(self) -> Floor:
        """Noise, measured around the divergence if the model is here, else estimated."""
        plain = self.varied("")
        varied = [(name, trace) for name in VARIATIONS if (trace := self.varied(name)) is not None]
        if plain is None or not varied:
            return estimated_floor(self._record.header)
        return floor_from(plain, varied)

    def varied(self, variation: Variation) -> Trace | None:
        """A, teacher-forced on its own canvases, with one thing changed that should not matter.

        Of two dtypes the coarser one makes the noise: then it is B, if B's is the coarser.
        """
        led = _FREE if self.runs.stated else _LED
        side = self._side
        settings = self.runs.settings if side == "b" else "a"
        return self.inquiry.ask(Follow(side, settings, self._window, led=led, variation=variation))

    @cached_property
    def _side(self) -> SideName:
        a, b = self.runs.record_a.header.dtype, self.runs.record_b.header.dtype
        return "b" if roundoff(b) > roundoff(a) else "a"

    @property
    def _record(self) -> RunRecord:
        return self.runs.record_b if self._side == "b" else self.runs.record_a

    @cached_property
    def _window(self) -> tuple[int, int]:
        steps, first = self._record.steps, self.divergence.first
        if first is None:
            at = self._furthest_apart
        else:
            known = [s.forward for s in steps if (s.block, s.step) <= (first.block, first.step)]
            at = max(known, default=0)
        last = steps[-1].forward
        return max(0, min(at, last) - 1), min(at, last)

    @cached_property
    def _furthest_apart(self) -> int:
        """The forward where confidences of runs that never part differ the most.

        Where a model is sure, noise does not show: measured there, it would make a departure of
        the same noise elsewhere.
        """
        pairs = ((step, self.divergence.same_step(step)) for step in self.runs.record_b.steps)
        moved = [
            (
                float(confidence_apart(a, b).max(initial=0.0)),
                a.forward if self._side == "a" else b.forward,
            )
            for b, a in pairs
            if a is not None
        ]
        return max(moved, key=itemgetter(0), default=(0.0, 1))[1]

    def self_runs(self, side: SideName, attempts: int = 2) -> list[Divergence | None]:
        """Where repetitions of a side part from its trace, up to where A and B part.

        None for a repetition that does not part.
        """
        record = self.runs.record_a if side == "a" else self.runs.record_b
        if record.header.batch > 1:
            # A run repeats one prompt alone, which says nothing about the same batch again.
            return []
        until = self.divergence.until
        runs = (Rerun(side, attempt=n + 1, until=until) for n in range(attempts))
        traces = [trace for run in runs if (trace := self.inquiry.ask(run)) is not None]
        return [self.divergence.earlier(compare(record, t.records[0]).first) for t in traces]
