"""Rows that the last step points at, by how it attended and how confident it was, as in d2Cache.

Shape letters: R rows of one request, K positions, G new positions, M masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skipstone.cache.base import CacheSession
from skipstone.cache.delayed import to_decode
from skipstone.density import certainty_density
from skipstone.host_canvas import Status
from skipstone.rows import Rows, to_device

if TYPE_CHECKING:
    from skipstone.blocks import Block
    from skipstone.canvas import RequestStep, StepContext


class Pointing(NamedTuple):
    """How rows are chosen; the settings of ``D2Cache`` say what each number means."""

    current_k: int
    sigma: float
    rollout_p: float
    inflate_w: int
    published: bool


class LayerWeights(NamedTuple):
    """How the rows of a step attended in one layer."""

    position_R: np.ndarray
    weights_RK: Tensor


@dataclass
class _Known:
    """What is known of a request."""

    block: Block
    """That of its last step."""
    masked: np.ndarray
    """Offsets that were masked as that step began, ascending."""
    layers: list[LayerWeights] = field(default_factory=list)
    """How its rows attended, until all layers are there."""
    flow_K: np.ndarray | None = None
    """How much attention flowed to each position in the last step."""
    first_G: np.ndarray | None = None
    """Confidence in its first step, where that is kept."""


class PointedRows(CacheSession):
    """Names the rows of a step by what the last one gave."""

    def __init__(self, pointing: Pointing, num_layers: int) -> None:
        """Know no request.

        Args:
            pointing: how rows are chosen.
            num_layers: of the model.
        """
        self._pointing, self._last = pointing, num_layers
        self._known = dict[int, _Known]()
        """By slot."""

    def rows(self, context: StepContext) -> Rows:
        """All rows of a request at first, then those that its last step points at."""
        first, later = context.split(lambda at: at.sees_more)
        positions = {at.slot: self._due(at, context) for at in later.requests}
        return first.changed_rows().beside(later.rows_at(positions))

    def taken(self, rows: Rows, context: StepContext) -> None:
        """Note where a request is and what is masked as this step begins."""
        for at in context.requests:
            masked = _masked(at, context)
            known = self._known.setdefault(at.slot, _Known(at.block, masked))
            if self._pointing.published and at.forward and known.first_G is None:
                known.first_G = _confidence(at, context)
            known.block, known.masked = at.block, masked

    def attended(self, layer: int, weights_NK: Tensor, rows: Rows, context: StepContext) -> None:
        """Follow attention through the layers, once all are there. Waits for the device then."""
        for at in context.requests:
            known, mine = self._known[at.slot], rows.span(at.slot)
            if layer == 1:
                known.layers.clear()
            known.layers.append(LayerWeights(rows.position[mine], weights_NK[mine]))
            if layer == self._last:
                length = context.length_at(at)
                known.flow_K = rolled_out(known.layers, length).cpu().numpy()
                known.layers.clear()

    def forget(self, request: int) -> None:
        """Another request takes the slot."""
        self._known.pop(request, None)

    def _due(self, at: RequestStep, context: StepContext) -> np.ndarray:
        """The positions that a step computes: ascending."""
        pointing, known = self._pointing, self._known[at.slot]
        masked = _masked(at, context)
        committed = np.setdiff1d(known.masked, masked)
        decode = to_decode(np.union1d(self._masks(masked, at, context), committed), at, context)
        assert known.flow_K is not None
        due = np.union1d(decode, nucleus(known.flow_K, pointing.rollout_p, decode))
        return gaps_filled(due, pointing.inflate_w)

    def _masks(self, masked: np.ndarray, at: RequestStep, context: StepContext) -> np.ndarray:
        """The most certain masks, those of the block before all others: offsets."""
        pointing, known = self._pointing, self._known[at.slot]
        new = context.canvas.gen_lengths[at.slot]
        block, size, begin = at.block, at.block_length or at.block.length, at.block.start
        confidence_G = _confidence(at, context) if known.first_G is None else known.first_G
        if pointing.published:
            block = known.block
            size, begin = int(_inside(known.masked, block).sum()) or 1, 0
        masked = masked[masked >= at.block.start]
        # Whole blocks, until they hold as many masks as are to be computed.
        farthest = (
            int(masked[pointing.current_k - 1]) if masked.size >= pointing.current_k else new - 1
        )
        end = begin + ((farthest - begin) // size + 1) * size
        found = masked[masked < end]
        density_G = certainty_density(np.isin(np.arange(new), masked, invert=True), pointing.sigma)
        scores_M = confidence_G[found] * density_G[found]
        order = np.lexsort((-scores_M, ~_inside(found, block)))
        return np.sort(found[order[: pointing.current_k]])


def _inside(offsets: np.ndarray, block: Block) -> np.ndarray:
    """Which offsets are in a block: bool."""
    return (offsets >= block.start) & (offsets < block.stop)


def _masked(at: RequestStep, context: StepContext) -> np.ndarray:
    """Offsets that are masked and there in a step: ascending."""
    there = context.length_at(at) - at.prompt_length
    return np.flatnonzero(context.host.status_BG[at.slot, :there] == Status.MASK)


def _confidence(at: RequestStep, context: StepContext) -> np.ndarray:
    """The last confidence of each offset, 0 where there is none: float64 [G]."""
    assert context.confidence_BG is not None
    return context.confidence_BG[at.slot].nan_to_num(neginf=0.0).cpu().numpy()


def rolled_out(layers: Sequence[LayerWeights], length: int) -> Tensor:
    """How much attention flows from all positions to each, through all layers.

    A row keeps half of what it has and hands the other half to what it attends to; one that is not
    computed keeps all.

    Args:
        layers: how rows attended, the first layer first.
        length: K.

    Returns:
        float64 [K]; its sum is K.
    """
    device = layers[0].weights_RK.device
    flow_K = torch.ones(length, dtype=torch.float64, device=device)
    # From above: what flows to a row of a layer is then one number, and no matrix.
    for position_R, weights_RK in reversed(layers):
        index_R = to_device(position_R, device)
        half_R = flow_K[index_R] / 2
        flow_K = flow_K.index_add(0, index_R, -half_R) + half_R @ weights_RK[:, :length].double()
    return flow_K


def nucleus(flow_K: np.ndarray, share: float, without: np.ndarray) -> np.ndarray:
    """Positions to which most flows, up to a share of all that flows to others than some.

    Args:
        flow_K: what flows to each.
        share: 0 to 1; the first of them is taken in any case.
        without: positions that are not considered.

    Returns:
        Positions, ascending.
    """
    others = np.setdiff1d(np.arange(len(flow_K)), without)
    others = others[np.argsort(-flow_K[others], kind="stable")]
    sums = np.cumsum(flow_K[others])
    if not others.size:
        return others
    return np.sort(others[: max(1, int((sums <= share * sums[-1]).sum()))])


def gaps_filled(positions: np.ndarray, width: int) -> np.ndarray:
    """All positions, and those between two neighbours that are at most ``width`` apart."""
    near = np.diff(positions) <= width
    between = [
        np.arange(left, right)
        for left, right in zip(positions[:-1][near], positions[1:][near], strict=True)
    ]
    return np.union1d(positions, np.concatenate([positions, *between]))
