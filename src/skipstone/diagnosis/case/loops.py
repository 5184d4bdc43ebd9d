"""The commit rules that the two loops really follow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from skipstone.diagnosis.case.divergence import Parting
from skipstone.diagnosis.case.noise import Noise
from skipstone.diagnosis.case.runs import Runs
from skipstone.diagnosis.loop import Difference, difference, identified, more_closely


@dataclass(eq=False)
class Loops:
    """What is known of the loops from their decisions alone; no model is asked."""

    runs: Runs
    divergence: Parting
    noise: Noise

    @cached_property
    def difference(self) -> Difference | None:
        """How B's rule differs from A's, if that is why they part."""
        first = self.divergence.first
        if first is None:
            return None
        a = identified(self.runs.a, self.runs.sample_a, (first.forward_a,), plainly=True)
        b = identified(self.runs.b, self.runs.sample_b, (first.forward_b,), plainly=True)
        if not (a.solved and b.solved):
            a, b = more_closely(a), more_closely(b)
        return difference(a, b, self.noise.floor.confidence)
