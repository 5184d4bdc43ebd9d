"""What each side was given: compared before anything else, and named where it can matter.

A difference in what was given is a cause of its own. It is only a remark where the first thing that
differs cannot follow from it: a threshold changes no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import commits_above
from skipstone.diagnosis.differing import InputDifference, differences
from skipstone.diagnosis.finding import Finding, Place, Proof
from skipstone.diagnosis.meanings import COMMIT
from skipstone.diagnosis.rule import place, proof_of
from skipstone.record import StepRecord
from skipstone.record.settings import draws
from skipstone.sentence import NOTHING, Code, Sentence, listed

_DECIDES = frozenset(("commit", "end"))
_COMMITTED = frozenset(("committed_set", "stop"))


_NUMBERS = ("dtype", "weights")
# Of more arguments it is not known which of them acts.
_FEW = 3
# Diagnoses of what a loop does with right scores, and no module: its arguments may say it.
_OF_THE_LOOP = frozenset((10, 16, 21, 22, 23, 24, 31))


@dataclass(frozen=True)
class GivenDifferences:
    """What the sides were given, and not alike."""

    numbers: list[Finding]
    """Dtype and weights: no number of one side is then one of the other's."""
    known: list[Finding]
    """Arguments whose meaning is known."""
    unknown: list[Finding]
    """Others: they explain a difference only if nothing else does."""
    beside: list[InputDifference]
    """Those of the others that may matter, to be said with whatever is found."""


def examine(case: Case) -> GivenDifferences:
    """Compare what both sides were given."""
    told = {e.message.partition(" ")[0] for e in case.events if e.kind == "stated_differs"}
    found = [d for d in differences(case) if d.name not in told]
    # How many steps there are, and how many tokens each commits, follows from the regions.
    found.sort(key=lambda d: (d.derived, d.meaning.rule != "region-boundaries"))
    passed = any(d.known and d.plain and not d.derived for d in found)
    numbers, known, unknown = list[Finding](), list[Finding](), list[Finding]()
    beside = [d for d in found if not d.known and (d.loop or d.name.startswith("config."))]
    for d in found:
        kind = numbers if d.name in _NUMBERS else known if d.known else unknown
        finding = _found(case, [d])
        # What a function has computed from its arguments follows from them.
        kind.append(replace(finding, proof=Proof.OBSERVED) if d.derived and passed else finding)
    if beside and len(beside) <= _FEW and all(d.plain for d in beside):
        unknown = [_found(case, beside), *unknown]
    return GivenDifferences(numbers, known, unknown, beside)


def with_differences(seen: Finding, beside: Sequence[InputDifference]) -> Finding:
    """A finding with what the sides were given otherwise, too, as far as that may act.

    What a rule has measured is where it acts, or how; whether code differs is not known then.
    """
    found = [d for d in beside if not d.plain or seen.number in _OF_THE_LOOP]
    if not found or seen.given or len(found) > _FEW:
        return seen
    told = listed(
        [
            Sentence(
                "the runs were also given different {name}: {a} against {b}",
                name=Code(d.name),
                a=Code(d.a),
                b=Code(d.b),
            )
            for d in found
        ]
    )
    first = Sentence("first give both runs the same {name}", name=_names(found))
    return replace(
        seen, evidence=listed([seen.evidence, told]), remedy=listed([first, seen.remedy])
    )


def _names(found: Sequence[InputDifference]) -> Code:
    return Code(", ".join(d.name for d in found))


def joined(seen: Finding, known: Sequence[Finding]) -> Finding:
    """What a rule has seen, with the argument that the sides were given otherwise and that says it.

    The argument tells where to mend it; what the rule has measured tells that it acts.
    """
    same = (f for f in known if f.rule == seen.rule and f.proof >= Proof.CONSISTENT)
    handed = next(same, None)
    if handed is None or seen.given:
        return seen
    evidence = listed([handed.evidence, seen.evidence])
    return replace(seen, evidence=evidence, remedy=handed.remedy)


def other_mask(case: Case) -> Finding | None:
    """B's canvas is filled with another id than that of the mask, which then counts as prompt."""
    a, b = case.record_a.header, case.record_b.header
    start = len(a.prompt_ids)
    tail = set(b.prompt_ids[start:])
    if b.prompt_ids[:start] != a.prompt_ids:
        return None
    # After the first commits the canvas that was recorded last holds tokens, too, and no mask.
    full = not b.gen_length and len(b.prompt_ids) == case.record_a.length
    if not tail or b.mask_id in tail or (len(tail) != 1 and not full):
        return None
    return Finding(
        rule=COMMIT.rule,
        number=COMMIT.number,
        what=Sentence("B fills its canvas with another id than that of the mask"),
        where=Place(0, 0, None, start),
        evidence=Sentence(
            "from position {position} on B has the id {other}, the model's mask is {mask}",
            position=start,
            other=tail.pop(),
            mask=b.mask_id,
        )
        if len(tail) == 1
        else Sentence(
            "from position {position} on B's canvas has no mask ({mask}), where A's has {count}",
            position=start,
            mask=b.mask_id,
            count=a.gen_length,
        ),
        experiment=NOTHING,
        proof=Proof.CONSISTENT,
        remedy=Sentence("pass the loop's mask id to attach, and to both runs"),
        given=True,
    )


def _found(case: Case, found: Sequence[InputDifference]) -> Finding:
    """One difference, or all those whose effects cannot be distinguished."""
    d = found[0]
    proof, experiment = _proved(case, d)
    step = _step(case)
    position = case.divergence.first.position if case.divergence.first is not None else None
    if d.name == "dtype" and case.record_b.steps:
        # It acts in every number, from the first on; what it turns first is an accident.
        step, position = case.record_b.steps[0], None
    name = _names(found)
    return Finding(
        rule=d.meaning.rule,
        number=d.meaning.number,
        what=Sentence("the runs were given different {name}", name=name),
        where=place(step, None, position) if step is not None else Place(position=position),
        evidence=listed(
            [
                Sentence("{name}: {a} against {b}", name=Code(d.name), a=Code(d.a), b=Code(d.b))
                for d in found
            ]
        ),
        experiment=experiment,
        proof=proof,
        remedy=Sentence(
            "give both runs the same {name}, at {source}", name=name, source=Code(d.source)
        )
        if d.source
        else Sentence("give both runs the same {name}", name=name),
        given=True,
    )


def _step(case: Case) -> StepRecord | None:
    first = case.expected.first
    if first is not None:
        return first.step
    return None if case.divergence.forward is None else case.step_b(case.divergence.forward)


def _proved(case: Case, d: InputDifference) -> tuple[Proof, Sentence]:
    """As far as an experiment, or a replay of the decision, goes."""
    if d.name == "dtype":
        return _proved_dtype(case, d)
    if not _can_matter(case, d):
        return Proof.OBSERVED, NOTHING
    if d.name in ("threshold", "confidence_threshold") and d.numbers:
        return _proved_threshold(case, d)
    return Proof.CONSISTENT, NOTHING


def _can_matter(case: Case, d: InputDifference) -> bool:
    """Whether the first thing that differs can follow from this."""
    if d.plain and not d.known and (not d.loop or _stopped(case)):
        return False
    first = case.expected.first
    acts = d.meaning.acts
    if d.name == "gen_length" and first is not None and first.kind not in _DECIDES:
        # Masks that no row has seen change no score.
        return case.divergence.same_step(first.step) is None
    if acts == "decision" and case.divergence.first is None:
        return False
    if first is None:
        parted = case.divergence.first
        return parted is not None and (acts != "decision" or parted.kind in _COMMITTED)
    if acts == "decision":
        kinds = {x.kind for x in case.expected.deviations if x.step.forward == first.step.forward}
        return kinds <= (_DECIDES | {"token", "confidence"})
    return acts == "anything" or first.kind not in _DECIDES


def _stopped(case: Case) -> bool:
    """Whether the runs part only because one was ended from outside."""
    first = case.divergence.first
    ended = None not in (case.record_a.outcome, case.record_b.outcome)
    return first is not None and first.kind == "stop" and not ended


def _proved_dtype(case: Case, d: InputDifference) -> tuple[Proof, Sentence]:
    """Each side does what its own dtype gives, where the model is here to say so."""
    if case.expected.led is None:
        return Proof.CONSISTENT, NOTHING
    if not case.expected.conforms:
        return Proof.OBSERVED, NOTHING
    how = Sentence("run on B's canvases in {b}: B's scores and commits", b=d.b)
    return Proof.SUFFICIENT, how


def _proved_threshold(case: Case, d: InputDifference) -> tuple[Proof, Sentence]:
    """The parting decision replayed from B's own confidences with either value."""
    step = None if case.divergence.forward is None else case.step_b(case.divergence.forward)
    other = None if step is None else case.divergence.same_step(step)
    if step is None or other is None:
        return Proof.CONSISTENT, NOTHING
    removed = commits_above(step, float(d.a)) == other.committed
    added = commits_above(step, float(d.b)) == step.committed
    drawn = case.record_a.header.settings, case.record_b.header.settings
    if not added and all(map(draws, drawn)) and case.loops.same_scores:
        # What the drawn tokens are worth that were not committed is not recorded.
        more, fewer = (step, other) if float(d.b) < float(d.a) else (other, step)
        within = set(fewer.committed) < set(more.committed)
        return Proof.CONSISTENT if within else Proof.OBSERVED, NOTHING
    if not (removed and added):
        return Proof.OBSERVED, NOTHING
    how = Sentence(
        "replayed the decision from B's confidences: with {b} B's commits, with {a} A's",
        a=d.a,
        b=d.b,
    )
    return proof_of(removed=removed, added=added), how
