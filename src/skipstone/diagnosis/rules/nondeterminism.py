"""30: a run is not the same twice."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Rerun, Side
from skipstone.diagnosis.finding import Finding, Place, Proof
from skipstone.diagnosis.rule import Answer, Rule, place
from skipstone.record import StepRecord
from skipstone.sentence import Sentence


def examine(case: Case) -> Answer:
    """Run each side again a few times; no cause is claimed where they differ by themselves."""
    if case.divergence.comparison.identical:
        return None
    sides: tuple[Side, ...] = ("a", "b")
    for side in sides:
        firsts = case.noise.self_runs(side)
        flips = sum(f is not None for f in firsts)
        if firsts and not flips:
            flips = _redrawn(case, side, len(firsts))
        if not flips:
            continue
        return Finding(
            rule=RULE.name,
            number=RULE.number,
            what=Sentence("{side} is not the same twice", side=side.upper()),
            where=_where(case, side),
            evidence=Sentence(
                "{flips} of {runs} runs of {side} with the same settings decide otherwise than its "
                "trace",
                flips=flips,
                runs=len(firsts),
                side=side.upper(),
            ),
            experiment=Sentence(
                "ran {side} again {runs} times", side=side.upper(), runs=len(firsts)
            ),
            proof=Proof.SUFFICIENT,
            remedy=Sentence(
                "fix seeds, set torch.use_deterministic_algorithms(True), then compare again"
            ),
        )
    return None


def _redrawn(case: Case, side: Side, attempts: int) -> int:
    """How many runs, repeated to their end, give other tokens, though a seed fixes the draws.

    Draws without a seed can agree by chance up to where A and B part.
    """
    record = case.record_a if side == "a" else case.record_b
    if float(record.header.settings.get("temperature", "0")) == 0:
        return 0
    runs = (case.ask(Rerun(side, attempt=n + 1)) for n in range(attempts))
    return sum(t is not None and t.records[0].tokens != record.tokens for t in runs)


def _where(case: Case, side: Side) -> Place:
    """The first candidate that a repetition, or the other side, scores otherwise."""
    record = case.record_a if side == "a" else case.record_b
    runs = (case.ask(Rerun(side, attempt=n + 1, until=case.divergence.until)) for n in range(2))
    again = [t.records[0].steps for t in runs if t is not None]
    again.append((case.record_b if side == "a" else case.record_a).steps)
    for step in record.steps:
        for other in (s for steps in again for s in steps if s.forward == step.forward):
            moved = _moved(step, other, case.noise.floor.confidence)
            if moved.size:
                return place(step, None, int(moved[0]))
    return Place()


def _moved(step: StepRecord, other: StepRecord, floor: float) -> np.ndarray:
    """Positions of candidates with another token or confidence, if both saw the same canvas."""
    mine, theirs = step.candidates, other.candidates
    if step.canvas != other.canvas or not np.array_equal(mine.position, theirs.position):
        return np.zeros(0, np.int32)
    same = (mine.token == theirs.token) & (np.abs(mine.confidence - theirs.confidence) <= floor)
    return mine.position[~same | (mine.committed != theirs.committed)]


RULE = Rule(30, "nondeterminism", "a run differs from itself", examine)
