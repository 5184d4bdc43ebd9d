"""The commit rules that the two loops really follow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from skipstone.diagnosis.case.divergence import Parting
from skipstone.diagnosis.case.noise import Noise
from skipstone.diagnosis.case.runs import Runs
from skipstone.diagnosis.loop import (
    Identified,
    RuleDifference,
    difference,
    identified,
    more_closely,
    parted,
    same_scores,
)


@dataclass(eq=False)
class Loops:
    """What is known of the loops from their decisions alone; no model is asked."""

    runs: Runs
    divergence: Parting
    noise: Noise

    @cached_property
    def same_scores(self) -> bool:
        """Whether both saw the same scores where they part."""
        first = self.divergence.first
        if first is None:
            return False
        a, b = (found.evidence for found in self._plainly)
        at = parted(a, b)
        return at is not None and same_scores(a, at[0], b, at[1], self.noise.floor.confidence)

    @cached_property
    def _plainly(self) -> tuple[Identified, Identified]:
        first = self.divergence.first
        assert first is not None
        a = identified(self.runs.a, self.runs.sample_a, (first.forward_a,), plainly=True)
        return a, identified(self.runs.b, self.runs.sample_b, (first.forward_b,), plainly=True)

    @property
    def difference(self) -> RuleDifference | None:
        """How B's rule differs from A's, if that is why they part."""
        found = self.compared
        return found if found is not None and found.parts else None

    @cached_property
    def compared(self) -> RuleDifference | None:
        """The same, also where all that is known is that B's rule is not A's."""
        if self.divergence.first is None:
            return None
        (a, b), noise = self._plainly, self.noise.floor.confidence
        found = difference(a, b, noise) if a.solved and b.solved else None
        if a.solved and b.solved and (found is None or found.plain):
            return found
        return difference(more_closely(a), more_closely(b), noise)
