"""12 and 20: a skipped row's old state decides, at once or by piling up."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Follow
from skipstone.diagnosis.factors import policy_that_differs, swap
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.kept import kept
from skipstone.diagnosis.kept_rows import kept_rows
from skipstone.diagnosis.ranked import ranked
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of, proof_of_patch, tried
from skipstone.diagnosis.skip_reference import old_reference
from skipstone.diagnosis.skip_rule import SkipRule, implied_bar, left_too_early
from skipstone.record import StepRecord
from skipstone.sentence import NOTHING, Code, Sentence, listed


def examine(case: Case) -> Answer:
    """A row that may not skip did; or the skip setting explains the difference."""
    return (
        _old_states(case)
        or ranked(case, RULE.name, RULE.number, ("renewed", "never", "committed", "older"))
        or _broken_rule(case)
        or _old_logits(case)
        or kept_rows(case, RULE.name, RULE.number, ("nothing", "old", "others"))
        or _old_contribution(case)
        or _by_setting(case)
    )


def _old_contribution(case: Case) -> Finding | None:
    """A layer adds to rows what it added to them in an earlier forward, where A's computes."""
    found = kept(case)
    if found is None:
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("a layer adds to rows what it has kept of an earlier forward"),
        where=place(found.step, found.layer, int(found.positions[0])),
        evidence=Sentence(
            "layer {layer} adds to {rows} of the {wrong} wrong rows, which have changed, what it "
            "added in forward {forward}; A computes these again, and keeps {renewed} that B "
            "computes",
            layer=found.layer,
            rows=found.positions.size,
            wrong=found.wrong,
            forward=found.forward,
            renewed=found.renewed,
        ),
        experiment=NOTHING,
        proof=Proof.CONSISTENT,
        remedy=Sentence(
            "renew what is kept of these rows when A does: compare how both choose, or how often"
        ),
        positions=tuple(found.positions.tolist()),
    )


def _old_states(case: Case) -> Finding | None:
    """What skips follows from the states of an older forward than the one before."""
    deviation = case.expected.first_of("skip")
    if deviation is None or deviation.expected is None or case.expected.first_of("rows"):
        return None
    step = deviation.step
    found = old_reference(case, step, deviation.expected)
    if found is None:
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("rows are compared with states that were never renewed"),
        where=place(step, step.skip_layer or None, deviation.position),
        evidence=Sentence(
            "all skips of this step follow from the states of forward {forward}; those of the "
            "forward before it say otherwise of {rows} rows",
            forward=found.forward,
            rows=found.wrongly,
        ),
        experiment=tried(
            found.restores,
            Sentence("replayed the skips from the states of the forward before: A's skips"),
            Sentence("replayed the skips from the states of the forward before: not A's skips"),
        ),
        proof=proof_of(removed=found.restores, added=True) if found.restores else Proof.CONSISTENT,
        remedy=Sentence("hand the states of each call on to the next one"),
        positions=tuple(deviation.positions.tolist()),
    )


def _broken_rule(case: Case) -> Finding | None:
    """B skipped other rows than its rule says, from the same similarities."""
    deviation = case.expected.first_of("skip")
    if (
        deviation is None
        or case.expected.first_of("similarity", "rows")
        or deviation.expected is None
    ):
        return None
    # What foreign code judged by is not known; if it was seen to be wrong, that is the cause.
    if case.event("misaligned_rows", "low_precision_similarity", "stated_differs") is not None:
        return None
    step, expected = deviation.step, deviation.expected
    wrongly = left_too_early(step, expected)
    # What ranks rows wrongly is known, or is none of this diagnosis.
    if case.stage_slip is not None or not wrongly.size or implied_bar(case.record_b) is not None:
        return None
    j, right = step.judgements, expected.judgements
    forced = (
        np.zeros(0, np.int32)
        if right is None
        else np.intersect1d(wrongly, right.position[right.forced])
    )
    why = "their similarity does not allow it" if j is not None else "the policy keeps others"
    if forced.size:
        why = "{rows} of them were just committed, or stand beside such a position"
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("rows skip that may not: their old states are used on"),
        where=place(step, step.skip_layer or None, int(wrongly[0])),
        evidence=Sentence(
            "{rows} rows left at layer {layer} that should have gone on; {why}",
            rows=wrongly.size,
            layer=step.skip_layer,
            why=Sentence(why, rows=forced.size),
        ),
        experiment=tried(
            case.proof.fault_removed,
            Sentence("run on B's canvases with the stated rule: the decisions are A's"),
            Sentence("run on B's canvases with the stated rule: the decisions are not A's"),
        ),
        proof=proof_of_patch(case, case.proof.rows_reproduce),
        remedy=Sentence("rows just committed and their neighbours must go on for one step"),
        positions=tuple(wrongly.tolist()),
        numbers={} if j is None else {"judged": float(len(j))},
    )


def _old_logits(case: Case) -> Finding | None:
    """The rows are the right ones, and only skipped rows score otherwise."""
    deviation = case.expected.first_of("scores", "token", "confidence")
    if deviation is None or case.expected.first_of("rows", "similarity", "skip"):
        return None
    step = deviation.step
    skipped = np.array(step.skipped if step.skip_layer else ())
    if not skipped.size or not np.isin(deviation.positions, skipped).all():
        return None
    alone = case.proof.only("scores", "confidence", "token", "commit")
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("skipped rows are scored from a state that is not their last complete one"),
        where=place(step, step.skip_layer or None, deviation.position),
        evidence=Sentence(
            "only {other} of the {skipped} skipped rows score otherwise, by {size:.2g} logits "
            "(noise {noise:.1g})",
            other=deviation.positions.size,
            skipped=skipped.size,
            size=deviation.size,
            noise=deviation.floor,
        ),
        experiment=Sentence("run on B's canvases: every row that went on scores as it should")
        if case.expected.led is not None
        else Sentence("beside A, every row that went on scores as it should"),
        proof=proof_of(removed=case.proof.fault_removed if alone else None, added=None),
        remedy=Sentence(
            "keep the logits of a skipped row, or its state after the last layer; never feed the "
            "state of the skip layer to the head"
        ),
        positions=tuple(deviation.positions.tolist()),
    )


def _by_setting(case: Case) -> Finding | None:
    """The skip setting is the difference: is it this step's skip, or what piled up before?"""
    found = swap(case) if case.expected.conforms else None
    step = None if case.divergence.forward is None else case.step_b(case.divergence.forward)
    if found is None or found.factors[0].setting != "skip" or step is None:
        return None
    if any(f.name == "skip.similarity_dtype" for f in found.factors):
        return None
    here = _restored_by_unskipping(case, step, (step.forward,))
    earlier = tuple(s.forward for s in case.record_b.steps if s.forward < step.forward)
    piled_up = _restored_by_unskipping(case, step, earlier)
    ages = step.finished_age[list(step.skipped)]
    oldest = int(ages.max(initial=0))
    first = case.divergence.first
    return Finding(
        rule="accumulation" if piled_up else RULE.name,
        number=20 if piled_up else RULE.number,
        what=Sentence(
            "the errors of rows that {skip} skips add up over steps"
            if piled_up
            else "the old state of a row that {skip} skips changes the decision",
            skip=policy_that_differs(case, "skip"),
        ),
        where=place(step, step.skip_layer or None, None if first is None else first.position),
        evidence=listed(
            [
                Sentence(
                    "{skipped} of {rows} rows skip in this step, their states are up to {age} "
                    "forwards old",
                    skipped=len(step.skipped),
                    rows=step.rows.size,
                    age=oldest,
                ),
                case.expected.forced,
            ]
        ),
        experiment=listed(
            [
                found.how,
                Sentence(
                    "without the skip in this one step the decision is A's"
                    if here
                    else "without the skip in this one step the decision is still B's"
                ),
                Sentence(
                    "without those of the steps before it is A's"
                    if piled_up
                    else "without those of the steps before it is still B's"
                ),
            ]
        ),
        proof=proof_of(removed=found.removed, added=found.added),
        remedy=_stricter(case, piled_up=bool(piled_up)),
        positions=step.skipped,
    )


def _stricter(case: Case, *, piled_up: bool) -> Sentence:
    """A threshold that lets rows skip for a tenth of the difference, or fewer at once."""
    rule = SkipRule.of(case.record_b)
    if rule is None:
        return Sentence("let fewer rows skip")
    stated = rule.bar.value
    return Sentence(
        "raise {setting}, for example to {threshold}, or refresh within the block"
        if piled_up
        else "raise {setting}, for example to {threshold}",
        setting=Code(rule.bar.setting),
        threshold=f"{1 - (1 - stated) / 10:.7g}" if stated < 1 else "1",
    )


def _restored_by_unskipping(case: Case, step: StepRecord, forwards: tuple[int, ...]) -> bool | None:
    """Whether this step decides as A if nothing skips in some forwards up to it.

    Without the skips before it, what skips in this step is one forward old; if that is young
    enough, the errors of single steps are harmless and their sum is not.
    """
    other = case.divergence.same_step(step)
    trace = case.ask(
        Follow(
            "b",
            "b",
            (step.forward, step.forward),
            led=frozenset(("skip",)),
            unskip=forwards,
            tensors=False,
        )
    )
    if trace is None or other is None:
        return None
    found = next((s for s in trace.records[0].steps if s.forward == step.forward), None)
    return found is not None and found.decides_as(other)


RULE = Rule(12, "stale-skipped-state", "stale state of a skipped row", examine)
