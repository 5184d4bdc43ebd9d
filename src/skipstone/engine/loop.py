"""The step loop: the one place where canvases are decoded.

Every request is at its own block and step. In each step the cache policy names rows, the runner
computes them together, the scorer reads them, the unmask policy commits. A request that is done
leaves its place in the batch to one that waits. Batches, traces, every model and every cache go
through here.

A step is launched, and lands when the host has read what it committed. Where it is certain what the
next one has to do, that is launched before, so that the device never waits.

Shape letters: B requests, L canvas length, G generation length.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from torch import Tensor

from skipstone.canvas import Block, Canvas, HostCanvas, Moment, Place, Status, blocks
from skipstone.engine.ages import Ages
from skipstone.engine.finite import not_finite
from skipstone.engine.observe import Board, Observer, StepView, Taps
from skipstone.engine.result import StepStats
from skipstone.engine.runner import Pass, Runner
from skipstone.engine.scoring import Scored, Scorer
from skipstone.engine.settings import Settings
from skipstone.errors import NotFiniteError, StalledError
from skipstone.models.base import ModelConfig
from skipstone.ops import dispatch as ops
from skipstone.rows import Arriving, Rows, to_host
from skipstone.skip import SkipSession
from skipstone.unmask import Scheduled, Scores, UnmaskSession


@dataclass(eq=False)
class Seat:
    """A request in its place of the batch, and how far it has come."""

    sample: int
    """Which of the prompts it is."""
    prompt_length: int
    block: int = 0
    step: int = 0
    """The step that it takes next within its block."""
    forward: int = 0
    """Forwards that it has taken part in."""
    stats: list[StepStats] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Done:
    """A request that has left, and its canvas."""

    sample: int
    prompt_length: int
    stats: list[StepStats]
    ids_G: np.ndarray
    status_G: np.ndarray


class _Fills(NamedTuple):
    """How many masks of its block a step fills for one request."""

    block: Block
    least: int
    most: int


class _Flight(NamedTuple):
    """A step that the device was told to do, and what the host must know of it to see it land."""

    moment: Moment
    rows: Rows
    done: Pass
    recovery: bool
    scored: Scored
    scores: Scores
    board: Board
    commit_BG: Tensor
    region: Arriving
    fills: dict[int, _Fills]
    """By request."""


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
    """The generation region as of the last step that landed."""
    committed_BL: Tensor
    """bool [B, L]: what each request committed in its last step."""
    seats: list[Seat | None]
    """The requests that are being decoded; None where nobody sits any more."""
    waiting: deque[tuple[int, Sequence[int]]]
    """Sample and ids of the prompts for which there was no place yet."""
    ages: Ages | None = None
    """Kept only if somebody watches."""
    ahead: int = 0
    """Steps that may be launched before an earlier one lands, where it is certain what they do."""
    stops_at_nan: bool = True
    """Whether a NaN ends the run; else it is committed, for those who study where it leads."""
    done: list[Done] = field(default_factory=list)
    """Those that have left."""
    _flying: deque[_Flight] = field(default_factory=deque)

    def decode(self) -> None:
        """Decode every block of every request."""
        while True:
            self._settle()
            self._change_seats()
            places = [p for request in range(self.canvas.batch) if (p := self._next(request))]
            if places:
                self._flying.append(self._launch(self.moment(places)))
            elif not self._flying:
                break
            if not places or len(self._flying) > self.ahead:
                self._land_oldest()
        for request in range(self.canvas.batch):
            self._leave(request)

    def _settle(self) -> None:
        """Wait until it is certain for every request whether its block has masks left."""
        while self._flying and not all(
            least or not most for least, most in map(self._left, range(self.canvas.batch))
        ):
            self._land_oldest()

    def _left(self, request: int) -> tuple[int, int]:
        """How many masks a request has in its block when all flights have landed: from, to."""
        seat = self.seats[request]
        if seat is None or seat.block >= len(self.blocks):
            return 0, 0
        block = self.blocks[seat.block]
        least = most = self.host.masks(request, block)
        for flight in self._flying:
            fills = flight.fills.get(request)
            if fills is not None and fills.block == block:
                least, most = least - fills.most, most - fills.least
        return max(0, least), max(0, most)

    def _next(self, request: int) -> Place | None:
        """Where a request goes next; None if it is done. Moves it on to its next block."""
        seat = self.seats[request]
        while seat is not None and seat.block < len(self.blocks):
            block = self.blocks[seat.block]
            budget = self._budget(block)
            if self._left(request)[1] and (self.settings.budget == "finish" or seat.step < budget):
                length = seat.prompt_length
                return Place(request, seat.sample, length, block, seat.step, budget, seat.forward)
            seat.block, seat.step = seat.block + 1, 0
        return None

    @cached_property
    def blocks(self) -> list[Block]:
        """All blocks of a request."""
        return blocks(self.settings.gen_length, self.settings.block_length)

    def _budget(self, block: Block) -> int:
        """The block's part of the steps; together the blocks have them all."""
        steps, length = self.settings.steps, self.settings.gen_length
        if steps is None:
            return block.length
        return max(1, steps * block.stop // length - steps * block.start // length)

    def moment(self, places: Iterable[Place]) -> Moment:
        """Where the loop is, as policies and observers see it."""
        return Moment(self.canvas, tuple(places), self.committed_BL)

    def together(self, block: Block, step: int, forward: int) -> Moment:
        """Every request at the same step of the same block: how a run is led."""
        budget = self._budget(block)
        lengths = self.canvas.prompt_lengths
        return self.moment(
            Place(b, b, length, block, step, budget, forward) for b, length in enumerate(lengths)
        )

    def place(self, host: HostCanvas, committed_BL: Tensor) -> None:
        """Put the canvas into the state in which a step that committed ``committed_BL`` left it."""
        self.canvas.place(host)
        self.host, self.committed_BL = host, committed_BL

    def _change_seats(self) -> None:
        """Let requests that are done leave, if others wait for their places."""
        leaving = [b for b in range(self.canvas.batch) if self.waiting and not self._next(b)]
        while leaving and self._flying:
            self._land_oldest()
        for request in leaving[: len(self.waiting)]:
            self._leave(request)
            self._enter(request, *self.waiting.popleft())

    def _leave(self, request: int) -> None:
        seat = self.seats[request]
        if seat is None:
            return
        ids_G, status_G = self.host.ids_BG[request].copy(), self.host.status_BG[request].copy()
        self.done.append(Done(seat.sample, seat.prompt_length, seat.stats, ids_G, status_G))
        self.seats[request] = None

    def _release_finished(self, broken: Iterable[int]) -> None:
        """Let requests leave that are at their end, in a run that is given up for others."""
        # Steps in flight will not land.
        undone = {*broken, *(p.request for flight in self._flying for p in flight.moment.places)}
        self._flying.clear()
        for request in set(range(self.canvas.batch)) - undone:
            if not self._next(request):
                self._leave(request)

    def _enter(self, request: int, sample: int, prompt: Sequence[int]) -> None:
        """Take a free place; nothing there may speak of the request before."""
        self.seats[request] = Seat(sample, len(prompt))
        self.canvas.enter(request, prompt, self.config.mask_id)
        # A copy: what an observer saw last may still be on its way to a disk.
        self.host = HostCanvas(self.host.ids_BG.copy(), self.host.status_BG.copy())
        self.host.ids_BG[request], self.host.status_BG[request] = self.config.mask_id, Status.MASK
        self.committed_BL = self.committed_BL.clone()
        self.committed_BL[request].zero_()
        for table_BL in self.ages or ():
            table_BL[request] = -1
        self.scorer.forget(request)
        self.unmask.forget(request)
        if self.runner.skip is not None:
            self.runner.skip.forget(request)

    def _recover(self, places: Sequence[Place]) -> None:
        """Repeat an empty step over all rows; progress is the engine's duty, not a policy's."""
        moment = self.moment(replace(place, forward=place.forward + 1) for place in places)
        if self.step(moment, recovery=True):
            place = places[0]
            raise StalledError(
                f"block {place.block.index}, step {place.step}: nothing was committed, not even "
                f"over all rows without skip; the unmask policy {self.settings.unmask!r} never "
                f"chooses a mask"
            )

    def step(self, moment: Moment, *, recovery: bool = False) -> list[Place]:
        """One forward and its commit. Returns where nothing was committed."""
        return self._land(self._launch(moment, recovery=recovery))

    def _launch(self, moment: Moment, *, recovery: bool = False) -> _Flight:
        """One forward and its commit, on the device alone unless rows are packed away."""
        rows = moment.all_rows(refresh=True) if recovery else self.settings.cache.rows(moment)
        fresh, _ = moment.split(lambda p: p.step == 0 or p.request in rows.refreshed)
        left = [self._left(place.request) for place in moment.places]
        if self.runner.skip is not None and fresh.places:
            self._expect(self.runner.skip, fresh)
        done = self.runner.forward(rows, moment, fresh=fresh.active, taps=self.taps)
        scored = self.scorer.score(done, moment, self.host, want_logits=self.taps.logits)
        scores = self.scorer.eligible(done, rows, moment)
        committed = self._commit(scores, moment)
        fills = {
            place.request: self._fills(place, *span, may_skip=bool(done.exits))
            for place, span in zip(moment.places, left, strict=True)
        }
        for place in moment.places:
            seat = self.seats[place.request]
            assert seat is not None
            seat.block, seat.step = place.block.index, place.step + 1
            seat.forward = place.forward + 1
        # What an observer sees when the step has landed, the next one must not have overwritten.
        overtaken = self.observer is not None and self.ahead > 0
        return _Flight(
            moment=moment,
            rows=rows,
            done=done,
            recovery=recovery,
            scored=scored,
            scores=scores,
            board=self.scorer.board.copy() if overtaken else self.scorer.board,
            commit_BG=committed.commit_BG,
            region=to_host(committed.region_2BG),
            fills=fills,
        )

    def _expect(self, skip: SkipSession, fresh: Moment) -> None:
        """Tell the skip which rows it may be asked about after this step, if any."""
        coming = self.settings.cache.rows(fresh.later())
        judged = coming.take(np.flatnonzero(~np.isin(coming.request, coming.refreshed)))
        if judged.num_rows:
            skip.expect(judged)

    def _fills(self, place: Place, fewest: int, many: int, *, may_skip: bool) -> _Fills:
        """What a step fills of a request that has between so few and so many masks left."""
        least, most = min(1, fewest), many
        if isinstance(self.unmask, Scheduled):
            most = self.unmask.due(many, place)
            # Rows that skip have old scores, of which only the best counts.
            least = least if may_skip else self.unmask.due(fewest, place)
        return _Fills(place.block, least, most)

    def _land_oldest(self) -> None:
        """See the oldest step land, and repeat it for requests that committed nothing."""
        flight = self._flying.popleft()
        active = list(flight.moment.active)
        if not (self.host.status_BG[active] == Status.MASK).any():
            # The run had ended at EOS before this step, which changed nothing.
            for place in flight.moment.places:
                seat = self.seats[place.request]
                assert seat is not None
                seat.forward = place.forward
            return
        if empty := self._land(flight):
            self._recover(empty)

    def _land(self, flight: _Flight) -> list[Place]:
        """Read what a step committed, and tell. Returns where nothing was committed."""
        before, self.host = self.host, HostCanvas(*flight.region.wait())
        new_B = (self.host.status_BG == Status.COMMITTED).sum(1)
        new_B -= (before.status_BG == Status.COMMITTED).sum(1)
        self._count(flight, new_B)
        if broken := np.flatnonzero((self.host.status_BG == Status.BROKEN).any(1)).tolist():
            self._release_finished(broken)
            raise self._not_finite(flight, before, broken[0])
        if self.ages is not None:
            finished = flight.done.finished()
            self.ages.note(flight.moment, flight.rows, finished)
            if self.observer is not None:
                self.observer.on_step(self._view(flight, before, self.ages, finished))
        return [place for place in flight.moment.places if not new_B[place.request]]

    def _not_finite(self, flight: _Flight, before: HostCanvas, broken: int) -> NotFiniteError:
        """Compute the forward of a step again, to say where a number is the first not finite."""
        place = flight.moment.place_of(broken)
        whose = f"prompt {place.sample}, block {place.block.index}, step {place.step}"
        self.canvas.place(before)
        runner, ids_BL = self.runner, self.canvas.ids_BL
        return not_finite(runner.network, runner.store, ids_BL, flight.rows, whose)

    def _commit(self, scores: Scores, moment: Moment) -> ops.Committed:
        """Choose, write the commit, remember it for the next step, stop at EOS."""
        chosen_BG = self.unmask.select(scores, moment)
        eos_id = self.config.eos_id if self.settings.eos_stop else None
        confidence_BG = scores.confidence_BG
        if not self.stops_at_nan:
            confidence_BG = confidence_BG.nan_to_num(nan=0.0, neginf=-math.inf)
        committed = ops.commit(chosen_BG, confidence_BG, scores.token_BG, moment, eos_id)
        self.committed_BL = committed.committed_BL
        return committed

    def _count(self, work: _Flight, new_B: np.ndarray) -> None:
        """Add this forward to the statistics of the requests that took part."""
        skippable, skipped = work.done.row_layers(self.canvas.batch, self.config.num_layers)
        for place, rows in zip(work.moment.places, work.rows.counts, strict=True):
            seat = self.seats[place.request]
            assert seat is not None
            seat.stats.append(
                StepStats(
                    block=place.block.index,
                    step=place.step,
                    rows=rows,
                    refresh=place.request in work.rows.refreshed,
                    recovery=work.recovery,
                    committed=int(new_B[place.request]),
                    skippable_row_layers=int(skippable[place.request]),
                    skipped_row_layers=int(skipped[place.request]),
                )
            )

    def _view(
        self, work: _Flight, before: HostCanvas, ages: Ages, finished: Rows | None
    ) -> StepView:
        return StepView(
            moment=work.moment,
            recovery=work.recovery,
            before=before,
            after=self.host,
            commit_BG=work.commit_BG,
            allowed_BG=work.scores.confidence_BG,
            unmask=self.unmask,
            board=work.board,
            rows=work.rows,
            finished=finished,
            skip=work.done.skip,
            store=self.runner.store,
            # Copies: whoever writes them down may do so while the run goes on.
            entered_at_BL=ages.entered_at_BL.copy(),
            finished_at_BL=ages.finished_at_BL.copy(),
            states=work.done.states,
            scored=work.scored.rows,
            logits_NV=work.scored.logits_NV,
        )
