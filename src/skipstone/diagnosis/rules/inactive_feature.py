"""23: a feature that is on did nothing, or what ran is not what was asked for."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import commits_above
from skipstone.diagnosis.events import event_sentence
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.loop import finding
from skipstone.diagnosis.ranked import ranked
from skipstone.diagnosis.rule import (
    Answer,
    Rule,
    place,
    proof_of_patch,
    proof_of_skip,
    tried,
)
from skipstone.diagnosis.skip_rule import SkipRule
from skipstone.record import Event, RunRecord
from skipstone.sentence import NOTHING, Code, Sentence


def examine(case: Case) -> Answer:
    """Compare what the settings say with the counters of the record."""
    event = next((e for e in case.events if e.kind == "stated_differs"), None)
    if event is not None:
        return _not_as_stated(case, event)
    lost = (
        _silently_off(case)
        or _cache_unused(case)
        or _other_threshold(case)
        or ranked(case, RULE.name, RULE.number, ("setting", "count"))
    )
    if lost is not None:
        return lost
    for word in _idle(case.record_b):
        return Finding(
            rule=RULE.name,
            number=RULE.number,
            what=word,
            where=place(None),
            evidence=Sentence("over {forwards} forwards", forwards=len(case.record_b.steps)),
            experiment=NOTHING,
            proof=Proof.OBSERVED,
            remedy=Sentence("switch it off, or choose a setting at which it acts"),
        )
    return None


def _not_as_stated(case: Case, event: Event) -> Finding:
    """Foreign code received another value than was meant."""
    first, proof = case.expected.first, _proof_of_stated(case, event)
    explains = first is not None and proof > Proof.OBSERVED
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the setting that ran is not the one that was stated"),
        where=place(first.step, None, first.position)
        if first is not None and explains
        else place(case.step_b(event.forward)),
        evidence=event_sentence(event.message),
        experiment=Sentence(
            "read from the call itself; it explains the first step that is not as stated"
            if explains
            else "read from the call itself"
        ),
        proof=proof,
        remedy=Sentence("pass the stated value at {source}", source=Code(event.source))
        if event.source
        else NOTHING,
    )


def _proof_of_stated(case: Case, event: Event) -> Proof:
    """Whether the setting that differs explains what B did otherwise first."""
    name, received = event.message.partition(" ")[0], event.numbers.get("received")
    if name.startswith("skip"):
        return proof_of_skip(case) if case.expected.first_of("skip") else Proof.OBSERVED
    if "threshold" in name and received is not None and _explains_rule(case, received):
        assert case.loops.difference is not None
        return finding(case.loops.difference, RULE.number).proof
    deviation = case.expected.first_of("commit")
    scored = case.expected.first_of("scores", "token", "rows") is None
    if "threshold" not in name or deviation is None or received is None or not scored:
        return Proof.OBSERVED
    added = commits_above(deviation.step, received) == deviation.step.committed
    return proof_of_patch(case, added)


def _explains_rule(case: Case, received: float) -> bool:
    """Whether the loops differ in their threshold alone, and B's is the one that was received."""
    found = case.loops.difference
    if found is None or found.fit_b is None or found.parts != ("value",):
        return False
    return received in found.fit_b.rule.selection.value


def _silently_off(case: Case) -> Finding | None:
    """B's skip should have judged rows and never did."""
    deviation = case.expected.first_of("similarity")
    if deviation is None or deviation.step.judgements is not None:
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the token skip is on and never judges a row"),
        where=place(deviation.step, 1, deviation.position),
        evidence=Sentence(
            "the settings say {setting}",
            setting=Code(case.record_b.header.settings.get("skip", "")),
        ),
        experiment=Sentence("run on B's canvases with these settings: rows are judged"),
        proof=proof_of_patch(case, case.proof.rows_reproduce),
        remedy=Sentence("see that the skip is called for cached steps"),
    )


def _cache_unused(case: Case) -> Finding | None:
    """B computes every row in every step although its cache should keep most of them."""
    deviation = case.expected.first_of("rows")
    if deviation is None or deviation.expected is None or not never_cached(case.record_b):
        return None
    step, kept = deviation.step, deviation.positions
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the cache is on and is never used"),
        where=place(step, 1, int(kept[0])),
        evidence=Sentence(
            "the settings say {setting}; all {forwards} forwards compute all {rows} rows",
            setting=Code(case.record_b.header.settings.get("cache", "")),
            forwards=len(case.record_b.steps),
            rows=step.rows.size,
        ),
        experiment=Sentence(
            "run on B's canvases with these settings: {rows} rows are read from the cache",
            rows=kept.size,
        ),
        proof=proof_of_patch(case, case.proof.rows_reproduce),
        remedy=Sentence("see that the cache policy is asked for the rows of every step"),
        positions=tuple(kept.tolist()),
    )


def never_cached(record: RunRecord) -> bool:
    """Whether every forward computes every row, over more than the first step of each block.

    Models that see up to the end of a block, and canvases that grow, have no rows behind it yet.
    """
    whole = all(step.rows.size == step.rows.max(initial=-1) + 1 for step in record.steps)
    return whole and any(step.step > 0 for step in record.steps)


def _other_threshold(case: Case) -> Finding | None:
    """Rows skip by B's own similarities, held against another threshold than the stated one."""
    deviation = case.expected.first_of("skip")
    if deviation is None or case.expected.first_of("similarity", "rows"):
        return None
    rule = SkipRule.of(case.record_b)
    between = None if rule is None else rule.implied()
    if rule is None or between is None:
        return None
    step, (low, high) = deviation.step, between
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the skip threshold that ran is not the one that was stated"),
        where=place(step, None, deviation.position),
        evidence=Sentence(
            "stated {stated:g}; every row of B skips as with a threshold between {low:.6f} and "
            "{high:.6f}",
            stated=rule.bar.value,
            low=low,
            high=high,
        ),
        experiment=tried(
            case.proof.fault_removed,
            Sentence("run on B's canvases with the stated threshold: the decisions are A's"),
            Sentence("run on B's canvases with the stated threshold: the decisions are not A's"),
        ),
        proof=proof_of_patch(case, True),
        remedy=Sentence("see which threshold reaches the skip rule"),
        positions=tuple(deviation.positions.tolist()),
    )


def _idle(record: RunRecord) -> list[Sentence]:
    settings, words = record.header.settings, list[Sentence]()
    if record.header.source != "skipstone" or not record.steps:
        return words
    judged = [s for s in record.steps if s.judgements is not None]
    if settings.get("skip", "none") != "none" and judged and not any(s.skipped for s in judged):
        words.append(Sentence("the token skip is on and skipped nothing"))
    if settings.get("cache", "none") != "none" and all(s.refresh for s in record.steps):
        words.append(Sentence("the cache is on and saved nothing: every forward was a refresh"))
    return words


RULE = Rule(23, "inactive-feature", "feature not active, or silently different", examine)
