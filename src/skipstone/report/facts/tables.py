"""Tables of words and numbers: settings, experiments, and every run of a ladder."""

from __future__ import annotations

import json
from dataclasses import dataclass

from skipstone.diff import Comparison
from skipstone.record import StoredTrace
from skipstone.report.facts.spot import Spot, Text
from skipstone.report.study import Study
from skipstone.report.words import say


@dataclass(frozen=True)
class Trial:
    """An experiment, and what came out."""

    what: str
    outcome: str


@dataclass(frozen=True)
class Rung:
    """One run of a ladder."""

    letter: str
    name: str
    settings: str
    """What it does not share with the first run."""
    from_first: Text
    from_before: Text
    tokens: int
    """Final tokens that are not the first run's."""
    forwards: int
    skip_share: str


def trials(study: Study) -> list[Trial]:
    """Experiments that the diagnosis made, and those that are kept in the trace of the run."""
    found = list[Trial]()
    if study.diagnosis is not None:
        found += [
            Trial(finding.experiment, f"{finding.rule}: {finding.proof}; {finding.evidence}")
            for finding in (*study.diagnosis.findings, *study.diagnosis.remarks)
            if finding.experiment
        ]
    trace = study.b.trace
    if isinstance(trace, StoredTrace):
        kept = (e for e in trace.experiments if e.key != "diagnosis")
        found += [Trial(e.key, _outcome(e.outcome)) for e in kept]
    return found


def _outcome(text: str) -> str:
    """One line of what an experiment left in the trace."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return str(value.get("outcome", text)) if isinstance(value, dict) else text


def ruled_out(study: Study) -> list[tuple[str, str]]:
    """Causes that were looked for and are not it."""
    return [] if study.diagnosis is None else [(r.rule, r.why) for r in study.diagnosis.ruled_out]


def ladder(study: Study) -> list[Rung]:
    """Every run held against the first and against the one before it."""
    first = study.a.record
    rungs = list[Rung]()
    for i, run in enumerate(study.runs):
        apart = study.comparisons[i - 1] if i else None
        before = study.neighbours[i - 1] if i else None
        outcome = run.record.outcome
        own = run.record.header.settings
        base = first.header.settings
        told = " ".join(f"{k}={v}" for k, v in own.items() if not i or base.get(k) != v)
        rungs.append(
            Rung(
                letter=run.letter,
                name=run.name,
                settings=told,
                from_first=_parting(apart),
                from_before=_parting(before),
                tokens=0 if apart is None else len(apart.differing_positions),
                forwards=len(run.record.steps),
                skip_share="–" if outcome is None else f"{outcome.skip_share:.1%}",
            )
        )
    return rungs


def _parting(apart: Comparison | None) -> Text:
    if apart is None:
        return "–"
    if apart.first is None:
        return say("ladder.same")
    at = Spot(apart.first.block, apart.first.step)
    return say(f"ladder.{apart.first.kind}", place=at.said)
