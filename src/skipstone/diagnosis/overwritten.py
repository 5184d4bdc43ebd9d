"""Loops that write into their prompt: all that follows is of another prompt."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.events import event_sentence
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import place
from skipstone.sentence import NOTHING, Code, Sentence


def over_prompt(case: Case) -> Finding | None:
    """B's loop writes over tokens of its prompt before the runs part, and A's never does."""
    kind, first = "prompt_overwritten", case.expected.first
    event = case.event(kind)
    if event is None or first is None or any(e.kind == kind for e in case.record_a.events):
        return None
    # The call that follows is the first to be given what was written.
    near = first.step.forward <= event.forward + 1
    return Finding(
        rule="commit-rule",
        number=31,
        what=Sentence("B writes over tokens of its prompt, A does not"),
        where=place(case.step_b(event.forward), None, event.positions_b[0]),
        evidence=event_sentence(event.message),
        experiment=NOTHING,
        proof=Proof.CONSISTENT if near else Proof.OBSERVED,
        remedy=Sentence(
            "commit only where the canvas has a mask, in the loop that calls the model at {source}",
            source=Code(event.source),
        ),
        positions=event.positions_b,
    )
