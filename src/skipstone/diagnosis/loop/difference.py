"""Where the rules of two loops differ, and whether that is why the runs part.

No difference is claimed where one rule explains both runs. Where none does, B's rule must give B's
commits from A's scores, and A's rule A's commits from B's, at the step where the runs part.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from skipstone.diagnosis.dtypes import slack
from skipstone.diagnosis.loop.chance import drawn_from_scores, ordered_by_chance
from skipstone.diagnosis.loop.choice import BlockProgress, bounds, places, within
from skipstone.diagnosis.loop.evidence import Decision, Evidence
from skipstone.diagnosis.loop.fit import Fit, Identified
from skipstone.diagnosis.loop.guidance import weighed_apart
from skipstone.diagnosis.loop.one_rule import as_of_the_mask, cut_otherwise, held_against, one_rule
from skipstone.diagnosis.loop.replay import StepCommits, gives
from skipstone.diagnosis.loop.rule import SCHEDULES, THRESHOLDS, Draw, LoopRule, Region
from skipstone.diagnosis.loop.unknown import unlike

DrawPart = Literal["offset", "without", "raised", "late", "ids", "penalty", "guidance", "drawn"]
ConfidencePart = Literal["axis", "kind", "dtype", "last"]
RegionPart = Literal["region", "block length"]
SelectionPart = Literal["number", "value", "of canvas", "forced", "nothing", "opening"]
RulePart = DrawPart | ConfidencePart | RegionPart | SelectionPart | Literal["tokens", "order"]

# Of each side so many of the best are held against each other.
_COMPARED = 80
# A part that differs counts as much as this in the cost of two rules.
_PART = 8.0
# And so much a threshold that nobody would choose: there is a plainer way to come by its choices.
_ODD = 4.0


@dataclass(frozen=True, eq=False)
class RuleDifference:
    """Two rules that are not the same: B's scores, decided by A's rule, give A's commits."""

    a: Identified
    b: Identified
    fit_a: Fit
    fit_b: Fit | None
    """None if no rule that was tried explains B."""
    parts: tuple[RulePart, ...]
    """In which the rules differ; of a rule that is not known, only what its commits show.

    Without any, that B follows another rule is known, and nothing that could be mended.
    """
    at_a: int
    """The decision of A where the runs part."""
    at_b: int
    added: bool | None
    """A's scores, decided by B's rule, give B's commits and not A's; None if that says nothing."""

    @property
    def plain(self) -> bool:
        """Whether no other rules need to be asked."""
        return self.fit_b is None or not _odd_value(self.fit_b.rule, self.parts)

    @property
    def block_a(self) -> tuple[int, int]:
        """Where A's block begins and ends that it decides in."""
        return _block(self.a, self.at_a, self.fit_a)

    @property
    def block_b(self) -> tuple[int, int]:
        """Where B's does."""
        return _block(self.b, self.at_b, self.fit_b)

    @property
    def positions(self) -> tuple[int, ...]:
        """Committed by one side only, or with another token."""
        a = _by_position(StepCommits.of(self.a.evidence, self.at_a))
        b = _by_position(StepCommits.of(self.b.evidence, self.at_b))
        return tuple(sorted(p for p in a.keys() | b.keys() if a.get(p) != b.get(p)))


def difference(a: Identified, b: Identified, noise: float) -> RuleDifference | None:
    """How B's rule differs from A's, if that is why the runs part.

    Args:
        a: the rules of the baseline.
        b: of the run to explain.
        noise: how far probabilities may differ that are the same.

    Returns:
        None if the runs may follow one rule, if A's is not known, or if their scores differ
        where they part.
    """
    where = parted(a.evidence, b.evidence)
    if where is None or not a.complete:
        return None
    at_a, at_b = where
    if _left_unfinished(a.evidence.decisions[at_a], b.evidence, at_b):
        return None
    if not same_scores(a.evidence, at_a, b.evidence, at_b, noise):
        return None
    a, b = held_against(a, at_a, b, at_b), held_against(b, at_b, a, at_a)
    return _apart(as_of_the_mask(a, b), as_of_the_mask(b, a), where)


def _apart(a: Identified, b: Identified, where: tuple[int, int]) -> RuleDifference | None:
    """The same, where both saw the same scores."""
    at_a, at_b = where
    if b.complete:
        if one_rule(a, b, where):
            return None
        fit_a, closest = _closest(a, b, where)
        fit_b = closest if _known(b.evidence, closest.rule) else None
        parts = () if fit_b is None else _parts(fit_a.rule, fit_b.rule, a, b, where)
    else:
        fit_a, fit_b, parts = a.complete[0], None, ()
    given_a, given_b = StepCommits.of(a.evidence, at_a), StepCommits.of(b.evidence, at_b)
    place_a = places(a.evidence.decisions, fit_a.rule.region)[at_a]
    outside = _outside(b.evidence.decisions[at_b], place_a, fit_a.rule.region)
    if fit_b is not None and fit_b.rule.selection.number == "some":
        # Numbers that are free explain too much: they are a cause only if nothing else differs,
        # and if no other request may have had a share in them.
        shared = len(b.evidence.trace.records) > 1
        fit_b, parts = (None, ()) if outside or shared or parts != ("number",) else (fit_b, parts)
        if parts and not given_b.positions:
            # Which steps these are is not known: what they do is.
            parts = ("nothing",)
    if not _sure(a, b, where, fit_a, fit_b, parts):
        return None
    if not fit_a.rule.predicts and not _both_draw(fit_a, fit_b, parts):
        return None
    removed = gives(fit_a.rule, b.evidence, at_b, given_a, place_a)
    if not removed or gives(fit_a.rule, b.evidence, at_b, given_b, place_a):
        return None
    added = None
    if fit_b is not None and fit_b.rule.predicts:
        place_b = places(b.evidence.decisions, fit_b.rule.region)[at_b]
        given = (gives(fit_b.rule, a.evidence, at_a, g, place_b) for g in (given_b, given_a))
        added = tuple(given) == (True, False)
    outside_C = ~within(b.evidence.decisions[at_b], place_a, fit_a.rule.region)
    filled = set(b.evidence.decisions[at_b].written_C[outside_C].tolist())
    # What is filled up with ends was not chosen by any rule.
    if fit_b is None and outside and not filled <= {-1, b.evidence.record.header.eos_id}:
        parts = ("region",)
    if not parts:
        parts = unlike(fit_a.rule, b.evidence, at_b, place_a, len(given_a.positions))
    return RuleDifference(a, b, fit_a, fit_b, parts, at_a, at_b, added)


def _left_unfinished(mine: Decision, b: Evidence, at_b: int) -> bool:
    """Whether B goes on to a later block, and ends with masks: it ran out of steps, not of rule."""
    theirs, header = b.decisions[at_b].step, b.record.header
    return theirs.block_start >= mine.step.block_stop and header.mask_id in b.record.tokens


def differing(a: LoopRule, b: LoopRule) -> tuple[RulePart, ...]:
    """The parts in which two rules are not the same."""
    pairs: tuple[tuple[RulePart, bool], ...] = (
        ("offset", (a.draw.offset, a.draw.calls) != (b.draw.offset, b.draw.calls)),
        ("without", _without(a.draw) != _without(b.draw)),
        ("raised", (a.draw.raised, a.draw.by) != (b.draw.raised, b.draw.by)),
        ("late", _late(a.draw) != _late(b.draw)),
        ("ids", a.draw.ids != b.draw.ids),
        ("penalty", a.draw.penalty != b.draw.penalty),
        ("guidance", a.draw.guidance != b.draw.guidance),
        ("drawn", a.draw.greedy != b.draw.greedy),
        ("axis", a.confidence.axis != b.confidence.axis),
        ("kind", a.confidence.kind != b.confidence.kind),
        ("dtype", a.confidence.dtype != b.confidence.dtype),
        ("last", a.confidence.last != b.confidence.last),
        ("region", a.region.reach != b.region.reach),
        ("block length", a.region.block_length != b.region.block_length),
        ("number", a.selection.number != b.selection.number),
        ("value", _values_part(a, b)),
        ("of canvas", a.selection.of_canvas != b.selection.of_canvas),
        ("forced", a.selection.forced != b.selection.forced),
        ("opening", a.selection.opening != b.selection.opening),
    )
    return tuple(part for part, differs in pairs if differs)


def _late(draw: Draw) -> tuple[bool, bool]:
    return draw.late, draw.late and draw.within_block


def _without(draw: Draw) -> tuple[set[int], set[int]]:
    return set(draw.without), set(draw.still_summed)


def same_scores(a: Evidence, at_a: int, b: Evidence, at_b: int, noise: float) -> bool:
    """Whether both steps saw the same scores, up to noise in the probabilities.

    Between scores that are all but certain noise moves nothing; the sums that are taken here do.
    """
    noise = max(noise, slack("float64"))
    if not _same_scores(a, at_a, b, at_b, noise, Draw()):
        return False
    both = a.guided and b.guided
    return not both or _same_scores(a, at_a, b, at_b, noise, Draw(guidance=0.0))


def _same_scores(a: Evidence, at_a: int, b: Evidence, at_b: int, noise: float, draw: Draw) -> bool:
    x, y = a.proposals(at_a, draw), b.proposals(at_b, draw)
    # Of what one of them fills up with ends it decides nothing.
    positions = a.decisions[at_a].position_C, b.decisions[at_b].position_C
    _, of_a, of_b = np.intersect1d(*positions, return_indices=True)
    both = np.isfinite(x.best_C[of_a]) & np.isfinite(y.best_C[of_b])
    if not both.any():
        return False
    p, q = np.exp(x.log_p_C[of_a]), np.exp(y.log_p_C[of_b])
    same = np.abs(p - q) <= noise
    # Of two tokens that are as good as each other either may be the best.
    second = np.exp(x.second_C - x.best_C + x.log_p_C)[of_a]
    tied = (second >= p - noise) | (x.token_C[of_a] == y.token_C[of_b])
    return bool((same & tied)[both].all())


def _values_part(a: LoopRule, b: LoopRule) -> bool:
    if a.selection.number != b.selection.number:
        return False
    # A threshold is compared as the dtype of the confidence holds it.
    dtype = b.confidence.dtype if b.selection.number in THRESHOLDS else "float64"
    return a.selection.value.held(dtype).meet(b.selection.value).empty


def _sure(
    a: Identified,
    b: Identified,
    where: tuple[int, int],
    fit_a: Fit,
    fit_b: Fit | None,
    parts: tuple[RulePart, ...],
) -> bool:
    """Whether what differs is neither where B stands, nor which of many scales was tried."""
    if fit_b is None:
        return True
    regions = "region" in parts or "block length" in parts
    if not regions and cut_otherwise(fit_a.rule, fit_b.rule, a, b, where):
        return False
    if "guidance" not in parts:
        return True
    return weighed_apart(a.evidence, fit_a.rule.draw, b.evidence, fit_b.rule.draw)


def _both_draw(fit_a: Fit, fit_b: Fit | None, parts: tuple[RulePart, ...]) -> bool:
    """Whether both draw their tokens, and differ in what does not depend on what was drawn."""
    if fit_b is None or fit_a.rule.draw.greedy or fit_b.rule.draw.greedy:
        return False
    apart = {"number", "value", "of canvas", "kind"}
    planned = ("each step", *SCHEDULES)
    a, b = fit_a.rule, fit_b.rule
    if not parts or not apart.issuperset(parts) or a.confidence.kind == "any":
        return False
    return a.selection.number in planned and b.selection.number in planned


def _outside(decision: Decision, place: BlockProgress, region: Region) -> bool:
    """Whether a step commits where a region does not allow it."""
    return bool((decision.committed & ~within(decision, place, region)).any())


def _known(evidence: Evidence, rule: LoopRule) -> bool:
    """Whether a rule is more than another name for what is not known."""
    if not rule.draw.greedy:
        return evidence.complete and drawn_from_scores(evidence, rule.draw)
    if rule.confidence.kind == "any":
        return evidence.complete and ordered_by_chance(evidence, rule)
    return True


def parted(a: Evidence, b: Evidence) -> tuple[int, int] | None:
    """The first decisions, from one canvas, that commit otherwise."""
    numbers = {(d.step.canvas, d.step.step): i for i, d in enumerate(a.decisions)}
    by_canvas = {d.step.canvas: i for i, d in enumerate(a.decisions)}
    for j, decision in enumerate(b.decisions):
        i = numbers.get((decision.step.canvas, decision.step.step))
        i = by_canvas.get(decision.step.canvas) if i is None else i
        if i is None:
            return None
        if StepCommits.of(a, i) != StepCommits.of(b, j):
            return i, j
    return None


def _closest(a: Identified, b: Identified, where: tuple[int, int]) -> tuple[Fit, Fit]:
    """Of the rules that explain each run, the two that are plainest and most alike.

    They are not the same rule: that none explains both was found out before.
    """
    mine, theirs = a.complete[:_COMPARED], b.complete[:_COMPARED]
    apart = [
        (x, y, parts)
        for x, y in product(mine, theirs)
        if (parts := _parts(x.rule, y.rule, a, b, where))
    ]
    if not apart:
        return mine[0], theirs[0]
    best = min(apart, key=lambda pair: _distance(a, b, *pair))
    return best[0], best[1]


def _parts(
    mine: LoopRule, theirs: LoopRule, a: Identified, b: Identified, where: tuple[int, int]
) -> tuple[RulePart, ...]:
    """In which parts rules differ; blocks of other bounds are one, however they were known."""
    parts = differing(mine, theirs)
    if "block length" in parts or not cut_otherwise(mine, theirs, a, b, where):
        return parts
    grid = {bounds(d, mine.region.block_length) for d in a.evidence.decisions}
    theirs_at = b.evidence.decisions[where[1]]
    if bounds(theirs_at, theirs.region.block_length) not in grid:
        return (*parts, "block length")
    # B may stand in another one of the same blocks, as it has left one early; but not in both.
    place = places(a.evidence.decisions, mine.region)[where[0]]
    both = "region" not in parts and _in_both_blocks(b.evidence, where[1], place, mine.region)
    return (*parts, "region") if both else parts


def _in_both_blocks(b: Evidence, at: int, place: BlockProgress, region: Region) -> bool:
    """Whether B commits beyond the block in which the other run stands, and is not done with it.

    A loop that left it because its steps were up took as many there as in any other block.
    """
    decision, later = b.decisions[at], b.decisions[at + 1 :]
    inside_C = within(decision, place, region)[decision.committed]
    if inside_C.all() or inside_C.any():
        return bool(inside_C.any() and not inside_C.all())
    returns = any(within(d, place, region)[d.committed].any() for d in later)
    took = Counter(d.step.block for d in b.decisions)
    left = [d.step.block for d in b.decisions[:at] if d.step.block_start == place.start]
    return returns and (not left or took[left[0]] < max(took.values()))


def _distance(
    a: Identified, b: Identified, mine: Fit, theirs: Fit, parts: tuple[RulePart, ...]
) -> float:
    apart = _PART * len(parts) - ("value" in parts) * _PART / 2
    apart += _ODD * _odd_value(theirs.rule, parts)
    return apart + 2.0 * ("block length" in parts) + a.surprise(mine) + b.surprise(theirs)


def _odd_value(rule: LoopRule, parts: tuple[RulePart, ...]) -> bool:
    """Whether B's threshold is not A's, and no number that somebody would choose."""
    thresholds = rule.selection.number in THRESHOLDS and rule.confidence.kind != "entropy"
    return "value" in parts and thresholds and not rule.selection.value.round


def _block(side: Identified, at: int, fit: Fit | None) -> tuple[int, int]:
    length = None if fit is None else fit.rule.region.block_length
    start, stop = bounds(side.evidence.decisions[at], length)
    return start, stop - 1


def _by_position(given: StepCommits) -> dict[int, int]:
    return dict(zip(given.positions, given.tokens, strict=True))
