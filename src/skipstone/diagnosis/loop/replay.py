"""One decision made again: does a rule give these commits from those scores?

Shape letters: C masks of the canvas before a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from skipstone.diagnosis.loop.choice import BlockProgress, choice, within
from skipstone.diagnosis.loop.evidence import Evidence
from skipstone.diagnosis.loop.number import allowed
from skipstone.diagnosis.loop.rule import SCHEDULES, LoopRule


@dataclass(frozen=True)
class StepCommits:
    """What was committed in a step: positions, and tokens by position."""

    positions: tuple[int, ...]
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, evidence: Evidence, number: int) -> StepCommits:
        """The commits of one decision."""
        decision = evidence.decisions[number]
        done_C = decision.committed
        return cls(
            tuple(decision.position_C[done_C].tolist()), tuple(decision.written_C[done_C].tolist())
        )

    def on(self, position_C: np.ndarray) -> np.ndarray | None:
        """The tokens by mask, int64 [C], -1 where none was written; None if one has no mask."""
        at = np.searchsorted(position_C, self.positions)
        if not np.isin(self.positions, position_C).all():
            return None
        written_C = np.full(position_C.size, -1, np.int64)
        written_C[at] = self.tokens
        return written_C


def gives(
    rule: LoopRule, evidence: Evidence, number: int, given: StepCommits, place: BlockProgress
) -> bool:
    """Whether a rule, on the scores of one decision, commits exactly what was given.

    Args:
        rule: with the values that its free number may have.
        evidence: whose scores are decided on.
        number: of the decision.
        given: the commits in question: of this run, or of another at the same canvas.
        place: where the step stands in the blocks of the loop whose rule it is.
    """
    written_C = given.on(evidence.decisions[number].position_C)
    if written_C is None:
        return False
    alone = evidence.alone(number, written_C)
    place = replace(place, opening=place.step == 0 and given.positions == (place.start,))
    asked = alone.decisions[0]
    if rule.selection.opening and place.opening:
        return bool(alone.drawn(rule.draw).all())
    chosen = choice(
        asked,
        alone.proposals(0, rule.draw, rule.confidence.dtype),
        rule.draw,
        rule.confidence,
        within(asked, place, rule.region),
        evidence.record.header.mask_id,
    )
    if chosen is None:
        return False
    value = rule.selection.value
    found = allowed(
        rule.selection.number,
        chosen,
        place.of_canvas if rule.selection.of_canvas else place,
        rule.confidence.kind,
        steps=int(value.low) if rule.selection.number in SCHEDULES else 0,
        forced=rule.selection.forced,
    )
    return found is not None and not found.meet(value).empty
