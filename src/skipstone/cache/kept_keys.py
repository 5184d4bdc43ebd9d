"""Which keys outside a block its rows see: those that its mean query meets best, layer by layer.

Shape letters: R rows of one request, K positions, M of them outside the block, H query heads,
U key/value heads, E head width, Y layers, B requests, L canvas length.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from skipstone.cache.base import CacheSession
from skipstone.canvas import Geometry, RequestStep, StepContext
from skipstone.rows import Rows, to_device


class KeptKeys(CacheSession):
    """Chooses in one step of each block, and shows the same keys until the block is done."""

    def __init__(
        self, geometry: Geometry, *, at_step: int, share: float, kernel_size: int, lowest: bool
    ) -> None:
        """Hide nothing yet.

        Args:
            geometry: of the run.
            at_step: the step that chooses; up to there all rows are computed.
            share: of the keys outside a block that are kept.
            kernel_size: neighbours that share a score.
            lowest: whether of equal keys the lowest positions are kept.
        """
        self._at_step, self._share = at_step, share
        self._kernel_size, self._lowest = kernel_size, lowest
        shape = (geometry.num_layers, geometry.batch, geometry.length)
        self._visible_YBL = torch.ones(shape, dtype=torch.bool, device=geometry.device)

    def rows(self, context: StepContext) -> Rows:
        """All rows up to the step that chooses, then the block's."""
        whole, cached = context.split(lambda at: at.step <= self._at_step)
        return whole.changed_rows().beside(cached.block_rows())

    def looks_at(self, at: RequestStep) -> bool:
        """At the step that chooses."""
        return at.step == self._at_step

    def met(
        self, layer: int, q_RHE: Tensor, key_KUE: Tensor, rows: Rows, context: StepContext
    ) -> None:
        """Keep the keys that the block's mean query meets best."""
        block = context.block_rows().position
        own_R = to_device(np.flatnonzero(np.isin(rows.position, block)), rows.device)
        outside = np.setdiff1d(np.arange(key_KUE.shape[0]), block)
        outside_M = to_device(outside, rows.device)
        score_M = mean_scores(q_RHE[own_R], key_KUE[outside_M])
        kept = int(outside.size * self._share)
        best = best_of(pooled(score_M, self._kernel_size), kept, lowest=self._lowest)
        shown_L = self._visible_YBL[layer - 1, context.only.slot]
        shown_L.fill_(True).index_fill_(0, outside_M, False)
        shown_L.index_fill_(0, outside_M[best], True)

    def visible(self, context: StepContext) -> Tensor | None:
        """What was chosen in the block."""
        return self._visible_YBL

    def forget(self, request: int) -> None:
        """Hide nothing from whoever comes."""
        self._visible_YBL[:, request] = True


def mean_scores(q_RHE: Tensor, key_MUE: Tensor) -> Tensor:
    """The mean query of some rows against keys, mean over the heads: float32 [M]."""
    mean_HE = q_RHE.float().mean(0)
    mean_UE = mean_HE.unflatten(0, (key_MUE.shape[1], -1)).mean(1)
    return torch.einsum("ue,mue->m", mean_UE, key_MUE.float()) / key_MUE.shape[1]


def best_of(score_M: Tensor, count: int, *, lowest: bool) -> Tensor:
    """The places of the best scores: int64 [count], in any order.

    Args:
        score_M: pooled, so that neighbours are equal where the cut falls.
        count: how many.
        lowest: whether of equal ones the first are taken; else those that torch happens to give.
    """
    if lowest:
        return score_M.sort(descending=True, stable=True).indices[:count]
    return score_M.topk(count).indices


def pooled(score_M: Tensor, size: int) -> Tensor:
    """The best score among as many neighbours: [M]."""
    if score_M.numel() == 0:
        return score_M
    return F.max_pool1d(score_M[None, None], size, stride=1, padding=size // 2)[0, 0]
