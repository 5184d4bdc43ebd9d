"""25: something is left from an earlier request."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Rerun
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of, proof_of_patch, tried
from skipstone.diagnosis.told import told
from skipstone.diff import compare
from skipstone.sentence import Code, Sentence


def examine(case: Case) -> Answer:
    """Rows that this request never computed are read; or only the first run of a process is A's."""
    shared = _shared_cache(case)
    if shared is not None:
        return shared
    deviation = case.expected.first_of("rows")
    if deviation is not None and deviation.expected is not None:
        step = deviation.step
        missing = np.setdiff1d(deviation.expected.rows, step.rows)
        never = missing[step.entered_age[missing] < 0]
        if never.size:
            return Finding(
                rule=RULE.name,
                number=RULE.number,
                what=Sentence("the cache is read where this request never wrote it"),
                where=place(step, 1, int(never[0])),
                evidence=Sentence(
                    "{positions} positions have K/V of an earlier request, or none",
                    positions=never.size,
                ),
                experiment=tried(
                    case.proof.fault_removed,
                    Sentence("led along B's canvases with all rows: the decisions are A's"),
                    Sentence("led along B's canvases with all rows: the decisions are not A's"),
                ),
                proof=proof_of_patch(case, case.proof.rows_reproduce),
                remedy=Sentence("compute every row in the first forward of a request"),
                positions=tuple(never.tolist()),
            )
    return _only_later_runs(case)


def _shared_cache(case: Case) -> Finding | None:
    """Foreign code ran one step twice, and the first call overwrote the cache of the second."""
    event = case.told("cache_overwritten")
    if event is None:
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("a step starts from a cache that another call has overwritten"),
        where=place(case.step_b(event.forward), 1, next(iter(event.positions_a), None)),
        evidence=told(event.message),
        experiment=tried(
            case.proof.rows_reproduce,
            Sentence("led along B's calls with one store for all of them: B's scores"),
            Sentence("led along B's calls with one store for all of them: not B's scores"),
        ),
        proof=proof_of_patch(case, case.proof.rows_reproduce),
        remedy=Sentence("copy the cache before each call at {source}", source=Code(event.source)),
        positions=event.positions_a,
    )


def _only_later_runs(case: Case) -> Finding | None:
    """Run B again twice: do they differ from each other?"""
    if case.expected.first is None or case.record_b.header.batch > 1:
        return None
    first, second = (case.ask(Rerun("b", attempt=n, until=case.divergence.until)) for n in (1, 2))
    if first is None or second is None:
        return None
    one, two = first.records[0], second.records[0]
    apart = case.divergence.earlier(compare(one, two).first)
    if apart is None or case.divergence.earlier(compare(two, case.record_b).first) is not None:
        return None
    as_a = case.divergence.earlier(compare(one, case.record_a).first) is None
    step = case.expected.first.step
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("B depends on what ran before it"),
        where=place(step, case.expected.first.layer, case.expected.first.position),
        evidence=Sentence(
            "the first run in a fresh state is A's, later ones are B's"
            if as_a
            else "the first run in a fresh state is another one, later ones are B's"
        ),
        experiment=Sentence("ran B twice in one process"),
        proof=proof_of(removed=as_a, added=True),
        remedy=Sentence("clear buffers at the start of a request"),
    )


RULE = Rule(25, "leftover-state", "state left from an earlier request", examine)
