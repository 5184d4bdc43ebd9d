"""What the ratio skip does in a step: scores of rows, and the states that they are held against.

Shape letters: B requests, L canvas length, N packed rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import Geometry, StepContext
from skipstone.rows import Rows
from skipstone.skip.base import SkipScores
from skipstone.skip.stages import CONFIDENT, TINY, Stage
from skipstone.skip.ties import AsTorch, LeftmostFirst


class RatioRule(NamedTuple):
    """The settings of the policy."""

    alpha: float
    full_every: int
    committed: bool
    neighbours: bool
    as_torch: bool


class RatioSession:
    """States of all positions after the layers where rows leave, and who goes on."""

    def __init__(self, geometry: Geometry, rule: RatioRule, stages: Sequence[Stage]) -> None:
        """Start with no state; a request's first step gives all of them.

        Args:
            geometry: of the run.
            rule: what a row must be to go on.
            stages: where rows leave.
        """
        self.scores: SkipScores | None = None
        """Nothing is told of how it judges: its scores compare rows with each other."""
        self._rule = rule
        self._stages = {stage.layer: StageStates(stage, geometry) for stage in stages}
        self._ties = AsTorch() if rule.as_torch else LeftmostFirst()
        self._entered = np.zeros(geometry.batch, np.int64)

    @property
    def decides_after(self) -> tuple[int, ...]:
        """The layers of the stages."""
        return tuple(self._stages)

    def expect(self, rows: Rows) -> None:
        """States of every position are kept."""

    def forget(self, request: int) -> None:
        """States of another request are none."""
        for stage in self._stages.values():
            stage.known_BL[request].fill_(False)

    def learn(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> None:
        """All go on."""
        if layer in self._stages:
            self._stages[layer].replace(x_ND, rows)

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Tensor | None:
        """The rows that go on after a layer; those of a request whose clock is due all do."""
        if layer == 1:
            self._entered[list(rows.requests)] = rows.counts
            self._ties.begin(rows)
        if layer not in self._stages:
            return None
        stage = self._stages[layer]
        keep_N = self._whole_N(rows, context) | self._chosen_N(stage, x_ND, rows, context)
        if rows.fresh_N is not None:
            keep_N |= rows.fresh_N
        stage.replace(x_ND, rows, keep_N)
        return keep_N

    def _whole_N(self, rows: Rows, context: StepContext) -> Tensor:
        """Rows of requests whose clock is due: bool [N]."""
        every = self._rule.full_every
        due_B1 = context.each(1, lambda at: (every > 0 and at.clock % every == 0,)) > 0
        return due_B1[rows.request_N, 0]

    def _chosen_N(
        self, stage: StageStates, x_ND: Tensor, rows: Rows, context: StepContext
    ) -> Tensor:
        """As many rows as the stage has, by their scores: bool [N]."""
        rule, where = self._rule, (rows.request_N, rows.position_N)
        there_BL = rows.mark(context.committed_BL)
        confidence_BL, leftmost_BL = _masks(context)
        committed_BL = context.committed_BL if rule.committed else leftmost_BL & False
        forced_BL = leftmost_BL | committed_BL | ~stage.known_BL
        if rule.neighbours:
            forced_BL = forced_BL | _beside(committed_BL)
        forced_BL &= there_BL
        delta_BL = torch.zeros_like(confidence_BL)
        delta_BL[where] = stage.moved(x_ND, rows)
        delta_BL = delta_BL / delta_BL.amax(1, keepdim=True).clamp_min(1.0)
        score_BL = rule.alpha * confidence_BL + (1 - rule.alpha) * delta_BL
        if rule.alpha > 0:
            confident_BL = confidence_BL.masked_fill(~there_BL, -torch.inf)
            two_B1 = torch.full_like(context.step_B1, CONFIDENT)
            score_BL = score_BL + 2.0 * self._ties.first(confident_BL, two_B1, leave=False)
        # Above all that is not forced.
        score_BL = (score_BL + 5.0 * forced_BL).masked_fill(~there_BL, -torch.inf)
        count_B1 = self._count_B1(stage, context).maximum(forced_BL.sum(1, keepdim=True))
        return self._ties.first(score_BL, count_B1, leave=True)[where]

    def _count_B1(self, stage: StageStates, context: StepContext) -> Tensor:
        """How many rows of each request go on: int64 [B, 1]."""
        part_B1 = context.each(1, lambda at: (int(stage.ratio * self._entered[at.slot]),))
        length_B1 = context.block_stop_B1 - context.block_start_B1
        least_B1 = context.committed_BL.sum(1, keepdim=True) + CONFIDENT
        return part_B1.maximum(least_B1.minimum(length_B1))


class StageStates:
    """States after one layer of the rows that went on there."""

    def __init__(self, stage: Stage, geometry: Geometry) -> None:
        """None yet."""
        shape, device = (geometry.batch, geometry.length), geometry.device
        self.ratio = stage.ratio
        self.known_BL = torch.zeros(shape, dtype=torch.bool, device=device)
        self._state_BLD = torch.zeros((*shape, geometry.width), dtype=geometry.dtype, device=device)

    def moved(self, x_ND: Tensor, rows: Rows) -> Tensor:
        """How far each row is from its state: float64 [N]."""
        before_ND = self._state_BLD[rows.request_N, rows.position_N].float()
        scale_N = before_ND.norm(dim=-1) / before_ND.shape[-1] ** 0.5 + TINY
        return ((x_ND.float() - before_ND).abs().mean(-1) / scale_N).double()

    def replace(self, x_ND: Tensor, rows: Rows, keep_N: Tensor | None = None) -> None:
        """Take the states of rows, of those that go on if it is said which."""
        where = (rows.request_N, rows.position_N)
        if keep_N is not None:
            x_ND = x_ND.where(keep_N[:, None], self._state_BLD[where])
        self._state_BLD[where] = x_ND
        self.known_BL[where] = True if keep_N is None else keep_N | self.known_BL[where]


def _masks(context: StepContext) -> tuple[Tensor, Tensor]:
    """Of the rows that score masks of the block: last confidence, and which is the leftmost.

    Returns:
        float64 [B, L], 0 where a row scores none or was not scored yet, and bool [B, L].
    """
    canvas, scored_BG = context.canvas, context.confidence_BG
    masked_BG = canvas.masked_BG() & context.block_BG
    last_BG = torch.zeros_like(masked_BG, dtype=torch.float64)
    if scored_BG is not None:
        last_BG = scored_BG.nan_to_num(neginf=0.0).where(masked_BG, last_BG)
    leftmost_BG = masked_BG & (masked_BG.cumsum(1) == 1)
    # Where rows score the position after them, position 0 is scored by its own row.
    offset = context.requests[0].reach.score_offset
    row_BG = (canvas.region_BG + offset).clamp_min(0)
    confidence_BL = torch.zeros(canvas.ids_BL.shape, dtype=torch.float64, device=canvas.device)
    confidence_BL.scatter_reduce_(1, row_BG, last_BG, "amax")
    marked_BL = torch.zeros_like(canvas.ids_BL).scatter_reduce_(
        1, row_BG, leftmost_BG.long(), "amax"
    )
    return confidence_BL, marked_BL > 0


def _beside(marked_BL: Tensor) -> Tensor:
    """The direct neighbours of what is marked, and what is marked."""
    found_BL = marked_BL.clone()
    found_BL[:, 1:] |= marked_BL[:, :-1]
    found_BL[:, :-1] |= marked_BL[:, 1:]
    return found_BL
