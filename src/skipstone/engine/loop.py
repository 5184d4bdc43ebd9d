"""The step loop: the one place where a canvas is decoded.

For each block, until its masks are filled or its budget is spent: the cache policy names rows, the
runner computes them, the scorer reads them, the unmask policy commits. Batches, traces, every model
and every cache go through here.

A step is launched, and lands when the host has read what it committed. Where the schedule tells how
many masks a step leaves, the next one is launched before it lands, so that the device never waits.

Shape letters: B requests, L canvas length, G generation length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import Block, Canvas, HostCanvas, Moment, Readback, Status, blocks
from skipstone.engine.observe import Observer, StepView, Taps
from skipstone.engine.result import StepStats
from skipstone.engine.runner import Pass, Runner
from skipstone.engine.scoring import Scored, Scorer
from skipstone.engine.settings import Settings
from skipstone.errors import StalledError
from skipstone.models.base import ModelConfig
from skipstone.rows import Rows, to_device, write_at
from skipstone.skip import NoSkip
from skipstone.unmask import Scheduled, Scores, UnmaskSession


class _Flight(NamedTuple):
    """A step that the device was told to do, and what the host must know of it to see it land."""

    moment: Moment
    rows: Rows
    done: Pass
    recovery: bool
    scored: Scored
    scores: Scores
    commit_BG: Tensor
    region: Readback
    due_B: np.ndarray
    """int64 [B]: how many masks it is certain to fill."""


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
    ahead: int = 0
    """Steps that may be launched before an earlier one lands, if the schedule foresees it."""
    _flying: deque[_Flight] = field(default_factory=deque)

    def decode(self) -> None:
        """Decode every block of every request."""
        if not self._foreseeable():
            self.ahead = 0
        for block in blocks(self.settings.gen_length, self.settings.block_length):
            for step in self._steps(block):
                self._flying.append(self._launch(self.moment(block, step, self._active(block))))
                if len(self._flying) > self.ahead:
                    self._land_oldest()
        while self._flying:
            self._land_oldest()

    def _foreseeable(self) -> bool:
        """Whether the host knows what every step leaves to do, up to the end of the run.

        A batch that may lose a request to EOS is not: the others would be computed beside rows that
        a waiting run does not have, and round differently.
        """
        settings = self.settings
        return (
            self.observer is None
            and isinstance(self.unmask, Scheduled)
            and isinstance(settings.skip, NoSkip)
            and settings.temperature == 0
            and not (settings.eos_stop and self.canvas.batch > 1)
        )

    def _land_oldest(self) -> None:
        """See the oldest step land, and repeat it if it was empty."""
        flight = self._flying.popleft()
        if not (self.host.status_BG == Status.MASK).any():
            # The run had ended at EOS before this step, which changed nothing.
            self.forwards -= 1
            return
        empty = self._land(flight)
        if empty:
            self._recover(self.moment(flight.moment.block, flight.moment.step, empty))

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
        return tuple(np.flatnonzero(self._left_B(block) > 0).tolist())

    def _left_B(self, block: Block) -> np.ndarray:
        """Masks of each request in a block, once all launched steps have landed: int64 [B]."""
        left_B = (self.host.status_BG[:, block.start : block.stop] == Status.MASK).sum(1)
        for flight in self._flying:
            if flight.moment.block == block:
                left_B = np.maximum(left_B - flight.due_B, 0)
        return left_B

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
        return self._land(self._launch(moment, recovery=recovery))

    def _launch(self, moment: Moment, *, recovery: bool = False) -> _Flight:
        """One forward and its commit, on the device alone unless rows are skipped."""
        rows = moment.all_rows(refresh=True) if recovery else self.settings.cache.rows(moment)
        may_skip = moment.step > 0 and not rows.refresh
        if not may_skip:
            self._expect(moment)
        done = self.runner.forward(rows, moment, may_skip=may_skip, taps=self.taps)
        write_at(self.entered_at_BL, (rows.request_N, rows.position_N), moment.forward)
        if done.finished is not None:
            where = (done.finished.request_N, done.finished.position_N)
            write_at(self.finished_at_BL, where, moment.forward)
        left_B = self._left_B(moment.block)
        if self._flying:
            scored = self.scorer.score_foreseen(done, moment, int(left_B.sum()))
        else:
            scored = self.scorer.score(done, moment, self.host, want_logits=self.taps.logits)
        scores = self.scorer.eligible(done, rows, moment)
        commit_BG = self.unmask.select(scores, moment) & ~scores.confidence_BG.isneginf()
        self._commit(commit_BG, moment)
        due_B = (
            self.unmask.due(left_B, moment) if isinstance(self.unmask, Scheduled) else 0 * left_B
        )
        region = self.canvas.read()
        return _Flight(moment, rows, done, recovery, scored, scores, commit_BG, region, due_B)

    def _expect(self, moment: Moment) -> None:
        """Tell the skip which rows it may be asked about after this step, if any."""
        if isinstance(self.settings.skip, NoSkip):
            return
        coming = self.settings.cache.rows(replace(moment, step=moment.step + 1))
        if not coming.refresh:
            self.runner.expect(coming)

    def _land(self, flight: _Flight) -> tuple[int, ...]:
        """Read what a step committed, and tell. Returns the requests that committed nothing."""
        before, self.host = self.host, flight.region.wait()
        new_B = (self.host.status_BG == Status.COMMITTED).sum(1)
        new_B -= (before.status_BG == Status.COMMITTED).sum(1)
        self._count(flight, new_B)
        if self.observer is not None:
            self.observer.on_step(self._view(flight, before))
        return tuple(b for b in flight.moment.active if not new_B[b])

    def _commit(self, commit_BG: Tensor, moment: Moment) -> None:
        """Write the commit, remember it for the next step, stop at EOS."""
        canvas, token_BG = self.canvas, self.scorer.board.token_BG
        canvas.commit(commit_BG, token_BG, Status.COMMITTED)
        new_BL = torch.zeros_like(self.committed_BL)
        new_BL.scatter_(1, canvas.region_BG, commit_BG)
        index_A = to_device(np.array(moment.active), canvas.device)
        self.committed_BL = self.committed_BL.index_copy(
            0, index_A, new_BL.index_select(0, index_A)
        )
        self.forwards += 1
        if self.settings.eos_stop:
            canvas.stop_at(self.config.eos_id)

    def _count(self, work: _Flight, new_B: np.ndarray) -> None:
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

    def _view(self, work: _Flight, before: HostCanvas) -> StepView:
        return StepView(
            moment=work.moment,
            recovery=work.recovery,
            before=before,
            after=self.host,
            commit_BG=work.commit_BG,
            allowed_BG=work.scores.confidence_BG,
            unmask=self.unmask,
            board=self.scorer.board,
            rows=work.rows,
            finished=work.done.finished,
            skip=work.done.skip,
            store=self.runner.store,
            entered_at_BL=self.entered_at_BL,
            finished_at_BL=self.finished_at_BL,
            states=work.done.states,
            scored=work.scored.rows,
            logits_NV=work.scored.logits_NV,
        )
