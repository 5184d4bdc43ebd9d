"""Steps of a canvas that grew after them.

Shape letters: L canvas length, G new positions.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from skipstone.record import StepRecord

_MASK = 2


def refitted(step: StepRecord, prompt_length: int, length: int, mask_id: int) -> StepRecord:
    """The step on a longer canvas: what was not there yet had masks, and was never computed.

    Args:
        step: as it was recorded.
        prompt_length: of the longer canvas; a prompt that came in parts got longer too.
        length: L of the longer canvas.
        mask_id: the mask's id.
    """
    more = prompt_length - step.prompt_length

    def new(values: np.ndarray, missing: int) -> np.ndarray:
        kept = values[more:]
        after = length - prompt_length - kept.size
        return np.pad(kept, (0, after), constant_values=missing)

    def ages(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, length - values.size), constant_values=-1)

    return dataclasses.replace(
        step,
        ids_before=new(step.ids_before, mask_id),
        ids_after=new(step.ids_after, mask_id),
        status_before=new(step.status_before, _MASK),
        status_after=new(step.status_after, _MASK),
        entered_age=ages(step.entered_age),
        finished_age=ages(step.finished_age),
    )
