"""Rows that a model takes out of its states: those that it leaves behind go no further.

Before the first layer they are left out of the whole call, within a layer out of the layers behind.

Shape letters: C batch of the call, N rows, M rows that are picked, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipstone.foreign.shared.functions import Operation


@dataclass(frozen=True, eq=False)
class Pick:
    """Some rows of states."""

    out: Tensor
    """[C, M, D], or [C * M, D] by a mask of all samples."""
    batch: int
    """C"""
    rows: int
    """N"""
    operation: Operation

    @property
    def picked(self) -> int:
        """M; of a mask it holds where as many are left of each sample."""
        return self.out.shape[1] if self.out.dim() == 3 else len(self.out) // self.batch

    def index(self) -> np.ndarray | None:
        """Which rows, int64 [C, M]; None if samples have not as many each."""
        batch, rows, width = self.batch, self.rows, self.out.shape[-1]
        of_CN = torch.arange(batch * rows, device=self.out.device).view(batch, rows)
        of_CND = of_CN[..., None].expand(batch, rows, width)
        picked = self.operation.func(of_CND, *self.operation.args[1:], **self.operation.kwargs)
        assert isinstance(picked, Tensor)
        index_CM = picked[..., 0].reshape(batch, -1).cpu().numpy()
        own = index_CM // rows == np.arange(batch)[:, None]
        return index_CM % rows if own.all() else None

    def moved(self, x: Tensor) -> bool:
        """Whether the same rows have another order in states [C, M, D] by now."""
        if x.numel() != self.out.numel():
            return False
        out_CMD, x_CMD = (t.detach().reshape(self.batch, -1, t.shape[-1]) for t in (self.out, x))
        if torch.equal(out_CMD, x_CMD):
            return False
        return torch.equal(out_CMD.sort(1).values, x_CMD.sort(1).values)


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
        if states.dim() != 3 or not states.is_floating_point():
            return
        batch, rows, width = states.shape
        whole = out.dim() == 3 and out.shape[::2] == (batch, width) and out.shape[1] < rows
        masked = out.dim() == 2 and out.shape[1] == width and not _is_one_sample(operation)
        if whole or (masked and len(out) % batch == 0 and len(out) < batch * rows):
            self._picks.append(Pick(out, batch, rows, operation))

    def taken(self) -> Sequence[Pick]:
        """What was picked since this was last asked."""
        picks = self._picks
        if picks:
            self._picks = []
        return picks


def _is_one_sample(operation: Operation) -> bool:
    """Whether all rows of one sample are taken: a number says which."""
    return any(isinstance(argument, int) for argument in operation.args[1:2])


def picked_rows(picks: Sequence[Pick], rows: int, left: int) -> tuple[Pick, np.ndarray] | None:
    """The last pick that takes so many rows of so many, and which they are, int64 [C, M]."""
    for pick in reversed(picks):
        if (pick.rows, pick.picked) == (rows, left):
            index_CM = pick.index()
            if index_CM is not None:
                return pick, index_CM
    return None
