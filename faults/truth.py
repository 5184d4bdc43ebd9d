"""What is true about a fault: where it acts first. Findings are held against it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from skipstone.diagnosis.finding import Finding
from skipstone.diff import compare
from skipstone.record import RunRecord, StepRecord

First = Callable[[RunRecord, RunRecord], StepRecord | None]
"""From the records of A and B to the step of B in which a fault acts first."""

Where = Callable[[StepRecord], Collection[int]]
"""Positions that may be named in that step."""


@dataclass(frozen=True)
class Truth:
    """Where a fault acts first."""

    first: First
    layers: tuple[int, ...] = ()
    """Layers that may be named as the first; empty if the fault has no layer."""
    where: Where | None = None
    """None if it has no position."""

    def place_right(self, finding: Finding, step: StepRecord) -> bool:
        """Whether a finding names a right layer and position, where there are any."""
        layer = not self.layers or finding.where.layer in self.layers
        position = self.where is None or finding.where.position in self.where(step)
        return layer and position


# --- when -----------------------------------------------------------------------------------------


def when(begins: Callable[[StepRecord], bool]) -> First:
    """The first step of B that is such a step."""
    return lambda a, b: next((step for step in b.steps if begins(step)), None)


ALWAYS = when(lambda step: True)
CACHED = when(lambda step: step.step > 0)
"""The first step that may use the cache."""
SECOND_BLOCK = when(lambda step: step.block == 1)
EMPTY = when(lambda step: not step.committed)


def from_forward(forward: int) -> First:
    """From one forward on."""
    return when(lambda step: step.forward >= forward)


def parted(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The first step that decides otherwise."""
    first = compare(a, b).first
    if first is None:
        return None
    return next((step for step in b.steps if step.forward == first.forward_b), None)


def diverged(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The first step of B that computes other rows than A's, or decides otherwise."""
    pairs = zip(a.steps, b.steps, strict=False)
    rows = next((y for x, y in pairs if not np.array_equal(x.rows, y.rows)), None)
    found = [step for step in (rows, parted(a, b)) if step is not None]
    return min(found, key=lambda step: step.forward, default=None)


def still_changing(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The last step of the first block that B leaves where A goes on in it."""
    first = compare(a, b).first
    steps = [s for s in b.steps if first is not None and s.block == first.block]
    return steps[-1] if steps else None


def commits_otherwise(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The first step of B that commits otherwise than A did from the same canvas."""
    theirs = {step.canvas: step for step in reversed(a.steps)}
    pairs = ((theirs.get(step.canvas), step) for step in b.steps)
    return next((y for x, y in pairs if x is None or x.committed != y.committed), None)


def scored_otherwise(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The first step with another confidence of some mask."""
    pairs = (
        (x.candidates.confidence, y.candidates.confidence, y)
        for x, y in zip(a.steps, b.steps, strict=False)
    )
    return next((step for x, y, step in pairs if not np.array_equal(x, y)), None)


def drawn_otherwise(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The first step that draws another token for some mask."""
    pairs = zip(a.steps, b.steps, strict=False)
    return next(
        (y for x, y in pairs if not np.array_equal(x.candidates.token, y.candidates.token)), None
    )


def skips_part(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The first step in which other rows leave, or leave elsewhere."""
    pairs = zip(a.steps, b.steps, strict=False)
    return next((y for x, y in pairs if not np.array_equal(x.left_before, y.left_before)), None)


def chosen_otherwise(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The first step in which layers leave out other rows, or parts of them."""
    pairs = ((x.layer_parts, y.layer_parts, y) for x, y in zip(a.steps, b.steps, strict=False))
    return next(
        (y for mine, theirs, y in pairs if not np.array_equal(_or_all(mine), _or_all(theirs))), None
    )


def joined_otherwise(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The first step in which rows join before other layers."""
    pairs = zip(a.steps, b.steps, strict=False)
    last = a.header.num_layers
    return next((y for x, y in pairs if _joined(x, last) != _joined(y, last)), None)


def _joined(step: StepRecord, last: int) -> list[list[int]]:
    """Which rows joined before each layer."""
    return [step.joined(layer, layer).tolist() for layer in range(2, last + 1)]


def _or_all(parts_YN: np.ndarray | None) -> np.ndarray:
    """The parts; none where everything is computed."""
    return np.zeros((0, 0)) if parts_YN is None else parts_YN


def masks_skip(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The first step in which a mask skips."""
    return next((s for s in b.steps if np.isin(s.candidates.position, s.skipped).any()), None)


def masks_stay(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The last step of the first block that ends with masks."""
    last_of_block = {step.block: step for step in b.steps}
    return next((s for s in last_of_block.values() if s.masks_after), None)


# --- where ----------------------------------------------------------------------------------------


def in_block(step: StepRecord) -> range:
    """The positions of the block."""
    return range(step.block_start, step.block_stop)


def computed(step: StepRecord) -> list[int]:
    """The positions of the rows, which may be more than those of the block."""
    return step.rows.tolist()


def near_block(step: StepRecord) -> range:
    """The positions of the block and one on either side."""
    return range(step.block_start - 1, step.block_stop + 1)


def first_of_block(step: StepRecord) -> range:
    """The first four positions of the block."""
    return range(step.block_start, step.block_start + 4)


def in_prompt(step: StepRecord) -> range:
    """The positions of the prompt."""
    return range(step.prompt_length)


def outside_block(step: StepRecord) -> list[int]:
    """Every position but those of the block."""
    return np.setdiff1d(np.arange(step.entered_age.size), in_block(step)).tolist()


def middle_row(step: StepRecord) -> list[int]:
    """The row in the middle of those that were computed."""
    return [int(step.rows[step.rows.size // 2])]


def candidates(step: StepRecord) -> list[int]:
    """Masks that could be committed."""
    return step.candidates.position.tolist()


def skipped(step: StepRecord) -> tuple[int, ...]:
    """Rows that skipped."""
    return step.skipped


def first_positions(number: int) -> Where:
    """The first positions of the prompt."""
    return lambda step: range(number)


def anywhere(step: StepRecord) -> range:
    """Any position, but one must be named."""
    return range(step.entered_age.size)
