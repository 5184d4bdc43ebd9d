"""Which rows have the highest scores, and which of equal ones.

Shape letters: B requests, L canvas length.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from skipstone.rows import Rows, to_device


class Ties(Protocol):
    """Takes the rows with the highest scores."""

    def begin(self, rows: Rows) -> None:
        """A forward begins with these rows."""
        ...

    def first(self, score_BL: Tensor, count_B1: Tensor, *, leave: bool) -> Tensor:
        """The highest scores of each request: bool [B, L].

        Args:
            score_BL: float64, -inf where there is no row.
            count_B1: int64, how many.
            leave: whether the other rows leave now.
        """
        ...


class LeftmostFirst:
    """Of equal scores, the leftmost ones."""

    def begin(self, rows: Rows) -> None:
        """Nothing to remember."""

    def first(self, score_BL: Tensor, count_B1: Tensor, *, leave: bool) -> Tensor:
        """By a stable sort."""
        order_BL = score_BL.sort(dim=1, descending=True, stable=True).indices
        return order_BL.argsort(1) < count_B1


class AsTorch:
    """Of equal scores, those that ``torch.topk`` takes of rows in the order that it left them."""

    def __init__(self) -> None:
        """No rows yet."""
        self._order = dict[int, Tensor]()

    def begin(self, rows: Rows) -> None:
        """They are in order of position."""
        self._order = {
            slot: to_device(rows.position[rows.request == slot], rows.device)
            for slot in np.unique(rows.request).tolist()
        }

    def first(self, score_BL: Tensor, count_B1: Tensor, *, leave: bool) -> Tensor:
        """Request by request, as published code has batches of one."""
        found_BL = torch.zeros_like(score_BL, dtype=torch.bool)
        for slot, position_M in self._order.items():
            count, there = int(count_B1[slot]), position_M.numel()
            chosen_M = position_M
            if count < there:
                score_1M = score_BL[slot, position_M][None]
                chosen_M = position_M[score_1M.topk(count, sorted=False).indices[0]]
            found_BL[slot, chosen_M] = True
            if leave:
                self._order[slot] = chosen_M
        return found_BL
