"""Did layers compute the rows that the cache policy chooses, from the values that they had?

Some cache policies say in each layer which rows it computes, or of which its MLP. B's recorded rows
are held against what the stated policy chooses where every layer is fed with B's own input: an
error that came from elsewhere moves both alike.

Shape letters: Y layers, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from skipstone.diagnosis.case.expected import Expected
from skipstone.diagnosis.case.inquiry import Inquiry
from skipstone.diagnosis.case.runs import Runs
from skipstone.diagnosis.case.tensors import ComparedTensors
from skipstone.diagnosis.experiment import Follow
from skipstone.record import StepRecord, Trace

Part = Literal["layer", "mlp"]
"""Of a layer, what was computed for some rows."""
ChoiceSlip = Literal["due", "none", "number", "layer", "fewer", "more", "others"]
"""All rows were due; none are computed; they are the right ones by number, moved along the rows;
those of another layer; some of the right ones; these and more; others."""

# Share of the layers that a slip has to explain: where few are chosen, sets agree by chance.
_MOST = 0.75


@dataclass(frozen=True, eq=False)
class LayerChoice:
    """Rows that a layer computed otherwise than the policy chooses."""

    step: StepRecord
    layer: int
    """The first in which they are others."""
    part: Part
    slip: ChoiceSlip
    missing: np.ndarray
    """int32: positions that should have been computed and were not."""
    extra: np.ndarray
    """int32: the other way round."""
    due: int
    """How many should have been."""
    computed: int
    """How many were."""
    layers: int
    """In how many layers these are not the same."""
    explained: int
    """In how many of them the slip explains which."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """What one layer computed, and what it should have: positions, ascending."""

    layer: int
    rows: np.ndarray
    prompt_length: int
    mine: np.ndarray
    due: np.ndarray
    others: Sequence[np.ndarray]
    """What other layers should have."""


def layer_choice(
    runs: Runs, inquiry: Inquiry, expected: Expected, tensors: ComparedTensors
) -> LayerChoice | None:
    """The first rows that a layer of B should not have chosen; None if there are none."""
    step = first_otherwise(runs, expected, _left_out)
    if step is None:
        return None
    there = replace(tensors, given=step.forward)
    due_YN = _parts(there.chosen, step)
    near_YN = _parts(inquiry.ask(nudged(runs, step)), step)
    mine_YN = step.layer_parts
    if due_YN is None or near_YN is None:
        return None
    if mine_YN is None:
        mine_YN = np.full_like(due_YN, 3)
    part: Part = "mlp" if (mine_YN == 2).any() or (due_YN == 2).any() else "layer"
    needed = 2 if part == "layer" else 3
    mine_YN, near_YN, due_YN = (parts >= needed for parts in (mine_YN, near_YN, due_YN))
    # Where the last bit turns what is right, both are.
    settled_YN = near_YN == due_YN
    due = [step.rows[due_N] for due_N in due_YN]
    layers = [
        _Layer(
            y + 1,
            step.rows,
            step.prompt_length,
            step.rows[mine_YN[y]],
            due[y],
            [*due[:y], *due[y + 1 :]],
        )
        for y in range(len(due))
        if ((mine_YN[y] != due_YN[y]) & settled_YN[y]).any()
    ]
    if not layers:
        return None
    slip, explained = _slip_of(layers)
    first = layers[0]
    # A layer that computes something else, given B's input and choice, chooses by other values.
    if any((d.layer or 0) <= first.layer for d in there.born):
        return None
    return LayerChoice(
        step=step,
        layer=first.layer,
        part=part,
        slip=slip,
        missing=np.setdiff1d(first.due, first.mine),
        extra=np.setdiff1d(first.mine, first.due),
        due=first.due.size,
        computed=first.mine.size,
        layers=len(layers),
        explained=explained,
    )


def first_otherwise(
    runs: Runs, expected: Expected, chosen: Callable[[StepRecord], np.ndarray]
) -> StepRecord | None:
    """The first step whose layers chose otherwise than expected, with nothing wrong before it.

    Args:
        runs: both.
        expected: of B.
        chosen: what a step says of the choice of its layers.
    """
    if expected.led is None or runs.foreign or expected.first is None:
        return None
    right = {s.forward: s for s in expected.led.records[0].steps}
    for step in runs.record_b.steps:
        other = right.get(step.forward)
        if other is None or step.forward > expected.first.step.forward:
            return None
        if not np.array_equal(step.rows, other.rows):
            return None
        if not np.array_equal(chosen(step), chosen(other)):
            return step
    return None


def nudged(runs: Runs, step: StepRecord) -> Follow:
    """B's canvases under its settings, with the last bit of every input turned."""
    window = (step.forward, step.forward)
    return Follow("b", runs.settings, window, variation="last_bit", tensors=False)


def _parts(trace: Trace | None, step: StepRecord) -> np.ndarray | None:
    """uint8 [Y, N]: what layers computed of the same rows in a replay of a step."""
    other = with_these_rows(trace, step)
    if trace is None or other is None:
        return None
    if other.layer_parts is None:
        return np.full((trace.records[0].header.num_layers, step.rows.size), 3, np.uint8)
    return other.layer_parts


def with_these_rows(trace: Trace | None, step: StepRecord) -> StepRecord | None:
    """The same step in a replay; None if there is none, or other rows entered it."""
    steps = () if trace is None else trace.records[0].steps
    other = next((s for s in steps if s.forward == step.forward), None)
    return None if other is None or not np.array_equal(other.rows, step.rows) else other


def _left_out(step: StepRecord) -> np.ndarray:
    """The parts; nothing where all is computed."""
    return np.zeros((0, 0), np.uint8) if step.layer_parts is None else step.layer_parts


def _slip_of(layers: Sequence[_Layer]) -> tuple[ChoiceSlip, int]:
    """The plainest that explains most layers, and how many it does."""
    for slip, explains in _SLIPS.items():
        explained = sum(map(explains, layers))
        if explained >= _MOST * len(layers):
            return slip, explained
    return "others", 0


def _was_due(at: _Layer) -> bool:
    """Whether all of the prompt, or of the response, should be computed, and is not."""
    of_prompt = at.rows < at.prompt_length
    halves = (at.rows[of_prompt], at.rows[~of_prompt])
    return any(
        half.size > 1 and np.isin(half, at.due).all() and not np.isin(half, at.mine).all()
        for half in halves
    )


def _moved_along(at: _Layer) -> bool:
    """Whether they are as far from the right ones, each of them, counted in rows."""
    if not at.mine.size or at.mine.size != at.due.size:
        return False
    by = np.searchsorted(at.rows, at.due) - np.searchsorted(at.rows, at.mine)
    return bool((by == by[0]).all() and by[0])


def _of_another_layer(at: _Layer) -> bool:
    return any(np.array_equal(at.mine, other) for other in at.others)


_SLIPS: Mapping[ChoiceSlip, Callable[[_Layer], bool]] = {
    "due": _was_due,
    "none": lambda at: not at.mine.size,
    "number": _moved_along,
    "layer": _of_another_layer,
    "fewer": lambda at: bool(np.isin(at.mine, at.due).all()),
    "more": lambda at: bool(np.isin(at.due, at.mine).all()),
}
"""The plainest first."""
