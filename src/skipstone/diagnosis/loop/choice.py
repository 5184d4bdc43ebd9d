"""What a step chose, seen in the order of a confidence: where the choice ends, and by what luck.

Shape letters: C masks of the canvas before a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb, log2

import numpy as np

from skipstone.diagnosis.dtypes import same, slack
from skipstone.diagnosis.loop.evidence import Decision
from skipstone.diagnosis.loop.rule import Confidence, Draw, Region
from skipstone.diagnosis.loop.sheet import Proposals, confidences

# The sum of an entropy is taken in the coarse dtype, too, digit by digit.
_SLACK_OF_SUMS = {"float64": 1e-9, "float32": 1e-5, "float16": 8e-3, "bfloat16": 6e-2}


@dataclass(frozen=True)
class BlockProgress:
    """Where a step stands in its block."""

    start: int
    stop: int
    step: int
    steps: int
    """That the block took."""
    began: int
    """Masks of the block before its first step."""
    left: int
    """Masks of the block before this step."""
    opening: bool
    """Whether it is the first of the block and commits the first position and nothing else."""
    canvas_began: int
    """Masks of the canvas before the first step of the block."""
    canvas_left: int
    """Masks of the canvas before this step."""

    @property
    def of_canvas(self) -> BlockProgress:
        """The same, for a schedule that shares out the masks of the whole canvas."""
        return replace(self, began=self.canvas_began, left=self.canvas_left)


@dataclass(frozen=True, eq=False)
class StepChoice:
    """The choice of one step, under a draw, a confidence and a region that allow it."""

    order: np.ndarray
    """float64: confidences in the region, the best first."""
    least: int
    """So many of the best were chosen at least: a chosen mask token does not show."""
    most: int
    """So many at most."""
    worst: float
    """The lowest confidence that was committed; infinity if nothing was."""
    passed: float
    """The highest confidence that was not; minus infinity if nothing was left."""
    bits: float
    """Luck: the logarithm of the ways to choose among equal confidences."""
    lowest_first: bool
    """Whether equal confidences went to the lowest positions."""

    @property
    def emptied(self) -> bool:
        """Whether all that could be seen to be committed was."""
        return self.passed == -np.inf


def places(decisions: Sequence[Decision], region: Region) -> list[BlockProgress]:
    """Where each step stands, by the blocks of a region."""
    bounded = [bounds(d, region.block_length) for d in decisions]
    steps, found = dict[int, list[int]](), list[BlockProgress]()
    for number, (start, _) in enumerate(bounded):
        steps.setdefault(start, []).append(number)
    for number, (decision, (start, stop)) in enumerate(zip(decisions, bounded, strict=True)):
        mine = steps[start]
        first = decisions[mine[0]]
        at = decision.at if region.block_length is None else mine.index(number)
        took = max(decisions[mine[-1]].at + 1, len(mine))
        written = decision.position_C[decision.committed].tolist()
        found.append(
            BlockProgress(
                start,
                stop,
                at,
                took if region.block_length is None else len(mine),
                _masks(first, start, stop),
                _masks(decision, start, stop),
                at == 0 and written == [start],
                first.position_C.size,
                decision.position_C.size,
            )
        )
    return found


def within(decision: Decision, place: BlockProgress, region: Region) -> np.ndarray:
    """Bool [C]: the masks that a region allows to commit."""
    at = decision.position_C
    match region.reach:
        case "block":
            inside = (at >= place.start) & (at < place.stop)
        case "to the end of the block":
            inside = at < place.stop
        case "from the block on":
            inside = at >= place.start
        case "canvas":
            inside = np.ones(at.size, bool)
    return inside & decision.open_C


def choice(
    decision: Decision,
    proposals: Proposals,
    draw: Draw,
    confidence: Confidence,
    inside_C: np.ndarray,
    mask_id: int,
) -> StepChoice | None:
    """How a step chose; None if these parts of a rule do not allow what it did."""
    done_C = decision.committed
    proposed = proposals.token_C[done_C] == decision.written_C[done_C]
    if (done_C & ~inside_C).any() or not proposed.all():
        return None
    value_C = confidences(proposals, confidence, decision.position_C)
    if not draw.greedy and confidence.kind == "probability":
        # What was drawn where nothing was committed is not known.
        value_C = np.where(done_C, value_C, np.nan)
    if np.isnan(value_C[done_C]).any():
        return None
    hidden_C = inside_C & ~done_C & (proposals.token_C == mask_id)
    other_C = inside_C & ~done_C & ~hidden_C & ~np.isnan(value_C)
    worst = float(value_C[done_C].min(initial=np.inf))
    passed = float(value_C[other_C].max(initial=-np.inf))
    sums = confidence.kind == "entropy"
    loose = _SLACK_OF_SUMS[confidence.dtype] if sums else slack(confidence.dtype)
    if worst < passed and not bool(same(np.array(worst), np.array(passed), loose)):
        return None
    bits, lowest = _luck(decision, value_C, done_C, other_C, worst, loose)
    hidden = value_C[hidden_C]
    count = int(done_C.sum())
    known_C = inside_C & ~np.isnan(value_C)
    return StepChoice(
        order=np.sort(value_C[known_C])[::-1],
        least=count + int((hidden > worst).sum()),
        most=count + int((hidden >= passed).sum()),
        worst=worst,
        passed=passed,
        bits=bits,
        lowest_first=lowest,
    )


def _luck(
    decision: Decision,
    value_C: np.ndarray,
    done_C: np.ndarray,
    other_C: np.ndarray,
    worst: float,
    loose: float,
) -> tuple[float, bool]:
    """Bits of luck at the border, and whether the lowest positions were preferred there."""
    tied_C = same(value_C, np.array(worst), loose)
    taken, passed = done_C & tied_C, other_C & tied_C
    if not taken.any() or not passed.any():
        return 0.0, True
    many, few = int(taken.sum() + passed.sum()), int(taken.sum())
    at = decision.position_C
    return log2(comb(many, few)), bool(at[taken].max() < at[passed].min())


def bounds(decision: Decision, length: int | None) -> tuple[int, int]:
    """The block of a step: as recorded, or that of the first mask."""
    step = decision.step
    if length is None:
        return step.block_start, step.block_stop
    start = step.prompt_length
    first = int(decision.position_C[0]) if decision.position_C.size else start
    begins = start + (first - start) // length * length
    return begins, min(begins + length, step.entered_age.size)


def _masks(decision: Decision, start: int, stop: int) -> int:
    at = decision.position_C
    return int(((at >= start) & (at < stop)).sum())
