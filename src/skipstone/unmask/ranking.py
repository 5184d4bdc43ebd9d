"""Ranks: which offset comes first, on the device and on the host.

Shape letters: B requests, G generation length, C candidates of one request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import StepContext


def rank_BG(key_BG: Tensor) -> Tensor:
    """Rank of each offset, 0 for the largest key; equal keys: lowest position first."""
    from skipstone.ops.decide import dispatch as ops  # the settings are read without torch

    return ops.rank(key_BG)


def share_BG(key_BG: Tensor, confidence_BG: Tensor, context: StepContext) -> Tensor:
    """The best by ``key_BG``: masks left in the block over steps left, rounded up.

    Counting from what is left gives LLaDA's schedule when every step commits its share, and cannot
    drift when one does not.
    """
    from skipstone.ops.decide import dispatch as ops

    return ops.scheduled(rank_BG(key_BG), confidence_BG, context)


def ranks(key_C: np.ndarray) -> np.ndarray:
    """Rank of each candidate, int64 [C]: as ``rank_BG``, on the host."""
    order_C = np.argsort(-key_C, kind="stable")
    rank_C = np.empty_like(order_C)
    rank_C[order_C] = np.arange(order_C.size)
    return rank_C
