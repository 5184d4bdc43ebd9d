"""One step: launched on the device, and completed when the host has read what it committed.

The cache policies name rows, the runner computes them together, the scorer reads them, the unmask
policies commit. Between launch and completion the device may be given more to do.

Shape letters: B requests, L canvas length, G generation length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from skipstone.canvas import HostCanvas, RequestStep, Status, StepContext
from skipstone.engine.ages import Ages
from skipstone.engine.batch import Batch
from skipstone.engine.decoded import CanvasChange, decoded_step
from skipstone.engine.forward.finite import not_finite
from skipstone.engine.forward.runner import Pass
from skipstone.engine.forward.shadow import cast_shadow
from skipstone.engine.forward.skipping import Skipping
from skipstone.engine.guarded import Failed
from skipstone.engine.observe import Board, Observer, StepView, Taps
from skipstone.engine.progress import RequestState
from skipstone.engine.result import StepStats
from skipstone.engine.score.scorer import ScoredRows
from skipstone.errors import NotFiniteError
from skipstone.ops.decide import dispatch as ops
from skipstone.rows import HostCopy, Rows, to_host
from skipstone.skip import SkipPolicy
from skipstone.unmask import Scores

# On a card a step of so few rows takes about as long as reading the weights, and so would fewer.
MOST_UNPACKED = 192


class InFlightStep(NamedTuple):
    """A step that the device was told to do, and what the host must know to see it completed."""

    context: StepContext
    states: tuple[RequestState, ...]
    """The requests that take part."""
    rows: Rows
    shadowed: Rows | None
    """Computed beside them; None: nobody asked."""
    done: Pass
    whole: tuple[int, ...]
    """Slots whose requests could not lose a row."""
    recovery: bool
    scored: ScoredRows
    scores: Scores
    board: Board
    commit_BG: Tensor
    region: HostCopy
    seen: HostCopy | None
    """How far the rows of each request see in its next step; None: as far as there is anything."""
    failed: Failed
    tapped: bool
    """Whether an observer wants what the next step would overwrite."""


@dataclass(frozen=True)
class Completed:
    """What became of a step."""

    empty: list[RequestState] = field(default_factory=list)
    """Requests of which nothing was committed."""
    broken: list[tuple[RequestState, Exception]] = field(default_factory=list)
    """Requests that end here, and why: a number is not finite, or their policy or observer
    failed."""


@dataclass(eq=False)
class Stepper:
    """Launches and completes the steps of a batch."""

    batch: Batch
    observer: Observer | None = None
    """Of all requests of the batch; one of a single request is its own."""
    overlaps: bool = False
    """Whether a step may be launched before the one before it is completed."""

    def taps(self, context: StepContext) -> Taps:
        """What observers want of a step beyond decisions."""
        wanted = self.observer.taps if self.observer is not None else Taps()
        for at in context.requests:
            watch = self.batch.state(at.slot).watch
            wanted = wanted if watch is None else wanted | watch.taps
        return wanted

    def step(self, context: StepContext, *, recovery: bool = False) -> Completed:
        """One step, waited for."""
        return self.complete(self.launch(context, recovery=recovery))

    def launch(
        self, context: StepContext, rows: Rows | None = None, *, recovery: bool = False
    ) -> InFlightStep:
        """One forward and its commit, on the device alone unless rows are packed away.

        Args:
            context: where the requests are.
            rows: what to compute, if that is known.
            recovery: compute all rows, whatever the cache policies say.
        """
        batch, taps = self.batch, self.taps(context)
        if rows is None:
            rows = context.all_rows(refresh=True) if recovery else batch.rows(context)
        skip = batch.settings(context.active[0]).skip
        fresh = _whole(context, rows, skip)
        if batch.runner.skip is not None and fresh.requests:
            self._expect(batch.runner.skip, fresh)
        if batch.geometry.device.type == "cuda":
            # Noise is drawn for each row that is scored: not for those that are computed in vain.
            draws = any(batch.settings(slot).temperature > 0 for slot in context.active)
            batch.runner.packs = draws or rows.num_rows > MOST_UNPACKED
        batch.taken(rows, context)
        asked = batch.asked(rows, context, recovery=recovery)
        done = batch.forward(rows, context, fresh=fresh.active, taps=taps, asked=asked)
        weighing = batch.weighing(context)
        scored = batch.scorer.score(
            done, context, batch.host, weighing=weighing, want_logits=taps.logits
        )
        shadow = cast_shadow(batch.runner.network, batch.runner.store, context)
        batch.scorer.doubt(shadow, context)
        scores = batch.scorer.eligible(done, rows, context, old_may_lead=skip.old_may_lead)
        committed, failed = self.commit(scores, context)
        seen_B1 = batch.seen_B1(context, failed)
        states = tuple(batch.state(at.slot) for at in context.requests)
        for state, at in zip(states, context.requests, strict=True):
            state.launched(at)
        # What an observer sees when the step is completed, the next one must not have overwritten.
        observed = self.observer is not None or any(state.watch for state in states)
        overtaken = observed and self.overlaps and not taps
        return InFlightStep(
            context=context,
            states=states,
            rows=rows,
            shadowed=None if shadow is None else shadow.rows,
            done=done,
            whole=fresh.active,
            recovery=recovery,
            scored=scored,
            scores=scores,
            board=batch.scorer.board.copy() if overtaken else batch.scorer.board,
            commit_BG=committed.commit_BG,
            region=to_host(committed.region_2BG),
            seen=None if seen_B1 is None else to_host(seen_B1),
            failed=failed,
            tapped=bool(taps),
        )

    def commit(self, scores: Scores, context: StepContext) -> tuple[ops.Committed, Failed]:
        """Choose, write the commit, remember it for the next step, stop where it has ended."""
        batch = self.batch
        chosen_BG, failed = batch.select(scores, context)
        allowed_BG = scores.allowed_BG
        if not batch.stops_at_nan:
            allowed_BG = allowed_BG.nan_to_num(nan=0.0, neginf=-math.inf)
        fill = batch.config.eos_id if batch.stops else None
        ends_from_B1 = context.ends_from_B1
        if batch.stops and not all(at.may_end for at in context.requests):
            ends_from_B1 = context.ends_from_unless(chosen_BG)
        revokes = any(at.revokes for at in context.requests)
        committed = ops.commit(
            chosen_BG,
            allowed_BG,
            scores.token_BG,
            context,
            fill,
            ends_from_B1,
            revoked_id=batch.config.mask_id if revokes else None,
        )
        batch.committed_BL = committed.committed_BL
        return committed, failed

    def complete(self, flight: InFlightStep) -> Completed:
        """Read what a step committed, and tell.

        A request that is not in its slot any more takes nothing from it, nor does one whose block
        had no masks left: the step was launched before that was known, and changed nothing.
        """
        batch, before, found = self.batch, self.batch.host, Completed()
        region = HostCanvas(*flight.region.wait())
        flight = self._without_dropped(flight, before)
        if not flight.states:
            return found
        batch.host = after = _taken(before, region, flight.context.active)
        change = CanvasChange.between(before, after)
        broken = (region.status_BG == Status.BROKEN).any(1)
        pairs = list(zip(flight.states, flight.context.requests, strict=True))
        self._count(flight, pairs, change)
        seen_B1 = None if flight.seen is None else flight.seen.wait()
        for state, at in pairs:
            state.sees = None if seen_B1 is None else int(seen_B1[at.slot, 0])
            if at.slot in flight.failed:
                found.broken.append((state, flight.failed[at.slot]))
            elif broken[at.slot]:
                found.broken.append((state, self._not_finite(flight, before, at)))
            elif not (change.decided_BG[at.slot].any() or at.post_step):
                found.empty.append(state)
        sound = _without(flight, [state for state, _ in found.broken])
        found.broken.extend(self._show(sound, before))
        sound = _without(sound, [state for state, _ in found.broken])
        for state, at in zip(sound.states, sound.context.requests, strict=True):
            # Only now: whoever reads a step may take what its observer has noted of it.
            if state.handle is not None:
                repeats = state in found.empty
                state.handle.stepped(decoded_step(state, at, change, after, repeats=repeats))
        return found

    def _show(
        self, flight: InFlightStep, before: HostCanvas
    ) -> list[tuple[RequestState, Exception]]:
        """Let observers see a step; the requests whose own observers failed."""
        ages, failed = self.batch.ages, list[tuple[RequestState, Exception]]()
        pairs = list(zip(flight.states, flight.context.requests, strict=True))
        watched = [(state, at, state.watch) for state, at in pairs if state.watch is not None]
        if not pairs or (ages is None and not watched):
            return failed
        finished = flight.done.finished()
        if ages is not None:
            ages.note(flight.context, flight.rows, finished)
            if self.observer is not None:
                # Copies: whoever writes them down may do so while the run goes on.
                self.observer.on_step(self.view(flight, before, ages.copy(), finished))
        if watched:
            # Each keeps its own ages.
            view = self.view(flight, before, Ages.unkept(self.batch.canvas), finished)
            for state, at, watch in watched:
                try:
                    watch.show(view, at)
                except Exception as error:  # raised where the request is waited for
                    failed.append((state, error))
        return failed

    def _expect(self, skip: Skipping, fresh: StepContext) -> None:
        """Tell the skip which rows it may be asked about after this step, if any."""
        coming = self.batch.rows(fresh.later())
        judged = coming.take(np.flatnonzero(~coming.of(coming.refreshed)))
        if judged.num_rows:
            skip.expect(judged)

    def _without_dropped(self, flight: InFlightStep, before: HostCanvas) -> InFlightStep:
        """The step without requests that have left, or that it changed nothing of."""
        gone = list[RequestState]()
        for state, at in zip(flight.states, flight.context.requests, strict=True):
            if self.batch.slots[at.slot] is not state:
                gone.append(state)
            elif self.overlaps and not (at.post_step or before.masks(at.slot, at.block)):
                state.dropped(at)
                gone.append(state)
        return _without(flight, gone)

    def _not_finite(
        self, flight: InFlightStep, before: HostCanvas, at: RequestStep
    ) -> NotFiniteError:
        """Compute the forward of a step again, to say where a number is the first not finite."""
        canvas, runner = self.batch.canvas, self.batch.runner
        whose = f"prompt {at.sample}, block {at.block.index}, step {at.step}"
        # The others go on from where they are.
        now = replace(canvas, ids_BL=canvas.ids_BL.clone(), status_BL=canvas.status_BL.clone())
        now.put(before)
        rows = flight.rows.take(np.flatnonzero(flight.rows.request == at.slot))
        return not_finite(runner.network, runner.store, now.ids_BL, rows, whose)

    def _count(
        self,
        flight: InFlightStep,
        pairs: Sequence[tuple[RequestState, RequestStep]],
        change: CanvasChange,
    ) -> None:
        """Add this forward to the statistics of the requests that took part."""
        batch = self.batch
        layers = batch.config.num_layers
        shadowed = flight.shadowed
        beside = (
            {} if shadowed is None else dict(zip(shadowed.requests, shadowed.counts, strict=True))
        )
        skippable, skipped = flight.done.row_layers(batch.canvas.batch, layers)
        skippable_mlps, skipped_mlps = flight.done.mlp_rows(batch.canvas.batch)
        renewed = flight.done.values_renewed(batch.canvas.batch)
        for (state, at), rows in zip(pairs, flight.rows.counts, strict=True):
            state.completed(
                StepStats(
                    block=at.block.index,
                    step=at.step,
                    rows=rows,
                    refresh=at.slot in flight.rows.refreshed,
                    recovery=flight.recovery,
                    committed=int(change.decided_BG[at.slot].sum()),
                    skippable_row_layers=int(skippable[at.slot]),
                    skipped_row_layers=int(skipped[at.slot]),
                    skippable_mlps=int(skippable_mlps[at.slot]),
                    skipped_mlps=int(skipped_mlps[at.slot]),
                    values_renewed=int(renewed[at.slot]),
                    edited=int(change.edited_BG[at.slot].sum()),
                    revoked=int(change.revoked_BG[at.slot].sum()),
                    shadow_rows=beside.get(at.slot, 0),
                )
            )

    def view(
        self, flight: InFlightStep, before: HostCanvas, ages: Ages, finished: Rows | None
    ) -> StepView:
        """What the observer of all requests sees of a step."""
        batch = self.batch
        return StepView(
            context=flight.context,
            recovery=flight.recovery,
            before=before,
            after=batch.host,
            commit_BG=flight.commit_BG,
            allowed_BG=flight.scores.allowed_BG,
            cache=tuple(state.request.settings.cache for state in flight.states),
            unmask=tuple(state.request.settings.unmask for state in flight.states),
            board=flight.board,
            rows=flight.rows,
            finished=finished,
            skip=flight.done.skip,
            whole=flight.whole,
            skip_layers_N=flight.done.skip_layers(flight.rows),
            layer_parts_YN=flight.done.layer_parts(flight.rows, batch.config.num_layers),
            first_layers_BL=flight.done.first_layers(*batch.canvas.ids_BL.shape),
            store=batch.runner.store,
            visible_YBL=batch.runner.store.visible_YBL,
            entered_at_BL=ages.entered_at_BL,
            finished_at_BL=ages.finished_at_BL,
            states=flight.done.states,
            scored=flight.scored.rows,
            logits_NV=flight.scored.logits_NV,
        )


def _whole(context: StepContext, rows: Rows, skip: SkipPolicy) -> StepContext:
    """The requests of which no row may skip in this step."""
    anywhere = skip.skips_at_start
    whole, _ = context.split(
        lambda p: (p.forward if anywhere else p.step) == 0 or p.slot in rows.refreshed
    )
    return whole


def _without(flight: InFlightStep, gone: Sequence[RequestState]) -> InFlightStep:
    """A step as the other requests see it."""
    if not gone:
        return flight
    pairs = zip(flight.states, flight.context.requests, strict=True)
    kept = [(state, at) for state, at in pairs if state not in gone]
    slots = [at.slot for _, at in kept]
    return flight._replace(
        states=tuple(state for state, _ in kept),
        context=replace(flight.context, requests=tuple(at for _, at in kept)),
        rows=flight.rows.take(np.flatnonzero(flight.rows.of(slots))),
    )


def _taken(before: HostCanvas, region: HostCanvas, slots: Sequence[int]) -> HostCanvas:
    """The canvas after a step that only some requests took part in."""
    if len(slots) == len(before.ids_BG):
        return region
    ids_BG, status_BG = before.ids_BG.copy(), before.status_BG.copy()
    taken = list(slots)
    ids_BG[taken], status_BG[taken] = region.ids_BG[taken], region.status_BG[taken]
    return HostCanvas(ids_BG, status_BG)
