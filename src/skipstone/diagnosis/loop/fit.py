"""Which rule does a run follow? Small hypotheses are tried on all of its steps, cheapest first.

A rule explains a step if it gives exactly the positions and tokens that were committed. Free
numbers (a threshold, tokens a step) are intervals that every step narrows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from skipstone.diagnosis.loop.choice import BlockProgress, StepChoice, choice, places, within
from skipstone.diagnosis.loop.draws import bent_draws, likely_draws
from skipstone.diagnosis.loop.evidence import Evidence
from skipstone.diagnosis.loop.number import allowed
from skipstone.diagnosis.loop.rule import (
    ACROSS,
    SCHEDULES,
    THRESHOLDS,
    Confidence,
    Draw,
    LoopRule,
    Number,
    Reach,
    Region,
    Selection,
    ValueRange,
    cost,
)
from skipstone.diagnosis.loop.stated import Stated

_REACHES: tuple[Reach, ...] = ("block", "to the end of the block", "canvas", "from the block on")
_NUMBERS: tuple[Number, ...] = ("each step", *SCHEDULES, *THRESHOLDS, "factor", "all", "some")
# Schedules that some loops plan for the whole canvas where they mean a block.
_SHARED_OUT: tuple[Number, ...] = ("remainder first", "remainder last", "share of the rest")
# Rules whose parts allow most steps; for the others no number is looked for.
_CLOSEST = 24
# What ties count for that all went to the lowest positions.
_TIED = 0.05
_PLAIN = (Confidence(), Confidence(dtype="float32"))


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """A rule, and the steps that it explains."""

    rule: LoopRule
    """With the values of its free number by which it explains them."""
    explains: np.ndarray
    """bool, one for each decision."""
    bits: float
    """Luck: how often equal confidences happened to be chosen in this way."""

    def __repr__(self) -> str:
        return f"<Fit: {self.count} of {self.explains.size} steps by {self.rule}>"

    @property
    def count(self) -> int:
        """Steps that it explains."""
        return int(self.explains.sum())

    @property
    def complete(self) -> bool:
        """Whether it explains every step."""
        return bool(self.explains.all())


@dataclass(frozen=True, eq=False, repr=False)
class Identified:
    """What was found out about the rule of a run."""

    evidence: Evidence
    fits: Sequence[Fit]
    """Of each form the best; those that explain most come first, then the plainest."""
    tried: int
    """Rules that were tried."""
    stated: Stated

    def __repr__(self) -> str:
        return f"<Identified: {len(self.complete)} of {self.tried} rules explain all steps>"

    @cached_property
    def complete(self) -> list[Fit]:
        """Those that explain every step; where one of them is stated, it is the rule."""
        found = [fit for fit in self.fits if fit.complete]
        stated = [fit for fit in found if self.stated.states(fit.rule)]
        return [replace(fit, rule=self.stated.narrowed(fit.rule)) for fit in stated] or found

    @property
    def solved(self) -> bool:
        """Whether a rule that predicts commits explains every step."""
        return any(fit.complete and fit.rule.predicts for fit in self.fits)

    @property
    def best(self) -> Fit | None:
        """The plainest of those that explain most."""
        return self.fits[0] if self.fits else None

    @property
    def next_best(self) -> Fit | None:
        """The best that leaves more unexplained."""
        best = self.best
        return next((f for f in self.fits if best and f.count < best.count), None)

    def surprise(self, fit: Fit) -> float:
        """How far a rule is from the plain one; luck, and what was not stated, count against it."""
        return _surprise(fit, self.stated)


def identify(evidence: Evidence, stated: Stated, *, plainly: bool = False) -> Identified:
    """Find the rules that a run may have followed.

    Args:
        evidence: its decisions.
        stated: what its settings say.
        plainly: look only at orders by probability.
    """
    evidence, draws = likely_draws(evidence, stated.guidance)
    search = _Search(evidence, stated)
    for draw in draws:
        # Of a scale of guidance many values do; the first that explains all is enough.
        if not search.solved or any(fit.rule.draw.guidance == draw.guidance for fit in search.fits):
            search.with_draw(draw, plain=plainly)
    if not search.solved and not plainly:
        # Ids that are left out or raised change the confidences of others, too.
        for base in draws[:2]:
            for draw in bent_draws(evidence, base):
                search.with_draw(draw, plain=True)
    if not search.solved and evidence.drew_over_ids:
        # All tokens may be the best of their rows: those of lower ones were less confident.
        for draw in Draw(greedy=False).about_the_mask(evidence.watched[0]):
            if draw not in draws:
                search.with_draw(draw, plain=True)
    fits = sorted(search.fits, key=lambda f: _key(f, stated))
    return Identified(evidence, fits, search.tried, stated)


def _key(fit: Fit, stated: Stated) -> tuple[int, float]:
    """Most steps first; then the plainest."""
    return -fit.count, _surprise(fit, stated)


def _surprise(fit: Fit, stated: Stated) -> float:
    return cost(fit.rule) + fit.bits + (0.0 if stated.names(fit.rule) else 3.0)


class _Search:
    """Tries rules with one draw after the other."""

    def __init__(self, evidence: Evidence, stated: Stated) -> None:
        self.evidence, self.stated = evidence, stated
        self.fits = list[Fit]()
        self.tried = 0

    @property
    def solved(self) -> bool:
        """Whether a rule that predicts commits explains every step."""
        return any(fit.complete and fit.rule.predicts for fit in self.fits)

    def with_draw(self, draw: Draw, *, plain: bool = False) -> None:
        """Try all orders, regions and numbers with a draw; or the plain ones of them."""
        drawn = int(self.evidence.drawn(draw).sum())
        ordered = [
            _Ordered.of(self.evidence, draw, confidence, region)
            for region in self._regions()
            for confidence in (_PLAIN if plain else self._confidences(draw))
        ]
        self.tried += len(ordered)
        solved = any(o.count == drawn for o in ordered if o.confidence.kind != "any")
        if not solved and not plain:
            others = [(region, one) for region in self._other_regions() for one in _PLAIN]
            others += [(region, Confidence(dtype="float16")) for region in self._regions()]
            more = [
                _Ordered.of(self.evidence, draw, confidence, region)
                for region, confidence in others
            ]
            self.tried += len(more)
            ordered += more
        ordered.sort(key=lambda o: (-o.count, o.cost))
        for one in ordered[:_CLOSEST]:
            found = list(one.fits(self.evidence, self.stated))
            self.tried += len(found)
            self.fits += found

    def _regions(self) -> Iterator[Region]:
        return (Region(reach) for reach in _REACHES)

    def _other_regions(self) -> Iterator[Region]:
        """Blocks of other lengths than those in which the steps were recorded."""
        new = self.evidence.record.header.gen_length
        known = self.stated.block_length
        lengths = [known] if known else []
        lengths += [n for n in range(2, new + 1) if n not in lengths]
        for length in lengths:
            yield Region("block", length)
            if length == known:
                yield from (Region(reach, length) for reach in _REACHES[1:])

    def _confidences(self, draw: Draw) -> Iterator[Confidence]:
        dtypes = ["float64", "float32"]
        if self.evidence.dtype in ("bfloat16", "float16"):
            dtypes.append(self.evidence.dtype)
        for dtype in dict.fromkeys((*dtypes, "bfloat16")):
            if dtype == "bfloat16" and not self.evidence.may_hold(dtype):
                continue
            yield Confidence(dtype=dtype)
        for dtype in dtypes:
            yield Confidence("margin", dtype=dtype)
            if self.evidence.logits:
                yield Confidence("entropy", dtype=dtype)
            if self.evidence.complete:
                yield from (Confidence(axis=axis, dtype=dtype) for axis in ACROSS)
        for token in self.evidence.watched[1:3]:
            if token not in draw.without:
                yield Confidence(last=(token,))
        yield Confidence("least probable")
        yield Confidence("left to right")
        yield Confidence("right to left")
        yield Confidence("any")


@dataclass(frozen=True, eq=False)
class _Ordered:
    """The choices of all steps, under a draw, a confidence and a region."""

    draw: Draw
    confidence: Confidence
    region: Region
    choices: Sequence[StepChoice | None]
    places: Sequence[BlockProgress]
    drawn: Sequence[bool]

    @classmethod
    def of(cls, evidence: Evidence, draw: Draw, confidence: Confidence, region: Region) -> _Ordered:
        mask_id = evidence.record.header.mask_id
        where = places(evidence.decisions, region)
        choices = [
            choice(
                decision,
                evidence.proposals(i, draw, confidence.dtype),
                draw,
                confidence,
                within(decision, place, region),
                mask_id,
            )
            for i, (decision, place) in enumerate(zip(evidence.decisions, where, strict=True))
        ]
        drawn = evidence.drawn(draw)
        return cls(draw, confidence, region, choices, where, drawn.tolist())

    @property
    def count(self) -> int:
        """Steps whose choice is one of the best by this order."""
        return sum(c is not None for c in self.choices)

    @property
    def cost(self) -> float:
        """Of these parts alone."""
        return cost(LoopRule(self.draw, self.confidence, self.region, Selection("each step")))

    def fits(self, evidence: Evidence, stated: Stated) -> Iterator[Fit]:
        """The best of every kind of number."""
        openings = {p.start for p in self.places} == {p.start for p in self.places if p.opening}
        for number in _NUMBERS:
            for steps in self._steps(number, stated):
                for selection in _selections(number, openings=openings):
                    fit = self._fit(selection, steps)
                    if fit is not None:
                        yield fit

    def _steps(self, number: Number, stated: Stated) -> list[int]:
        """Steps that a schedule may have for a block; 0 stands for as many as the block took."""
        if number not in SCHEDULES:
            return [0]
        said = stated.steps_of(self.places)
        took = sorted({p.steps for p in self.places})
        sizes = sorted({p.stop - p.start for p in self.places})
        return list(dict.fromkeys((*said, *took, *sizes)))

    def _fit(self, selection: Selection, steps: int) -> Fit | None:
        whole = ValueRange(-np.inf, np.inf)
        values = list[ValueRange | None]()
        for chosen, place, drawn in zip(self.choices, self.places, self.drawn, strict=True):
            if selection.opening and place.opening and drawn:
                values.append(whole)
            elif chosen is None:
                values.append(None)
            else:
                values.append(
                    allowed(
                        selection.number,
                        chosen,
                        place.of_canvas if selection.of_canvas else place,
                        self.confidence.kind,
                        steps=steps,
                        forced=selection.forced,
                    )
                )
        value = _most_common(values)
        if value is None:
            return None
        explains = np.array([v is not None and not v.meet(value).empty for v in values])
        rule = LoopRule(self.draw, self.confidence, self.region, replace(selection, value=value))
        return Fit(rule, explains, self._bits(explains, selection))

    def _bits(self, explains: np.ndarray, selection: Selection) -> float:
        """No luck is needed where equal confidences always went to the lowest positions."""
        used = [c for c, e in zip(self.choices, explains, strict=True) if c is not None and e]
        if selection.number == "some":
            # Any number would do, so that each that was chosen is luck.
            return sum(c.bits + np.log2(max(1, c.order.size)) for c in used)
        bits = sum(c.bits for c in used)
        if self.confidence.kind != "any" and all(c.lowest_first for c in used):
            # Of two rules that are as plain, the one that needs no ties.
            return min(bits, _TIED)
        return bits


def _selections(number: Number, *, openings: bool) -> Iterator[Selection]:
    """The ways in which a number can be meant."""
    for opening in (False, True) if openings else (False,):
        yield Selection(number, opening=opening)
        if number in THRESHOLDS:
            yield Selection(number, forced=False, opening=opening)
        if number in _SHARED_OUT:
            yield Selection(number, of_canvas=True, opening=opening)


def _most_common(values: Sequence[ValueRange | None]) -> ValueRange | None:
    """The interval that is within as many of the values as possible."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    whole = known[0]
    for value in known[1:]:
        whole = whole.meet(value)
    if not whole.empty:
        return whole
    best, most = None, 0
    for value in dict.fromkeys(known):
        # An interval that most share begins where one of them begins.
        shared = [v for v in known if _holds_start(v, value)]
        if len(shared) > most:
            met = shared[0]
            for other in shared[1:]:
                met = met.meet(other)
            if not met.empty:
                best, most = met, len(shared)
    return best


def _holds_start(value: ValueRange, other: ValueRange) -> bool:
    """Whether an interval holds the values right at, or right after, the start of another."""
    if other.low_included:
        return other.low in value
    return value.low <= other.low < value.high
