"""The verdict, and both answers token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from skipstone.diagnosis.finding import Finding
from skipstone.report.facts.spot import Spot, Text, commit_spots, spot_of
from skipstone.report.study import Run, Study
from skipstone.report.words import Say, say


@dataclass(frozen=True)
class Verdict:
    """What a reader must know first."""

    headline: Say
    matters: Say
    """Whether a reader of the answer sees a difference."""
    cause: Finding | None
    proof: int
    """1 to 4, as in ``Proof``; 0 if there is no cause."""
    notes: tuple[Text, ...]
    next_command: str
    spot: Spot | None
    same: bool


@dataclass(frozen=True)
class Token:
    """One token of an answer."""

    text: str
    position: int
    spot: Spot | None
    """Where it was committed."""
    kind: str
    """``same``, ``other``, ``mask`` or ``end`` (EOS and after)."""


def verdict(study: Study) -> Verdict:
    """The verdict on the pair that is looked at closely."""
    found, diagnosis = study.difference, study.diagnosis
    first = found.decision
    if first is not None:
        headline = say(
            f"verdict.{first.kind}", block=first.block, step=first.step, b=study.b.letter
        )
        spot = Spot(first.block, first.step, None, first.position)
    else:
        headline, spot = say("verdict.same", b=study.b.letter), None
    cause = None if diagnosis is None else diagnosis.cause
    return Verdict(
        headline=headline,
        matters=_matters(study),
        cause=cause,
        proof=0 if cause is None else int(cause.proof),
        notes=tuple(_notes(study)),
        next_command="" if diagnosis is None else diagnosis.next_command,
        spot=spot if cause is None else spot_of(cause.where) or spot,
        same=found.identical,
    )


def _matters(study: Study) -> Say:
    found = study.difference
    if not found.finished:
        return say("verdict.unfinished")
    count = len(found.differing_positions)
    total = max(len(run.record.tokens) for run in study.pair)
    key = "verdict.answer_differs" if found.answer_differs else "verdict.answer_same"
    return say(key, count=count, total=total)


def _notes(study: Study) -> Iterator[Text]:
    diagnosis = study.diagnosis
    if diagnosis is None:
        yield say("verdict.not_asked")
    elif diagnosis.cause is None:
        yield say("verdict.inconclusive" if diagnosis.parted else "verdict.nothing")
    if diagnosis is not None:
        yield from (f"{finding.what}: {finding.evidence}" for finding in diagnosis.remarks[:2])
        yield from diagnosis.unavailable[:2]
    floor = study.difference.floor
    yield say(
        "verdict.measured" if floor.measured else "verdict.estimated", runs=len(floor.measured)
    )
    for ending, run in zip(study.difference.endings, study.pair, strict=True):
        if ending.masks_left:
            yield say("verdict.masks", run=run.letter, count=ending.masks_left)


def answer(study: Study, run: Run) -> list[Token]:
    """The tokens of one run, each with whether the other has the same."""
    record = run.record
    differing = set(study.difference.differing_positions)
    commits = commit_spots(record)
    tokens, ended = list[Token](), False
    for i, token in enumerate(record.tokens):
        position = record.prompt_length + i
        ended = ended or token == record.header.eos_id
        kind = "other" if position in differing else "end" if ended else "same"
        if token == record.header.mask_id:
            kind = "mask"
        text = study.token(token)
        tokens.append(Token(text, position, commits.get(position), kind))
    return tokens
