"""Rows that a layer takes out of its states: those that it leaves behind go no further.

Shape letters: C batch of the call, N rows, M rows that are picked, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipstone.foreign.shared.functions import Operation


@dataclass(frozen=True, eq=False)
class Pick:
    """Some rows of states."""

    out: Tensor
    """[C, M, D]"""
    rows: int
    """N"""
    operation: Operation

    def index(self) -> np.ndarray:
        """Which rows, int64 [C, M]."""
        batch, _, width = self.out.shape
        rows_N = torch.arange(self.rows, device=self.out.device)
        of = rows_N[None, :, None].expand(batch, self.rows, width)
        picked = self.operation.func(of, *self.operation.args[1:], **self.operation.kwargs)
        assert isinstance(picked, Tensor)
        return picked[..., 0].cpu().numpy()


class Picks:
    """Remembers what was picked within a call, until the layer is done."""

    def __init__(self) -> None:
        """No call is under way."""
        self.inside = False
        self._picks = list[Pick]()

    def heard(self, operation: Operation) -> None:
        """A function that may take rows out of states was called."""
        if not self.inside or not operation.args:
            return
        states, out = operation.args[0], operation.out
        if not isinstance(states, Tensor) or not isinstance(out, Tensor):
            return
        alike = states.dim() == 3 == out.dim() and states.shape[::2] == out.shape[::2]
        if alike and out.shape[1] < states.shape[1] and states.is_floating_point():
            self._picks.append(Pick(out, states.shape[1], operation))

    def taken(self) -> list[Pick]:
        """What was picked since this was last asked."""
        picks = self._picks
        if picks:
            self._picks = []
        return picks
