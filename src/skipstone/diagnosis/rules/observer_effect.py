"""29: the traced run is not the untraced one."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Rerun, SideName, Unobserved
from skipstone.diagnosis.finding import Finding, Place, Proof
from skipstone.diagnosis.rule import Answer, Rule, place
from skipstone.sentence import Sentence


def examine(case: Case) -> Answer:
    """Run B, then A, without a recorder: the tokens must be those of the trace."""
    sides: tuple[SideName, ...] = ("b", "a")
    for side in sides:
        record = case.record_b if side == "b" else case.record_a
        trace = case.ask(Unobserved(side))
        if trace is None or record.outcome is None:
            continue
        tokens = trace.records[0].tokens
        if tokens != record.tokens and _repeatable(case, side):
            wrong = tuple(
                record.prompt_length + i
                for i, (x, y) in enumerate(zip(tokens, record.tokens, strict=False))
                if x != y
            )
            return Finding(
                rule=RULE.name,
                number=RULE.number,
                what=Sentence("recording {side} changes it", side=side.upper()),
                where=_where(case, side, wrong),
                evidence=Sentence(
                    "{tokens} tokens differ between the traced and the untraced run",
                    tokens=len(wrong),
                ),
                experiment=Sentence(
                    "ran {side} without a recorder, and with one twice", side=side.upper()
                ),
                proof=Proof.NECESSARY_AND_SUFFICIENT,
                remedy=Sentence(
                    "trace at a lighter level; conclusions about this trace do not hold for the "
                    "untraced run"
                ),
                positions=wrong,
            )
    return None


def _repeatable(case: Case, side: SideName) -> bool:
    """Whether traced runs of a side give the traced tokens, to their end and every time."""
    record = case.record_b if side == "b" else case.record_a
    runs = [case.ask(Rerun(side, attempt=n + 1)) for n in range(2)]
    return all(t is not None and t.records[0].tokens == record.tokens for t in runs)


def _where(case: Case, side: SideName, wrong: tuple[int, ...]) -> Place:
    """Where the traced run first departs from its settings, if that is known."""
    first = case.expected.first if side == "b" else None
    position = next(iter(wrong), None)
    return Place(position=position) if first is None else place(first.step, None, position)


RULE = Rule(29, "observer-effect", "observer effect", examine)
