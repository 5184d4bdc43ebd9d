"""1: states of different token positions are compared."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.chosen_rows import chosen_rows
from skipstone.diagnosis.events import chooses, event_sentence, writes
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.ranked import ranked
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of_skip
from skipstone.diagnosis.similarity import Replayed, replayed
from skipstone.record import StepRecord
from skipstone.sentence import NOTHING, Code, Sentence


def examine(case: Case) -> Answer:
    """Look for references of another position: on the label, in foreign code, or in the numbers."""
    event = case.event("misaligned_rows")
    # Where the call itself puts its rows elsewhere, that is the cause.
    compared = event is not None and not (writes(event.message) or chooses(event.message))
    if event is not None and compared and case.event("positions_disagree") is None:
        return Finding(
            rule=RULE.name,
            number=RULE.number,
            what=Sentence("states of different token positions are compared"),
            where=place(case.step_b(event.forward), None, next(iter(event.positions_b), None)),
            evidence=event_sentence(event.message),
            experiment=Sentence("the similarity at the right position was computed beside it"),
            proof=proof_of_skip(case),
            remedy=Sentence(
                "gather the reference by absolute position at {source}", source=Code(event.source)
            ),
            positions=event.positions_b,
        )
    found = ranked(case, RULE.name, RULE.number, ("number",))
    found = found or chosen_rows(case, RULE.name, RULE.number, ("number",))
    if found is not None:
        return found
    step, stamped = _stamped(case)
    deviation = case.expected.first_of("similarity")
    if step is None and deviation is None:
        return None
    if step is None and deviation is not None:
        step = deviation.step
    assert step is not None
    crossed = replayed(case, step)
    if crossed is None or not crossed.crossed.any():
        return _by_stamp(step, stamped) if stamped.size else None
    return _by_numbers(case, step, crossed)


def _stamped(case: Case) -> tuple[StepRecord | None, np.ndarray]:
    """The first step in which a row says that its reference is another position's."""
    for step in case.record_b.steps:
        j = step.judgements
        if j is not None and step.forward <= case.divergence.horizon:
            wrong = (j.reference_position >= 0) & (j.reference_position != j.position)
            if wrong.any():
                return step, j.position[wrong]
    return None, np.zeros(0, np.int32)


def _by_stamp(step: StepRecord, positions: np.ndarray) -> Finding:
    j = step.judgements
    assert j is not None
    row = int(np.flatnonzero(np.isin(j.position, positions))[0])
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("states of different token positions are compared"),
        where=place(step, None, int(positions[0])),
        evidence=Sentence(
            "position {position} was compared with position {other}; so were {crossed} of {rows} "
            "rows",
            position=int(j.position[row]),
            other=int(j.reference_position[row]),
            crossed=positions.size,
            rows=len(j),
        ),
        experiment=NOTHING,
        proof=Proof.OBSERVED,
        remedy=Sentence("gather the reference by absolute position"),
        positions=tuple(positions.tolist()),
    )


def _by_numbers(case: Case, step: StepRecord, found: Replayed) -> Finding:
    j = step.judgements
    assert j is not None
    row = int(np.flatnonzero(found.crossed)[0])
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("states of different token positions are compared"),
        where=place(step, 1, int(j.position[row])),
        evidence=Sentence(
            "position {position} has the similarity {similarity:.6f}, which is that with position "
            "{other}; with itself it is {right:.6f}; {crossed} of {rows} rows",
            position=int(j.position[row]),
            similarity=float(j.mean[row]),
            other=int(found.other[row]),
            right=float(found.right_mean[row]),
            crossed=int(found.crossed.sum()),
            rows=len(j),
        ),
        experiment=Sentence(
            "replayed all similarities from the states: with the other position they are B's, "
            "gathered by position they are A's"
        ),
        proof=proof_of_skip(case),
        remedy=Sentence("gather the reference by absolute position"),
        positions=tuple(j.position[found.crossed].tolist()),
    )


RULE = Rule(1, "misaligned-rows", "states of different positions are compared", examine)
