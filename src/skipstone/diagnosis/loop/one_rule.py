"""May one rule have made both runs? Then no difference of rules is claimed.

What one of the runs did not score at the canvas where they part, the other did: a rule that would
have committed there explains neither.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from skipstone.diagnosis.loop.choice import bounds, places, within
from skipstone.diagnosis.loop.evidence import Evidence
from skipstone.diagnosis.loop.fit import Fit, Identified
from skipstone.diagnosis.loop.replay import StepCommits, gives
from skipstone.diagnosis.loop.rule import Draw, LoopRule
from skipstone.diagnosis.loop.sheet import confidences

# One rule for both must not need more luck than two rules: a thousandth is no chance.
_LUCK = 10.0


def one_rule(a: Identified, b: Identified, where: tuple[int, int]) -> bool:
    """Whether one rule may have made both runs."""
    plain = min(f.bits for f in a.complete) + min(f.bits for f in b.complete)
    sides = (
        (a, where[0], (b.evidence, where[1])),
        (b, where[1], (a.evidence, where[0])),
    )
    theirs = dict[LoopRule, list[Fit]]()
    for fit in b.complete:
        theirs.setdefault(fit.rule.form, []).append(fit)
    for mine in a.complete:
        for fit in theirs.get(mine.rule.form, ()):
            value = mine.rule.selection.value.meet(fit.rule.selection.value)
            if value.empty or mine.rule.selection.number == "some":
                # Free numbers explain any two runs.
                continue
            lucky = mine.bits + fit.bits - plain > _LUCK
            if lucky or _decides_otherwise(mine.rule, a, b, where):
                continue
            shared = replace(mine.rule, selection=replace(mine.rule.selection, value=value))
            if any(_passes_over(shared, *side) for side in sides):
                continue
            if _stands_in_one_place(mine.rule, a, b, where):
                return True
    return False


def _stands_in_one_place(
    rule: LoopRule, a: Identified, b: Identified, where: tuple[int, int]
) -> bool:
    """Whether a rule gives B's commits from where A stands in its blocks.

    Up to here both did the same: if it were one loop, it would stand in one place.
    """
    if not rule.predicts or not cut_otherwise(rule, rule, a, b, where):
        return True
    place = places(a.evidence.decisions, rule.region)[where[0]]
    return gives(rule, b.evidence, where[1], StepCommits.of(b.evidence, where[1]), place)


def held_against(mine: Identified, at: int, other: Identified, at_other: int) -> Identified:
    """What was found of a run, without rules that pass over scores that the other run recorded.

    The canvas is the same, and so are the scores that both recorded: so are the others. A run that
    scores nothing beyond its block shows no rule for what lies there.
    """
    seen = (other.evidence, at_other)
    left = [f for f in mine.fits if not (f.complete and _passes_over(f.rule, mine, at, seen))]
    return replace(mine, fits=left) if any(f.complete for f in left) else mine


def as_of_the_mask(mine: Identified, other: Identified) -> Identified:
    """What was found of a run, with the ways to leave out the mask that its scores do not show.

    Where the mask is never the best, a loop that never proposes it, and counts it, does as one to
    which it is like any other id. The other run may tell the two apart.
    """
    never, _, like_others = Draw().about_the_mask(mine.evidence.watched[0])
    if not any(f.rule.draw == never for f in other.complete) or any(
        f.complete and f.rule.draw == never for f in mine.fits
    ):
        return mine
    fits = list[Fit]()
    for fit in mine.fits:
        fits.append(fit)
        if fit.complete and fit.rule.draw == like_others:
            fits.append(replace(fit, rule=replace(fit.rule, draw=never)))
    proposed = (
        mine.evidence.proposals(i, like_others) for i in range(len(mine.evidence.decisions))
    )
    masks = any((p.token_C == mine.evidence.watched[0]).any() for p in proposed)
    return mine if masks else replace(mine, fits=fits)


def _passes_over(rule: LoopRule, mine: Identified, at: int, other: tuple[Evidence, int]) -> bool:
    """Whether a run left out what a rule commits, by a score that only the other run recorded."""
    evidence = mine.evidence
    scored_C = np.isfinite(evidence.proposals(at, rule.draw).best_C)
    if not rule.predicts or scored_C.all():
        return False
    place = places(evidence.decisions, rule.region)[at]
    return not gives(rule, evidence, at, StepCommits.of(evidence, at), place, beside=other)


def cut_otherwise(
    mine: LoopRule, theirs: LoopRule, a: Identified, b: Identified, where: tuple[int, int]
) -> bool:
    """Whether the runs differ in blocks of other positions, and the rules depend on these."""
    if "canvas" in (mine.region.reach, theirs.region.reach):
        return False
    in_a = bounds(a.evidence.decisions[where[0]], mine.region.block_length)
    in_b = bounds(b.evidence.decisions[where[1]], theirs.region.block_length)
    return in_a != in_b


def _decides_otherwise(
    rule: LoopRule, a: Identified, b: Identified, where: tuple[int, int]
) -> bool:
    """Whether a rule that is no game of chance saw the same confidences, and chose otherwise.

    Only equal confidences allow that; and a loop breaks ties in one way.
    """
    if not rule.predicts:
        return False
    values = list[np.ndarray]()
    for side, number in zip((a.evidence, b.evidence), where, strict=True):
        decision = side.decisions[number]
        place = places(side.decisions, rule.region)[number]
        proposals = side.proposals(number, rule.draw, rule.confidence.dtype)
        value_C = confidences(proposals, rule.confidence, decision.position_C)
        values.append(value_C[within(decision, place, rule.region)])
    return np.array_equal(values[0], values[1], equal_nan=True)
