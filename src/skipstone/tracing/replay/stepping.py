"""Runs one step from a recorded state, under several settings: each starts from its own copy.

The state before the step (canvas, K/V, references of the skip, scores) is built up again from the
record, once for every setting, so no run can see what another one left behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skipstone.engine import Settings
from skipstone.errors import ConfigError
from skipstone.models.load import Model
from skipstone.record import MemoryTrace, RunRecord, StepRecord, TensorRows
from skipstone.tracing.record.recorder import Recorder
from skipstone.tracing.replay.replay import Replayer, ReplayPlan


@dataclass(frozen=True, eq=False)
class Stepped:
    """One step under one setting."""

    settings: Settings
    step: StepRecord
    trace: MemoryTrace
    """The step with all its tensors."""


def find_step(record: RunRecord, at: tuple[int, int]) -> StepRecord:
    """The recorded step at (block, step).

    Raises:
        ConfigError: there is none; the message says which there are.
    """
    for step in record.steps:
        if (step.block, step.step) == at and not step.recovery:
            return step
    last = {step.block: step.step for step in record.steps}
    known = ", ".join(f"{block}.0 to {block}.{steps}" for block, steps in last.items())
    raise ConfigError(f"step {at[0]}.{at[1]} is not in this trace; it has {known or 'no steps'}")


def step_under(
    model: Model, record: RunRecord, at: tuple[int, int], settings: Sequence[Settings]
) -> list[Stepped]:
    """Run the recorded step once under each setting.

    Everything before it is run on the record: its rows and its skipped rows. In the step itself
    the settings choose freely.

    Raises:
        ConfigError: the step is not in the record, or settings do not fit the model or the canvas.
    """
    target = find_step(record, at)
    return [_stepped(model, record, target, one) for one in settings]


def _stepped(model: Model, record: RunRecord, target: StepRecord, settings: Settings) -> Stepped:
    if settings.gen_length != record.header.gen_length:
        raise ConfigError(
            f"gen_length is {settings.gen_length}, the recorded canvas has "
            f"{record.header.gen_length} new positions; leave it out"
        )
    recorder = Recorder("full")
    plan = ReplayPlan(
        (target.forward, target.forward), frozenset(("rows", "skip")), free=target.forward
    )
    replayer = Replayer(model, settings, record, plan, None)
    for step in plan.steps(record, settings):
        if step is target:
            replayer.watch(recorder)
        replayer.take(step)
    return Stepped(settings, recorder.records[0].steps[0], recorder.trace)


@dataclass(frozen=True)
class StepDifference:
    """How one step differs between two settings."""

    commits_only_a: tuple[int, ...]
    commits_only_b: tuple[int, ...]
    skipped_a: tuple[int, ...]
    skipped_b: tuple[int, ...]
    largest_logit: float
    """Largest difference of any logit, over the whole vocabulary."""
    top_changed: tuple[int, ...]
    """Positions whose most probable token differs."""
    first_state: tuple[int, int] | None
    """Layer and position of the first state that is not bit for bit the same."""


def difference(a: Stepped, b: Stepped) -> StepDifference:
    """Compare the same step under two settings, by absolute position."""
    mine, theirs = set(a.step.committed), set(b.step.committed)
    largest, changed = _logits(a, b)
    return StepDifference(
        commits_only_a=tuple(sorted(mine - theirs)),
        commits_only_b=tuple(sorted(theirs - mine)),
        skipped_a=a.step.skipped,
        skipped_b=b.step.skipped,
        largest_logit=largest,
        top_changed=changed,
        first_state=_first_state(a, b),
    )


def _logits(a: Stepped, b: Stepped) -> tuple[float, tuple[int, ...]]:
    x, y = (_tap(side, "logits") for side in (a, b))
    if not x or not y:
        return 0.0, ()
    rows_a, rows_b = next(iter(x.values())), next(iter(y.values()))
    positions = np.intersect1d(rows_a.positions, rows_b.positions)
    if not positions.size:
        return 0.0, ()
    a_NV, b_NV = rows_a.at(positions), rows_b.at(positions)
    changed = positions[a_NV.argmax(1) != b_NV.argmax(1)]
    return float(np.abs(a_NV - b_NV).max()), tuple(changed.tolist())


def _first_state(a: Stepped, b: Stepped) -> tuple[int, int] | None:
    x, y = (_tap(side, "state") for side in (a, b))
    for layer in sorted(x.keys() & y.keys()):
        positions = np.intersect1d(x[layer].positions, y[layer].positions)
        if not positions.size:
            continue
        moved = (x[layer].at(positions) != y[layer].at(positions)).any(1)
        if moved.any():
            return layer, int(positions[moved][0])
    return None


def _tap(stepped: Stepped, tap: str) -> dict[int, TensorRows]:
    keys = [key for key in stepped.trace.keys(0) if key.tap == tap]
    rows = {key.layer: stepped.trace.tensor(0, key) for key in keys}
    return {layer: row for layer, row in rows.items() if row is not None}
