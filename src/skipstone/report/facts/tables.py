"""Tables of words and numbers: settings, experiments, and every run of a ladder."""

from __future__ import annotations

import json
from dataclasses import dataclass

from skipstone.diagnosis.finding import Finding
from skipstone.diff import Comparison
from skipstone.record import Experiment, StoredTrace
from skipstone.report.facts.spot import Spot
from skipstone.report.runs import Study
from skipstone.report.words import Phrase, Say, say
from skipstone.sentence import Code, Sentence


@dataclass(frozen=True)
class Trial:
    """An experiment, and what came out."""

    what: Phrase
    outcome: Phrase


@dataclass(frozen=True)
class Rung:
    """One run of a ladder."""

    letter: str
    name: str
    settings: str
    """What it does not share with the first run."""
    from_first: Phrase
    from_before: Phrase
    tokens: int
    """Final tokens that are not the first run's."""
    forwards: int
    skip_share: str


def trials(study: Study) -> list[Trial]:
    """Experiments that the diagnosis made, and those that are kept in the trace of the run."""
    found = list[Trial]()
    if study.diagnosis is not None:
        found += [
            Trial(finding.experiment, _proved(finding))
            for finding in (*study.diagnosis.findings, *study.diagnosis.remarks)
            if finding.experiment
        ]
    trace = study.b.trace
    if isinstance(trace, StoredTrace):
        found += [_kept(e) for e in trace.experiments if e.key != "diagnosis"]
    return found


def _proved(finding: Finding) -> Say:
    return say(
        "trial.proved",
        rule=Code(finding.rule),
        proof=say(f"proof.{finding.proof.name}"),
        evidence=finding.evidence,
    )


def _kept(experiment: Experiment) -> Trial:
    """An experiment that was kept in a trace, whose text may be anything."""
    request, outcome = _plain(experiment.request), _plain(experiment.outcome)
    steps = str(outcome.get("outcome", "")).removesuffix(" steps")
    told = say("trial.steps", count=int(steps)) if steps.isdecimal() else "–"
    return Trial(_asked(request) or experiment.key, told)


def _plain(text: str) -> dict[str, object]:
    """What a text of JSON holds by name; nothing if it is something else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _asked(request: dict[str, object]) -> Say | None:
    """What an experiment did, in words; None if it is of an unknown kind."""
    kind = request.get("kind")
    if kind == "rescore":
        masked = request.get("masked")
        return say("trial.rescore", count=len(masked) if isinstance(masked, list) else 0)
    if kind not in ("rerun", "unobserved", "follow"):
        return None
    sides = {name: str(request.get(name, "")).upper() for name in ("side", "along", "settings")}
    asked = say(f"trial.{kind}", **sides)
    changes = _changes(request.get("changes"))
    return say("trial.with", what=asked, changes=Code(changes)) if changes else asked


def _changes(changes: object) -> str:
    """Settings that an experiment changed, as a run spec writes them."""
    pairs = changes if isinstance(changes, list) else []
    return " ".join(f"{p[0]}={p[1]}" for p in pairs if isinstance(p, list) and len(p) == 2)


def ruled_out(study: Study) -> list[tuple[str, Sentence]]:
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


def _parting(apart: Comparison | None) -> Phrase:
    if apart is None:
        return "–"
    if apart.first is None:
        return say("ladder.same")
    at = Spot(apart.first.block, apart.first.step)
    return say(f"ladder.{apart.first.kind}", place=at.said)
