"""25: something is left from an earlier request."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Rerun
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of
from skipstone.diff import compare


def examine(case: Case) -> Answer:
    """Rows that this request never computed are read; or only the first run of a process is A's."""
    deviation = case.first_of("rows")
    if deviation is not None and deviation.expected is not None:
        step = deviation.step
        missing = np.setdiff1d(deviation.expected.rows, step.rows)
        never = missing[step.entered_age[missing] < 0]
        if never.size:
            return Finding(
                rule=RULE.name,
                number=RULE.number,
                what="the cache is read where this request never wrote it",
                where=place(step, 1, int(never[0])),
                evidence=f"{never.size} positions have K/V of an earlier request, or none",
                experiment=f"led along B's canvases with all rows: the decisions are "
                f"{'' if case.fault_removed else 'not '}A's",
                proof=proof_of(removed=case.fault_removed, added=case.rows_reproduce),
                remedy="compute every row in the first forward of a request",
                positions=tuple(never.tolist()),
            )
    return _only_later_runs(case)


def _only_later_runs(case: Case) -> Finding | None:
    """Run B again twice: do they differ from each other?"""
    if case.first_deviation is None:
        return None
    first, second = (case.ask(Rerun("b", attempt=n)) for n in (1, 2))
    if first is None or second is None:
        return None
    one, two = first.records[0], second.records[0]
    if compare(one, two).identical or not compare(two, case.record_b).identical:
        return None
    as_a = compare(one, case.record_a).first is None
    step = case.first_deviation.step
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what="B depends on what ran before it",
        where=place(step, case.first_deviation.layer, case.first_deviation.position),
        evidence=f"the first run in a fresh state is {'A' if as_a else 'another'}'s, later ones "
        f"are B's",
        experiment="ran B twice in one process",
        proof=proof_of(removed=as_a, added=True),
        remedy="clear buffers at the start of a request",
    )


RULE = Rule(25, "leftover-state", "state left from an earlier request", examine)
