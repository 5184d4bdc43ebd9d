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


def in_order_BG(value_BG: Tensor, rank_BG: Tensor) -> Tensor:
    """Values in the order of their ranks, which are all different in a row."""
    import torch

    return torch.empty_like(value_BG).scatter_(-1, rank_BG, value_BG)


def first_BG(rank_BG: Tensor, enough_BG: Tensor, least: int) -> Tensor:
    """As many of the first as there are that are enough, and at least ``least``: bool [B, G].

    Args:
        rank_BG: int64, 0 for the first.
        enough_BG: bool, by rank; once False it stays so.
        least: how many are taken in any case.
    """
    return rank_BG < enough_BG.sum(-1, keepdim=True).clamp(min=least)


def first(rank_C: np.ndarray, enough_C: np.ndarray, least: int) -> np.ndarray:
    """As ``first_BG``, on the host: bool [C]."""
    return rank_C < max(least, int(enough_C.sum()))
