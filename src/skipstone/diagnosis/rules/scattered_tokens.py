"""1: what was computed for one position is written to another one."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of
from skipstone.record import StepRecord
from skipstone.sentence import NOTHING, Sentence


def examine(case: Case) -> Answer:
    """Compare what a step wrote on the canvas with what it chose to commit."""
    for step in case.record_b.steps:
        if step.forward > case.divergence.horizon:
            break
        wrong = _miswritten(step)
        if wrong.size:
            return _found(case, step, wrong)
    return None


def _miswritten(step: StepRecord) -> np.ndarray:
    """Positions whose token on the canvas is not the one that was committed there."""
    c = step.candidates
    offset = c.position[c.committed] - step.prompt_length
    written = step.ids_after[offset]
    return c.position[c.committed][written != c.token[c.committed]]


def _found(case: Case, step: StepRecord, wrong: np.ndarray) -> Finding:
    position = int(wrong[0])
    written = int(step.ids_after[position - step.prompt_length])
    c = step.candidates
    chosen = int(c.token[c.position == position][0])
    others = c.position[(c.token == written) & (c.position != position)]
    right = None
    if case.expected.trace is not None:
        steps = case.expected.trace.records[0].steps
        right = any(s.forward == step.forward and s.committed == step.committed for s in steps)
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence(
            "the token that is written is not the token that was chosen for the position"
        ),
        where=place(step, None, position),
        evidence=Sentence(
            "position {position} commits token {chosen} and the canvas then holds {written}, which "
            "is the token of position {other}; so do {wrong} of {commits} commits"
            if others.size
            else "position {position} commits token {chosen} and the canvas then holds {written}; "
            "so do {wrong} of {commits} commits",
            position=position,
            chosen=chosen,
            written=written,
            other=int(others[0]) if others.size else None,
            wrong=wrong.size,
            commits=len(step.committed),
        ),
        experiment=Sentence("replayed the commit on the recorded scores: the right tokens")
        if right
        else NOTHING,
        proof=proof_of(removed=right, added=None),
        remedy=Sentence("scatter tokens by absolute position"),
        positions=tuple(wrong.tolist()),
    )


RULE = Rule(1, "scattered-tokens", "tokens are written to other positions", examine)
