"""The verdict, and both answers token by token."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from skipstone.diagnosis.finding import Finding
from skipstone.record import StoredTrace
from skipstone.report.facts.spot import Spot, commit_spots, said_place, spot_of
from skipstone.report.runs import Run, Study
from skipstone.report.words import Phrase, Say, say
from skipstone.sentence import Code


@dataclass(frozen=True)
class Verdict:
    """What a reader must know first."""

    headline: Phrase
    """The cause, if one is known; else where the runs part."""
    parting: Phrase
    """Where they part, and how; empty if the headline says it."""
    matters: Say
    """Whether a reader of the answer sees a difference."""
    cause: Finding | None
    where: Say | None
    """The place of the cause."""
    proof: int
    """1 to 4, as in ``Proof``; 0 if there is no cause."""
    notes: tuple[Phrase, ...]
    next: Phrase
    """What to do next; empty if there is nothing."""
    spot: Spot | None
    same: bool


@dataclass(frozen=True)
class AnswerToken:
    """One token of an answer, or everything from the first EOS on as one mark."""

    text: Phrase
    position: int
    last: int
    """The last position that it stands for: its own, or that of all that follows EOS."""
    spot: Spot | None
    """Where it was committed."""
    kind: str
    """``same``, ``other``, ``mask`` or ``end`` (EOS and after)."""


def verdict(study: Study) -> Verdict:
    """The verdict on the pair that is looked at closely."""
    found, diagnosis = study.difference, study.diagnosis
    cause = None if diagnosis is None else diagnosis.cause
    headline, parting = _headline(study)
    first = found.decision
    spot = None if first is None else Spot(first.block, first.step, None, first.position)
    return Verdict(
        headline=headline,
        parting=parting,
        matters=_matters(study),
        cause=cause,
        where=None if cause is None else said_place(cause.where),
        proof=0 if cause is None else int(cause.proof),
        notes=tuple(_notes(study)),
        next=_next(study),
        spot=spot if cause is None else spot_of(cause.where) or spot,
        same=found.identical,
    )


def _headline(study: Study) -> tuple[Phrase, Phrase]:
    """What stands on top, and the line below it."""
    first, diagnosis = study.difference.decision, study.diagnosis
    parting = (
        say("verdict.same", b=study.b.letter)
        if first is None
        else say(f"verdict.{first.kind}", block=first.block, step=first.step, b=study.b.letter)
    )
    if diagnosis is None:
        return parting, ""
    if diagnosis.cause is not None:
        return diagnosis.cause.what, parting if diagnosis.parted else diagnosis.summary
    if diagnosis.parted:
        return say("verdict.unexplained", b=study.b.letter), parting
    return parting, ""


def _next(study: Study) -> Phrase:
    """What to do: what the diagnosis says, or to ask for one."""
    if study.diagnosis is not None:
        return study.diagnosis.next_command
    a, b = (run.trace for run in study.pair)
    if isinstance(a, StoredTrace) and isinstance(b, StoredTrace):
        command = shlex.join(["skipstone", "diagnose", str(a.path), str(b.path)])
        return say("verdict.ask", command=Code(command))
    return say("verdict.ask", command=Code("skipstone.diagnose(a, b)"))


def _matters(study: Study) -> Say:
    found = study.difference
    if not found.finished:
        return say("verdict.unfinished")
    count = len(found.differing_positions)
    total = max(len(run.record.tokens) for run in study.pair)
    key = "verdict.answer_differs" if found.answer_differs else "verdict.answer_same"
    return say(key, count=count, total=total)


def _notes(study: Study) -> Iterator[Phrase]:
    diagnosis = study.diagnosis
    if diagnosis is None:
        yield say("verdict.not_asked")
    elif diagnosis.cause is None:
        yield say("verdict.inconclusive" if diagnosis.unexplained else "verdict.nothing")
    if diagnosis is not None:
        for finding in diagnosis.remarks[:2]:
            yield say("verdict.remark", what=finding.what, evidence=finding.evidence)
        for why in diagnosis.unjudged[:2]:
            yield say("verdict.unjudged", why=why)
        for why in diagnosis.unavailable[:2]:
            yield say("verdict.not_tried", why=why)
    floor = study.difference.floor
    yield say(
        "verdict.measured" if floor.measured else "verdict.estimated", runs=len(floor.measured)
    )
    for ending, run in zip(study.difference.endings, study.pair, strict=True):
        if ending.masks_left:
            yield say("verdict.masks", run=run.letter, count=ending.masks_left)


def answer(study: Study, run: Run) -> list[AnswerToken]:
    """The tokens of one run up to EOS, each with whether the other has the same; then one mark."""
    record = run.record
    differing = set(study.difference.differing_positions)
    commits = commit_spots(record)
    start, eos = record.prompt_length, record.header.eos_id
    end = record.tokens.index(eos) if eos in record.tokens else len(record.tokens)
    tokens = list[AnswerToken]()
    for position, token in enumerate(record.tokens[:end], start):
        kind = "other" if position in differing else "same"
        if token == record.header.mask_id:
            kind = "mask"
        at = commits.get(position)
        tokens.append(AnswerToken(study.token(token), position, position, at, kind))
    if rest := record.tokens[end:]:
        first, last = start + end, start + len(record.tokens) - 1
        key = "answer.end" if set(rest) == {eos} else "answer.after_end"
        kind = "end" if differing.isdisjoint(range(first, last + 1)) else "other"
        tokens.append(AnswerToken(say(key, count=len(rest)), first, last, commits.get(first), kind))
    return tokens
