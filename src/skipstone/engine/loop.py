"""The step loop: the one place where a canvas is decoded.

For each block, until its masks are filled or its budget is spent: the cache policy names rows, the
runner computes them, the scorer reads them, the unmask policy commits. Batches, traces, every model
and every cache go through here.

Shape letters: B requests, L canvas length, G generation length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import Block, Canvas, HostCanvas, Moment, Status, blocks
from skipstone.engine.observe import Observer, StepView, Taps
from skipstone.engine.result import StepStats
from skipstone.engine.runner import Pass, Runner
from skipstone.engine.scoring import Scored, Scorer
from skipstone.engine.settings import Settings
from skipstone.errors import StalledError
from skipstone.models.base import ModelConfig
from skipstone.rows import Rows, to_device, write_at
from skipstone.unmask import Scores, UnmaskSession


class _Work(NamedTuple):
    """What one forward was asked and what it did."""

    moment: Moment
    rows: Rows
    done: Pass
    recovery: bool


@dataclass(eq=False)
class Run:
    """One batch being decoded. ``decode`` runs it to its end."""

    settings: Settings
    config: ModelConfig
    canvas: Canvas
    runner: Runner
    scorer: Scorer
    unmask: UnmaskSession
    observer: Observer | None
    taps: Taps
    host: HostCanvas
    """The generation region as of the last step."""
    committed_BL: Tensor
    """bool [B, L]: what each request committed in its last step."""
    entered_at_BL: Tensor
    """int64 [B, L]: forward in which a position last entered layer 1."""
    finished_at_BL: Tensor
    """int64 [B, L]: forward in which a position last went through every layer."""
    stats: list[list[StepStats]]
    """Work done so far, by request."""
    forwards: int = 0

    def decode(self) -> None:
        """Decode every block of every request."""
        for block in blocks(self.settings.gen_length, self.settings.block_length):
            for step in self._steps(block):
                moment = self.moment(block, step, self._active(block))
                empty = self.step(moment)
                if empty:
                    self._recover(self.moment(block, step, empty))

    def _steps(self, block: Block) -> Iterator[int]:
        """Step numbers of a block until it is done or its budget is spent."""
        budget = self._budget(block)
        step = 0
        while self._active(block) and (self.settings.budget == "finish" or step < budget):
            yield step
            step += 1

    def _budget(self, block: Block) -> int:
        """The block's part of the steps; together the blocks have them all."""
        steps, length = self.settings.steps, self.settings.gen_length
        if steps is None:
            return block.length
        return max(1, steps * block.stop // length - steps * block.start // length)

    def _active(self, block: Block) -> tuple[int, ...]:
        """Requests with masks in this block; a request that stopped at EOS has none."""
        masked_B = (self.host.status_BG[:, block.start : block.stop] == Status.MASK).any(1)
        return tuple(np.flatnonzero(masked_B).tolist())

    def moment(self, block: Block, step: int, active: tuple[int, ...]) -> Moment:
        """Where the loop is, as policies and observers see it."""
        return Moment(
            canvas=self.canvas,
            block=block,
            step=step,
            step_budget=self._budget(block),
            forward=self.forwards,
            active=active,
            committed_BL=self.committed_BL,
        )

    def place(self, host: HostCanvas, committed_BL: Tensor) -> None:
        """Put the canvas into a given state: how a run is led along a recorded one.

        Args:
            host: the generation region of every request.
            committed_BL: bool, what the step before is to have committed.
        """
        self.canvas.place(host)
        self.host, self.committed_BL = host, committed_BL

    def _recover(self, moment: Moment) -> None:
        """Repeat an empty step over all rows; progress is the engine's duty, not a policy's."""
        if self.step(moment, recovery=True):
            raise StalledError(
                f"block {moment.block.index}, step {moment.step}: nothing was committed, not even "
                f"over all rows without skip; the unmask policy {self.settings.unmask!r} never "
                f"chooses a mask"
            )

    def step(self, moment: Moment, *, recovery: bool = False) -> tuple[int, ...]:
        """One forward and its commit. Returns the requests that committed nothing."""
        rows = moment.all_rows(refresh=True) if recovery else self.settings.cache.rows(moment)
        may_skip = moment.step > 0 and not rows.refresh
        done = self.runner.forward(rows, moment, may_skip=may_skip, taps=self.taps)
        write_at(self.entered_at_BL, (rows.request_N, rows.position_N), moment.forward)
        if done.finished is not None:
            where = (done.finished.request_N, done.finished.position_N)
            write_at(self.finished_at_BL, where, moment.forward)
        scored = self.scorer.score(done, moment, self.host, want_logits=self.taps.logits)
        scores = self.scorer.eligible(done, rows, moment)
        commit_BG = self.unmask.select(scores, moment) & ~scores.confidence_BG.isneginf()
        before = self.host
        self._commit(commit_BG, moment)
        work = _Work(moment, rows, done, recovery)
        new_B = (self.host.status_BG == Status.COMMITTED).sum(1)
        new_B -= (before.status_BG == Status.COMMITTED).sum(1)
        self._count(work, new_B)
        if self.observer is not None:
            self.observer.on_step(self._view(work, scored, scores, commit_BG, before))
        return tuple(b for b in moment.active if not new_B[b])

    def _commit(self, commit_BG: Tensor, moment: Moment) -> None:
        """Write the commit, remember it for the next step, read the canvas, stop at EOS."""
        canvas, token_BG = self.canvas, self.scorer.board.token_BG
        canvas.commit(commit_BG, token_BG, Status.COMMITTED)
        new_BL = torch.zeros_like(self.committed_BL)
        new_BL.scatter_(1, canvas.region_BG, commit_BG)
        index_A = to_device(np.array(moment.active), canvas.device)
        self.committed_BL = self.committed_BL.index_copy(
            0, index_A, new_BL.index_select(0, index_A)
        )
        self.forwards += 1
        self.host = canvas.to_host()
        if self.settings.eos_stop:
            self._stop_at_eos(moment.active)

    def _stop_at_eos(self, active: tuple[int, ...]) -> None:
        """Fill a request with EOS once one is committed and nothing left of it is masked."""
        fill_BG = np.zeros(self.host.status_BG.shape, dtype=bool)
        masked_BG = self.host.status_BG == Status.MASK
        ended_BG = (self.host.ids_BG == self.config.eos_id) & ~masked_BG
        for b in active:
            end = int(ended_BG[b].argmax())
            if ended_BG[b, end] and not masked_BG[b, :end].any():
                fill_BG[b] = masked_BG[b]
        if fill_BG.any():
            fill = to_device(fill_BG, self.canvas.device)
            eos_BG = torch.full_like(self.canvas.region_BG, self.config.eos_id)
            self.canvas.commit(fill, eos_BG, Status.FILLED)
            self.host = self.canvas.to_host()

    def _count(self, work: _Work, new_B: np.ndarray) -> None:
        """Add this forward to the statistics of the requests that took part."""
        for b, rows in zip(work.rows.requests, work.rows.counts, strict=True):
            self.stats[b].append(
                StepStats(
                    block=work.moment.block.index,
                    step=work.moment.step,
                    rows=rows,
                    refresh=work.rows.refresh,
                    recovery=work.recovery,
                    committed=int(new_B[b]),
                    skippable_row_layers=int(work.done.skippable_layers[b]),
                    skipped_row_layers=int(work.done.skipped_layers[b]),
                )
            )

    def _view(
        self,
        work: _Work,
        scored: Scored,
        scores: Scores,
        commit_BG: Tensor,
        before: HostCanvas,
    ) -> StepView:
        return StepView(
            moment=work.moment,
            recovery=work.recovery,
            before=before,
            after=self.host,
            commit_BG=commit_BG,
            allowed_BG=scores.confidence_BG,
            unmask=self.unmask,
            board=self.scorer.board,
            rows=work.rows,
            finished=work.done.finished,
            skip=work.done.skip,
            store=self.runner.store,
            entered_at_BL=self.entered_at_BL,
            finished_at_BL=self.finished_at_BL,
            states=work.done.states,
            scored=scored.rows,
            logits_NV=scored.logits_NV,
        )
