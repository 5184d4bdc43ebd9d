"""23: a feature that is on did nothing, or what ran is not what was asked for."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import Answer, Rule, place
from skipstone.record import RunRecord


def examine(case: Case) -> Answer:
    """Compare what the settings say with the counters of the record."""
    event = next((e for e in case.events if e.kind == "stated_differs"), None)
    if event is not None:
        return Finding(
            rule=RULE.name,
            number=RULE.number,
            what="the setting that ran is not the one that was stated",
            where=place(case.step_b(event.forward)),
            evidence=event.message,
            experiment="read from the call itself",
            proof=Proof.OBSERVED,
            remedy=f"pass the stated value at {event.source}" if event.source else "",
        )
    lost = _silently_off(case)
    if lost is not None:
        return lost
    for word in _idle(case.record_b):
        return Finding(
            rule=RULE.name,
            number=RULE.number,
            what=word,
            where=place(None),
            evidence=f"over {len(case.record_b.steps)} forwards",
            experiment="",
            proof=Proof.OBSERVED,
            remedy="switch it off, or choose a setting at which it acts",
        )
    return None


def _silently_off(case: Case) -> Finding | None:
    """B's skip should have judged rows and never did."""
    deviation = case.first_of("similarity")
    if deviation is None or deviation.step.judgements is not None:
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what="the token skip is on and never judges a row",
        where=place(deviation.step, 1, deviation.position),
        evidence=f"the settings say {case.record_b.header.settings.get('skip')}",
        experiment="led along B's canvases with these settings: rows are judged",
        proof=Proof.NECESSARY_AND_SUFFICIENT if case.fault_removed else Proof.CONSISTENT,
        remedy="see that the skip is called for cached steps",
    )


def _idle(record: RunRecord) -> list[str]:
    settings, words = record.header.settings, list[str]()
    if record.header.source != "skipstone" or not record.steps:
        return words
    judged = [s for s in record.steps if s.judgements is not None]
    if settings.get("skip", "none") != "none" and judged and not any(s.skipped for s in judged):
        words.append("the token skip is on and skipped nothing")
    if settings.get("cache", "none") != "none" and all(s.refresh for s in record.steps):
        words.append("the cache is on and saved nothing: every forward was a refresh")
    return words


RULE = Rule(23, "inactive-feature", "feature not active, or silently different", examine)
