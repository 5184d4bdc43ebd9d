"""What the requests of a batch share: canvas, scores, K/V, and what policies remember of them.

A batch has slots; a request is in one of them. All of a batch share a skip policy, since it decides
in the middle of a forward; cache and unmask policies are each request's own.

Shape letters: B requests, L canvas length, G generation length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from skipstone.blocks import Block
from skipstone.cache import CachePolicy, CacheSession
from skipstone.canvas import Canvas, Geometry, HostCanvas, RequestStep, Status, StepContext
from skipstone.engine.ages import Ages
from skipstone.engine.beside import SessionsHold, rows_of, tables_of
from skipstone.engine.entering import with_entering
from skipstone.engine.forward.asked import Asked, judges, started
from skipstone.engine.forward.common import Histories, led_rows, spread
from skipstone.engine.forward.followers import Followers, Leaders
from skipstone.engine.forward.interventions import Intervention
from skipstone.engine.forward.naming import Naming
from skipstone.engine.forward.runner import Pass, Runner
from skipstone.engine.guarded import Failed, checked_choice, checked_rows, guarded, noting
from skipstone.engine.observe import Taps
from skipstone.engine.progress import RequestState
from skipstone.engine.request import Done, Request
from skipstone.engine.score.scorer import Scorer
from skipstone.engine.score.weighing import Weighing
from skipstone.engine.sessions import Served, Sessions
from skipstone.engine.settings import Settings
from skipstone.memory.kept import Keeping, Kept
from skipstone.memory.prefixes import Prefix
from skipstone.memory.store import Admitted
from skipstone.models.base import ModelConfig
from skipstone.rows import Rows
from skipstone.unmask import (
    NarrowingSession,
    Need,
    Scores,
    UnmaskPolicy,
    UnmaskSession,
    WeighingSession,
)

# Whoever comes waits a step if so many positions are about to be computed that it shares. Fewer
# cost less than the step: on a card, one takes as long as reading the weights.
WORTH_WAITING = 64


@dataclass(eq=False)
class Batch:
    """The slots, and all that is known of the requests in them."""

    config: ModelConfig
    geometry: Geometry
    canvas: Canvas
    runner: Runner
    scorer: Scorer
    host: HostCanvas
    """The generation region as of the last step that was completed."""
    committed_BL: Tensor
    """bool [B, L]: what each request committed in its last step."""
    slots: list[RequestState | None]
    """The requests that are being decoded; None where a slot is free."""
    ages: Ages | None = None
    """Kept only if somebody watches."""
    keeping: Keeping | None = None
    """What there is memory for beside keys and values; None: for anything."""
    held: SessionsHold | None = None
    """What there is memory for in sessions; None: for anything."""
    stops_at_nan: bool = True
    """Whether a NaN ends a request; else it is committed, for those who study where it leads."""
    _failed: Failed = field(default_factory=Failed)
    """Slots whose policy failed before the choice; they end with their next step."""

    def __post_init__(self) -> None:
        """Start without sessions."""
        # Not self: in a cycle, the store would be freed at any time.
        geometry, slots = self.geometry, self.slots
        self.unmasking = Sessions[UnmaskPolicy, UnmaskSession](
            lambda policy: policy.start(geometry), lambda slot: _settings(slots, slot).unmask
        )
        self.caching = Sessions[CachePolicy, CacheSession](
            lambda policy: started(policy, geometry), lambda slot: _settings(slots, slot).cache
        )
        self._kept = Kept.over(self.runner.store)
        self._histories = Histories()
        self._listens = self._names = self._weighs = False

    @classmethod
    def start(
        cls, config: ModelConfig, geometry: Geometry, runner: Runner, scorer: Scorer
    ) -> Batch:
        """Free slots alone."""
        slots, length, gen_length = geometry.batch, geometry.length, geometry.gen_length
        canvas = Canvas.empty(slots, length, gen_length, config.mask_id, geometry.device)
        shape = (slots, gen_length)
        return cls(
            config=config,
            geometry=geometry,
            canvas=canvas,
            runner=runner,
            scorer=scorer,
            host=HostCanvas(np.full(shape, config.mask_id), np.full(shape, int(Status.PAD))),
            committed_BL=torch.zeros_like(canvas.status_BL, dtype=torch.bool),
            slots=[None] * slots,
        )

    @property
    def states(self) -> list[RequestState]:
        """The requests that are being decoded, by slot."""
        return [state for state in self.slots if state is not None]

    @property
    def free(self) -> list[int]:
        """Slots without a request."""
        return [slot for slot, state in enumerate(self.slots) if state is None]

    def fits(self, request: Request) -> bool:
        """Whether a slot is long enough for a request, and there is room for what is kept of it."""
        start, new = len(request.prompt), len(request.region)
        if self.keeping is not None and not request.keeping <= self.keeping:
            return False
        if self.held is not None:
            caches = (one.settings.cache for one in (request, *(s.request for s in self.states)))
            held = SessionsHold(rows_of(request), tables_of(caches, self.geometry))
            if not self.held.covers(held):
                return False
        return new <= self.geometry.gen_length and start + new <= self.geometry.length

    def waits_for_prefix(self, request: Request) -> bool:
        """Whether the next step of another request computes much that this one could take over."""
        if request.prefix is None:
            return False
        pending = (state.request.prefix for state in self.states if not state.forward)
        coming = max((p.shared_with(request.prefix) for p in pending if p is not None), default=0)
        if coming < WORTH_WAITING:
            return False
        there = self.runner.store.prefixes.longest(request.prefix).count
        return coming - there >= WORTH_WAITING

    def admit(self, slot: int, place: Admitted, request: Request) -> RequestState:
        """Put a request into a slot; nothing there may speak of the one before.

        Args:
            slot: which.
            place: what the store gave for it.
            request: who comes.
        """
        settings, config = request.settings, self.config
        # A copy: what an observer saw last may still be on its way to a disk.
        self.host = HostCanvas(self.host.ids_BG.copy(), self.host.status_BG.copy())
        self.host.ids_BG[slot], self.host.status_BG[slot] = self.canvas.admit(
            slot, request.prompt, request.region, config.mask_id, request.stop_ids
        )
        self.committed_BL = self.committed_BL.clone()
        self.committed_BL[slot].zero_()
        for table_BL in self.ages or ():
            table_BL[slot] = -1
        others = [one.request.settings for one in self.states]
        with guarded(settings.unmask):
            self.scorer.admit(slot, settings)
            self.unmasking.admit(settings.unmask, slot, (other.unmask for other in others))
        with guarded(settings.cache):
            self.caching.admit(settings.cache, slot, (other.cache for other in others))
        self._listens = any(not each.cache.pure for each in (settings, *others))
        self._names = any(each.cache.needs for each in (settings, *others))
        self._weighs = any(Need.LOGITS in each.unmask.needs for each in (settings, *others))
        self._kept.forget(place.base, request.length)
        if self.runner.skip is not None:
            self.runner.skip.forget(slot)
        self._failed.pop(slot, None)
        self._histories.forget([slot])
        self.slots[slot] = state = RequestState(request, slot, place.base, reused=place.reused)
        return state

    def release(self, state: RequestState, *, sound: bool) -> None:
        """Let a request leave.

        Args:
            state: of the request.
            sound: whether others may take over what it has computed.
        """
        store, request = self.runner.store, state.request
        self.slots[state.slot] = None
        store.release(state.base)
        if not sound:
            store.prefixes.forget(state.base)
        elif request.prefix is not None:
            # In the next turn of a talk, the answer is a part of the prompt.
            whole = [*request.prompt, *self.host.ids_BG[state.slot].tolist()]
            store.prefixes.hold(state.base, Prefix.of(whole[: state.settled], request.reach))

    def begun(self, states: Iterable[RequestState], rows: Rows) -> None:
        """The step of these rows is launched: others may take over the prompts that it computes."""
        for state in states:
            prefix = state.request.prefix
            if state.forward == 1 and prefix is not None:
                first = int(rows.position[rows.request == state.slot][0])
                # A policy may have computed them all the same.
                state.reused = min(state.reused, first)
                self.runner.store.prefixes.hold(state.base, prefix)

    def decoded(self, state: RequestState) -> Done:
        """What was decoded of a request."""
        new = len(state.request.region)
        ids_G = self.host.ids_BG[state.slot, :new].copy()
        status_G = self.host.status_BG[state.slot, :new].copy()
        return Done(state.request, state.stats, ids_G, status_G, state.reused)

    def rows(self, context: StepContext) -> Rows:
        """What the cache policies of the requests recompute in a step, which may not be taken."""
        return Rows.join(*(self._rows(*served) for served in self.caching.serving(context)))

    def _rows(self, policy: CachePolicy, session: CacheSession, context: StepContext) -> Rows:
        """Of the requests that share a policy; all of them where it fails."""
        with noting(self._failed, policy, context.active):
            named = checked_rows(policy, session.rows(context), context)
            return with_entering(named, context, lambda slot: self.state(slot).sight)
        return context.all_rows()

    def taken(self, rows: Rows, context: StepContext) -> None:
        """Tell the cache policies that a step is taken with these rows."""
        if not self._listens:
            return
        for policy, session, same in self.caching.serving(context):
            mine = rows.of(same.active)
            with noting(self._failed, policy, same.active):
                session.taken(rows if mine.all() else rows.take(np.flatnonzero(mine)), same)

    def asked(self, rows: Rows, context: StepContext, *, recovery: bool) -> list[Asked]:
        """Whose cache policies have a say in the midst of a forward over ``rows``.

        Args:
            rows: that enter layer 1.
            context: the step.
            recovery: all rows are computed, whatever policies say.
        """
        if not self._names:
            return []
        asked = list[Asked]()
        for policy, session, same in self.caching.serving(context):
            if policy.needs:
                free, _ = same.split(lambda at: not recovery and at.slot not in rows.refreshed)
                asked.append(Asked(policy, session, same, free))
        return asked

    def leaders(self, rows: Rows) -> Leaders | None:
        """Who computes for whom in a forward over ``rows``; None: each for itself.

        On a GPU the host does not know the canvas when a step is launched. A skip policy, or who
        replaces states in the midst of a forward, speaks of single requests.
        """
        states = [self.state(slot) for slot in rows.requests]
        judged = self.runner.skip is not None or self.runner.intervention is not None
        if judged or self.geometry.device.type != "cpu":
            return None
        if len({state.request.prompt for state in states}) == len(states):
            return None
        return self._histories.leaders(rows, self.canvas.ids_BL.numpy(), self._judging(rows))

    def _judging(self, rows: Rows) -> frozenset[int]:
        """Requests of whose rows a cache policy may have a say in the midst of a forward."""
        if not self._names:
            return frozenset()
        caches = {slot: self.settings(slot).cache for slot in rows.requests}
        return frozenset(
            slot
            for slot, cache in caches.items()
            if slot not in rows.refreshed and cache.needs and judges(self.caching.of(cache))
        )

    def forward(
        self,
        rows: Rows,
        context: StepContext,
        *,
        fresh: Sequence[int],
        taps: Taps,
        asked: Sequence[Asked] = (),
    ) -> Pass:
        """The forward of a step; what several requests have in common is computed once."""
        leaders = None if taps else self.leaders(rows)
        followers = Followers(rows, leaders or {})
        naming = Naming(asked, self._kept, self._failed, followers) if asked else None
        if leaders is None:
            self._histories.forget(rows.requests)
            return self.runner.forward(rows, context, fresh=fresh, taps=taps, naming=naming)
        led = led_rows(rows, leaders)
        done = self.runner.forward(led, context, fresh=fresh, taps=taps, naming=naming)
        self._histories.computed(rows, self.canvas.ids_BL.numpy(), self._judging(rows))
        return spread(done, rows, leaders, self.runner.store)

    def weighing(self, context: StepContext) -> Weighing | None:
        """Whose unmask policies see the logits of a step; None: nobody's."""
        if not self._weighs:
            return None
        asked = [s for s in self.unmasking.serving(context) if Need.LOGITS in s.policy.needs]
        return Weighing(cast("list[Served[UnmaskPolicy, WeighingSession]]", asked), self._failed)

    def seen_B1(self, context: StepContext, failed: Failed) -> Tensor | None:
        """How far the rows of the next step see, int64 [B, 1]; None: nobody's policy says so."""
        asked = [s for s in self.unmasking.serving(context) if s.policy.narrows]
        seen_B1 = None
        for policy, session, same in cast("list[Served[UnmaskPolicy, NarrowingSession]]", asked):
            with noting(failed, policy, same.active):
                own_B1 = session.sees_B1
                everything_B1 = torch.full_like(own_B1, self.canvas.gen_length)
                before_B1 = everything_B1 if seen_B1 is None else seen_B1
                seen_B1 = own_B1.where(same.forward_B1 >= 0, before_B1)
        return seen_B1

    def select(self, scores: Scores, context: StepContext) -> tuple[Tensor, Failed]:
        """What the unmask policies of the requests commit, bool [B, G].

        Nothing where they fail, or have failed in this step, or the cache policies did.
        """
        # A request that is not in this step, after all, ends with the one that it is in.
        failed = {at: self._failed.pop(at) for at in context.active if at in self._failed}
        chosen_BG = None
        for policy, session, same in self.unmasking.serving(context):
            mine_BG = None
            with noting(failed, policy, same.active):
                said_BG = session.select(scores.only(policy.needs), same)
                mine_BG = checked_choice(policy, said_BG, scores.token_BG)
            if mine_BG is None:
                continue
            if chosen_BG is not None:
                # Of requests that another policy serves, it says nothing.
                mine_BG = mine_BG.where(same.forward_B1 >= 0, chosen_BG)
            chosen_BG = mine_BG
        if chosen_BG is None:
            chosen_BG = torch.zeros_like(scores.token_BG, dtype=torch.bool)
        elif failed:
            chosen_BG = chosen_BG.clone()
            chosen_BG[list(failed)] = False
        return chosen_BG, failed

    def intervene(self, intervention: Intervention) -> None:
        """Let an experiment replace values from here on."""
        self.runner.intervention = self.scorer.intervention = intervention

    def state(self, slot: int) -> RequestState:
        """The request in a slot."""
        state = self.slots[slot]
        assert state is not None
        return state

    def settings(self, slot: int) -> Settings:
        """How the request in a slot is decoded."""
        return _settings(self.slots, slot)

    def context(self, states: Iterable[RequestState]) -> StepContext | None:
        """Where these requests go next, those that are done left out; None if all are."""
        places = [at for state in states if (at := state.next_step(self.host))]
        return self._context(places) if places else None

    def together(self, block: Block, step: int, forward: int, post_step: int = 0) -> StepContext:
        """Every request at the same step of the same block: how a run is led."""
        at = (state.at(block, step, post_step) for state in self.states)
        return self._context(replace(one, forward=forward) for one in at)

    def again(self, states: Iterable[RequestState]) -> StepContext:
        """The step that these requests took last, once more."""
        return self._context(state.last_step() for state in states)

    def _context(self, requests: Iterable[RequestStep]) -> StepContext:
        scored_BG = self.scorer.confidence_BG
        return StepContext(self.canvas, tuple(requests), self.committed_BL, self.host, scored_BG)

    def put(self, host: HostCanvas, committed_BL: Tensor) -> None:
        """Put the canvas into the state in which a step that committed ``committed_BL`` left it."""
        self.canvas.put(host)
        self.host, self.committed_BL = host, committed_BL

    @property
    def stops(self) -> bool:
        """Whether any request may end before all of it is decoded."""
        return any(state.request.stop_ids for state in self.states)


def _settings(slots: Sequence[RequestState | None], slot: int) -> Settings:
    state = slots[slot]
    assert state is not None
    return state.request.settings
