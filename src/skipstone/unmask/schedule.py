"""How many masks a step commits where a number of steps is given: evenly, or by Dream's time.

Dream's time (Ye et al., arXiv 2508.15487; ``diffusion_generate`` in github.com/HKUNLP/Dream) falls
from 1 to ``eps`` in equal parts, and a step from t to s commits the part 1 - s/t of the masks, cut
off to a whole number; the last step commits the rest. Where that is none, the published loop
computes a forward that changes nothing. Here a step commits what the next step that commits
anything would: then the number of masks that are left says where the block is in its schedule.

Shape letters: B requests, G generation length.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import RequestStep, StepContext
    from skipstone.unmask.scores import HostScores

Schedule = Literal["even", "time"]


@lru_cache(maxsize=1024)
def shares_by_time(length: int, steps: int, eps: float, *, first_alone: bool) -> np.ndarray:
    """How many of the masks that are left the next step commits, by their number: int64 [length+1].

    Args:
        length: of the block, all of it masks when it is begun.
        steps: planned for it.
        eps: the last time.
        first_alone: whether the first step commits one mask, whatever the time says.
    """
    share = np.zeros(length + 1, np.int64)
    # Kept in float32 and cut off there, as published: 0.9999999 of a mask is none.
    time = _times(steps, eps)
    part = np.float32(1) - time[1:] / time[:-1]
    left = length
    for step in range(steps):
        count = left if step == steps - 1 else int(np.float32(left) * part[step])
        if first_alone and step == 0:
            count = min(1, left)
        # From any number between this level and the next, the next one is the aim.
        share[left - count + 1 : left + 1] = np.arange(1, count + 1)
        left -= count
    # With a single step that commits one alone, the rest follows together.
    share[1 : left + 1] = np.arange(1, left + 1)
    return share


def _times(steps: int, eps: float) -> np.ndarray:
    """From 1 to eps in equal parts, float32 [steps+1], to the bit as torch's ``linspace`` has them.

    It counts from both ends to the middle, and rounds each once.
    """
    last = np.float32(eps)
    part = np.float64((last - np.float32(1)) / np.float32(steps))
    index = np.arange(steps + 1)
    falling, rising = 1 + part * index, np.float64(last) - part * (steps - index)
    return np.where(index < (steps + 1) // 2, falling, rising).astype(np.float32)


def masks_left_B1(context: StepContext) -> Tensor:
    """Masks of the block that each request is in: int64 [B, 1]."""
    return (context.canvas.masked_BG() & context.block_BG).sum(-1, keepdim=True)


def share_by_time_B1(context: StepContext, eps: float, *, first_alone: bool) -> Tensor:
    """How many masks each request commits in this step, by time: int64 [B, 1]."""

    def shares(at: RequestStep) -> np.ndarray:
        return shares_by_time(at.block.length, at.step_budget, eps, first_alone=first_alone)

    share_BM = context.each(context.canvas.gen_length + 1, shares)
    return share_BM.gather(1, masks_left_B1(context))


def share_by_time(scores: HostScores, eps: float, *, first_alone: bool) -> int:
    """As ``share_by_time_B1``, of one request on the host."""
    length = scores.block_stop - scores.block_start
    share = shares_by_time(length, scores.step_budget, eps, first_alone=first_alone)
    return int(share[scores.masks_left])


def due_evenly_B1(context: StepContext) -> Tensor:
    """Masks that an even schedule has committed by the end of this step, if all before did.

    That is: those that are left but for the shares of later steps. int64 [B, 1].
    """
    later_B1 = context.each(1, lambda at: [_later(at.block.length, at.steps_left, at.step_budget)])
    return masks_left_B1(context) - later_B1


def due_evenly(scores: HostScores) -> int:
    """As ``due_evenly_B1``, of one request on the host."""
    length = scores.block_stop - scores.block_start
    return scores.masks_left - _later(length, scores.steps_left, scores.step_budget)


def _later(length: int, steps_left: int, budget: int) -> int:
    """The even share of the steps behind this one."""
    return length * (steps_left - 1) // budget


def first_BG(allowed_BG: Tensor, context: StepContext) -> Tensor:
    """The first mask of the block that may be committed, for requests that begin one: bool [B, G].

    All that may be committed, for the others.
    """
    open_BG = allowed_BG & context.block_BG
    first_BG = open_BG & (open_BG.cumsum(-1) == 1)
    return first_BG.where(context.step_B1 == 0, allowed_BG)


def first(scores: HostScores) -> np.ndarray:
    """As ``first_BG``, of one request on the host: bool [C]."""
    allowed_C = scores.allowed_C
    if scores.step > 0:
        return allowed_C
    open_C = allowed_C & (scores.offset_C >= scores.block_start)
    open_C &= scores.offset_C < scores.block_stop
    return open_C & (open_C.cumsum() == 1)
