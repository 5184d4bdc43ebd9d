"""One decision made again: does a rule give these commits from those scores?

Shape letters: C masks of the canvas before a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from skipstone.diagnosis.loop.choice import BlockProgress, choice, within
from skipstone.diagnosis.loop.evidence import Decision, Evidence
from skipstone.diagnosis.loop.number import allowed
from skipstone.diagnosis.loop.rule import SCHEDULES, LoopRule
from skipstone.diagnosis.loop.sheet import Proposals, matched


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
    rule: LoopRule,
    evidence: Evidence,
    number: int,
    given: StepCommits,
    place: BlockProgress,
    beside: tuple[Evidence, int] | None = None,
) -> bool:
    """Whether a rule, on the scores of one decision, commits exactly what was given.

    Args:
        rule: with the values that its free number may have.
        evidence: whose scores are decided on.
        number: of the decision.
        given: the commits in question: of this run, or of another at the same canvas.
        place: where the step stands in the blocks of the loop whose rule it is.
        beside: the decision of another run at the same canvas, which may have scores for masks
            that this one has none for.
    """
    written_C = given.on(evidence.decisions[number].position_C)
    if written_C is None:
        return False
    alone = evidence.alone(number, written_C)
    place = replace(place, opening=place.step == 0 and given.positions == (place.start,))
    asked = alone.decisions[0]
    if rule.selection.opening and place.opening:
        return bool(alone.drawn(rule.draw).all())
    proposals = alone.proposals(0, rule.draw, rule.confidence.dtype)
    if beside is not None:
        proposals = _completed(proposals, asked, beside, rule)
    chosen = choice(
        asked,
        proposals,
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


def _completed(
    mine: Proposals, asked: Decision, beside: tuple[Evidence, int], rule: LoopRule
) -> Proposals:
    """Proposals with those of another run for masks without scores."""
    other, number = beside
    theirs = other.proposals(number, rule.draw, rule.confidence.dtype)
    missing = np.flatnonzero(np.isnan(mine.best_C))
    known, at = matched(asked.position_C[missing], other.decisions[number].position_C)
    mine_C = missing[known]
    if not mine_C.size or mine.exact_C is not None or theirs.exact_C is not None:
        return mine

    def put(into_C: np.ndarray, from_C: np.ndarray) -> np.ndarray:
        whole_C = into_C.copy()
        whole_C[mine_C] = from_C[at]
        return whole_C

    return Proposals(
        put(mine.token_C, theirs.token_C),
        put(mine.best_C, theirs.best_C),
        put(mine.second_C, theirs.second_C),
        put(mine.log_p_C, theirs.log_p_C),
        put(mine.mean_C, theirs.mean_C),
        {
            axis: put(s, theirs.column_C[axis])
            for axis, s in mine.column_C.items()
            if axis in theirs.column_C
        },
        None,
    )
