"""What a rule is: a name, a number in the table of diagnoses, and a function that examines a case.

A rule looks at the traces first. Only if it sees its signature does it ask for an experiment. It
answers with a finding, with what it ruled out, or with None if its signature is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skipstone.diagnosis.attention import words
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.finding import Finding, Place, Proof, RuledOut
from skipstone.diagnosis.loop import diagnosis_of, finding
from skipstone.record import StepRecord
from skipstone.sentence import NOTHING, Code, Sentence

Answer = Finding | RuledOut | None


@dataclass(frozen=True)
class Rule:
    """One diagnosis."""

    number: int
    """In docs/diagnoses.md."""
    name: str
    """For example ``stale-kv``."""
    title: str
    """A few words."""
    examine: Callable[[Case], Answer]


def place(step: StepRecord | None, layer: int | None = None, position: int | None = None) -> Place:
    """The place of something in a step."""
    if step is None:
        return Place(layer=layer, position=position)
    return Place(step.block, step.step, layer, position)


def of_the_loop(case: Case, name: str, number: int) -> Finding | None:
    """The cause, if the loops follow different commit rules in the way that a diagnosis is about.

    Args:
        case: with what was recorded of both loops.
        name: of the diagnosis.
        number: of the diagnosis.
    """
    found = case.loops.difference
    if found is None or diagnosis_of(found) != name:
        return None
    return finding(found, number)


def of_attention(case: Case, name: str, number: int) -> Finding | None:
    """The cause, if attention was given other things in B, in the way that a diagnosis is about.

    Args:
        case: with what was recorded of the attention of both runs.
        name: of the diagnosis.
        number: of the diagnosis.
    """
    cause = case.attention.cause
    return None if cause is None or cause.name != name else words.finding(cause, number)


def proof_of(*, removed: bool | None, added: bool | None) -> Proof:
    """The level that two experiments reach.

    Args:
        removed: taking only this factor away took the difference away; None if it was not tried.
        added: bringing only this factor in brought the difference; None if it was not tried.
    """
    if removed and added:
        return Proof.NECESSARY_AND_SUFFICIENT
    return Proof.SUFFICIENT if removed or added else Proof.CONSISTENT


def proof_of_patch(case: Case, added: bool | None) -> Proof:
    """How well a patch of one factor, put into the reference run, proves that factor.

    The same run without the patch is the reference itself. That it decides as A says only that B's
    deviation is B's own; it speaks for this factor if the patch alone gives B's scores, and against
    it if the patch gives others.

    Args:
        case: the case.
        added: whether the reference with the patch scores as B; None if it was not tried.
    """
    if added is None:
        return Proof.CONSISTENT
    if not added:
        return Proof.OBSERVED
    return proof_of(removed=case.proof.fault_removed, added=True)


def proof_of_skip(case: Case) -> Proof:
    """How well wrong similarities explain B, whose rows that skipped are known."""
    if case.expected.first_of("skip") is None or case.expected.first_of("rows") is not None:
        return Proof.CONSISTENT
    return proof_of_patch(case, case.proof.rows_reproduce)


def tried(came_out: bool | None, yes: Sentence, no: Sentence) -> Sentence:
    """What an experiment gave, in words; nothing if it was not made."""
    if came_out is None:
        return NOTHING
    return yes if came_out else no


def cache_of(case: Case) -> Code:
    """The name of B's cache policy."""
    return Code(case.record_b.header.settings.get("cache", "").partition(":")[0])


def stated_cache_tried(case: Case) -> Sentence:
    """What comes of B's canvases under the cache policy that it states."""
    return tried(
        case.proof.fault_removed,
        Sentence("run on B's canvases with the stated cache policy: the decisions are A's"),
        Sentence("run on B's canvases with the stated cache policy: the decisions are not A's"),
    )
