"""A recorded step with scores of our own."""

from __future__ import annotations

import numpy as np

from skipstone.canvas import Canvas
from skipstone.record import Candidates, StepRecord

NOT_ALLOWED = 0.99
"""What confidence stands where nothing may be committed."""


def candidates(
    confidence: list[float],
    start: int,
    runner_up: list[float] | None,
    entropy: list[float] | None,
    drift: list[float] | None,
) -> Candidates:
    """Masked positions of a block, with columns that no rule may look at left empty."""
    row = np.array(confidence)
    none, false = np.zeros(row.size, np.int32), np.zeros(row.size, bool)
    return Candidates(
        position=np.arange(start, start + row.size, dtype=np.int32),
        token=none,
        confidence=np.where(np.isneginf(row), NOT_ALLOWED, row),
        runner_up=none,
        runner_up_confidence=np.array(runner_up or [0.0] * row.size),
        rank=none,
        bound=np.full(row.size, np.nan),
        entropy=np.full(row.size, np.nan) if entropy is None else np.array(entropy),
        drift=np.full(row.size, np.nan) if drift is None else np.array(drift),
        age=none,
        eligible=~np.isneginf(row),
        committed=false,
    )


def step_before(
    canvas: Canvas,
    confidence: list[float],
    step: int,
    runner_up: list[float] | None = None,
    entropy: list[float] | None = None,
    drift: list[float] | None = None,
) -> StepRecord:
    """A record of the step that decides on these confidences."""
    host, start = canvas.on_host(), canvas.prompt_lengths[0]
    ids, status = host.ids_BG[0].astype(np.int32), host.status_BG[0].astype(np.uint8)
    length = canvas.length_of(0)
    rows = np.arange(length, dtype=np.int32)
    return StepRecord(
        forward=step,
        block=0,
        step=step,
        recovery=False,
        refresh=False,
        block_start=start,
        block_stop=length,
        ids_before=ids,
        ids_after=ids,
        status_before=status,
        status_after=status,
        rows=rows,
        finished=rows,
        entered_age=np.zeros(length, np.int32),
        finished_age=np.zeros(length, np.int32),
        candidates=candidates(confidence, start, runner_up, entropy, drift),
        judgements=None,
    )
