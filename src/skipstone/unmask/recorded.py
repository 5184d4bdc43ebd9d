"""What a recorded step says to the rule of a policy.

Shape letters: C candidates.
"""

from __future__ import annotations

import numpy as np

from skipstone.record import StepRecord
from skipstone.unmask.scores import HostScores


def scores_of(
    step: StepRecord,
    step_budget: int,
    block_length: int,
    confidence_C: np.ndarray | None = None,
    earlier: tuple[HostScores, ...] = (),
    suffix: int | None = None,
) -> HostScores:
    """The scores that a step was decided by.

    Args:
        step: as it was recorded.
        step_budget: steps that are planned for its block.
        block_length: of a block that is not cut short.
        confidence_C: float64, -inf where nothing may be committed; as recorded if None.
        earlier: the steps of this request before it.
        suffix: positions right of its block that there were, at most; None: all.
    """
    candidates = step.candidates
    allowed_C = candidates.allowed if confidence_C is None else confidence_C
    held_C = _held(step)
    return HostScores(
        offset_C=candidates.position.astype(np.int64) - step.prompt_length,
        token_C=candidates.token.astype(np.int64),
        confidence_C=np.where(held_C < 0, allowed_C, -np.inf),
        margin_C=candidates.confidence - candidates.runner_up_confidence,
        entropy_C=candidates.entropy,
        drift_C=candidates.drift,
        block=step.block,
        step=step.step,
        step_budget=step_budget,
        block_length=block_length,
        block_start=step.block_start - step.prompt_length,
        block_stop=step.block_stop - step.prompt_length,
        masks_left=step.masks_before,
        masked=step.masked,
        suffix=suffix,
        held=held_C,
        revisable=np.where(held_C < 0, -np.inf, allowed_C),
        earlier=earlier,
    )


def _held(step: StepRecord) -> np.ndarray:
    """The committed tokens at the candidates of a step, int64 [C]; -1 at masks."""
    offset_C = step.candidates.position - step.prompt_length
    return np.where(step.masked[offset_C], -1, step.ids_before[offset_C].astype(np.int64))
