"""Calls that were given ids which the loop had gone on from: other inputs, before anything else."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.events import event_sentence
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import place
from skipstone.sentence import NOTHING, Code, Sentence


def other_ids(case: Case) -> Finding | None:
    """B's call was given ids that are not on its canvas, and A's calls never were.

    A loop may mean to run one step behind its canvas: then both do.
    """
    kind, first = "ids_behind", case.expected.first
    event = case.event(kind)
    if event is None or first is None or any(e.kind == kind for e in case.record_a.events):
        return None
    here = first.step.forward == event.forward
    return Finding(
        rule="other-inputs",
        number=28,
        what=Sentence(
            "the call was given ids that are not on the canvas: those of the step before"
        ),
        where=place(case.step_b(event.forward), None, event.positions_a[0]),
        evidence=event_sentence(event.message),
        experiment=NOTHING,
        proof=Proof.CONSISTENT if here else Proof.OBSERVED,
        remedy=Sentence(
            "cut the ids of the call out of the canvas as it is now, at {source}",
            source=Code(event.source),
        ),
        positions=event.positions_a,
    )
