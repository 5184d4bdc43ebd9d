"""What the requests of a batch share: canvas, scores, K/V, and what policies remember of them.

A batch has slots; a request is in one of them. All of a batch share a skip policy, since it decides
in the middle of a forward; cache and unmask policies are each request's own.

Shape letters: B requests, L canvas length, G generation length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from skipstone.blocks import Block
from skipstone.canvas import Canvas, Geometry, HostCanvas, Status, StepContext
from skipstone.engine.ages import Ages
from skipstone.engine.forward.runner import Runner
from skipstone.engine.progress import RequestState
from skipstone.engine.request import Done, Request
from skipstone.engine.score.scorer import Scorer
from skipstone.engine.settings import Settings
from skipstone.models.base import ModelConfig
from skipstone.rows import Rows
from skipstone.unmask import Scores, UnmaskPolicy, UnmaskSession

P = TypeVar("P")


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
    stops_at_nan: bool = True
    """Whether a NaN ends a request; else it is committed, for those who study where it leads."""
    _sessions: list[tuple[UnmaskPolicy, UnmaskSession]] = field(default_factory=list)

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
        """Whether a slot is long enough for a request."""
        start, new = len(request.prompt), len(request.region)
        return new <= self.geometry.gen_length and start + new <= self.geometry.length

    def reserve(self, slot: int, request: Request) -> bool:
        """Get room for the keys and values of a request; False if there is none now."""
        base = self.runner.store.admit(slot, request.length)
        if base is None:
            return False
        self.canvas.bases[slot] = base
        return True

    def admit(self, slot: int, request: Request) -> RequestState:
        """Put a request into a slot that is reserved; nothing there may speak of the one before."""
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
        self.scorer.admit(slot, settings.temperature, settings.seed or 0)
        asked = [one.request.settings.unmask for one in self.states]
        self._sessions = [pair for pair in self._sessions if pair[0] in asked]
        self.session(settings.unmask).forget(slot)
        if self.runner.skip is not None:
            self.runner.skip.forget(slot)
        self.slots[slot] = state = RequestState(request, slot)
        return state

    def release(self, state: RequestState) -> None:
        """Let a request leave."""
        self.slots[state.slot] = None
        self.runner.store.release(state.slot)

    def decoded(self, state: RequestState) -> Done:
        """What was decoded of a request."""
        new = len(state.request.region)
        ids_G = self.host.ids_BG[state.slot, :new].copy()
        status_G = self.host.status_BG[state.slot, :new].copy()
        return Done(state.request, state.stats, ids_G, status_G)

    def session(self, policy: UnmaskPolicy) -> UnmaskSession:
        """What an unmask policy remembers of the requests that have it."""
        for known, session in self._sessions:
            if known == policy:
                return session
        session = policy.start(self.geometry)
        self._sessions.append((policy, session))
        return session

    def rows(self, context: StepContext) -> Rows:
        """What the cache policies of the requests recompute in a step."""
        alike = self._alike(context, lambda settings: settings.cache)
        return Rows.join(*(policy.rows(same) for policy, same in alike))

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """What the unmask policies of the requests commit: bool [B, G]."""
        (policy, same), *others = self._alike(context, lambda settings: settings.unmask)
        chosen_BG = self.session(policy).select(scores, same)
        for policy, same in others:
            mine_BG = self.session(policy).select(scores, same)
            # Of requests that another policy serves, it says nothing.
            chosen_BG = mine_BG.where(same.forward_B1 >= 0, chosen_BG)
        return chosen_BG

    def _alike(
        self, context: StepContext, policy_of: Callable[[Settings], P]
    ) -> Iterator[tuple[P, StepContext]]:
        """Each policy of the requests, and those that have it.

        Where all have the same, that is the context itself, with what it holds on the device.
        """
        while context.requests:
            policy = policy_of(self.settings(context.requests[0].slot))
            same, others = context.split(
                lambda p, of=policy: policy_of(self.settings(p.slot)) == of
            )
            yield policy, same if others.requests else context
            context = others

    def state(self, slot: int) -> RequestState:
        """The request in a slot."""
        state = self.slots[slot]
        assert state is not None
        return state

    def settings(self, slot: int) -> Settings:
        """How the request in a slot is decoded."""
        return self.state(slot).request.settings

    def context(self, states: Iterable[RequestState]) -> StepContext | None:
        """Where these requests go next, those that are done left out; None if all are."""
        places = [at for state in states if (at := state.next_step(self.host))]
        return StepContext(self.canvas, tuple(places), self.committed_BL) if places else None

    def together(self, block: Block, step: int, forward: int) -> StepContext:
        """Every request at the same step of the same block: how a run is led."""
        places = (replace(s.at(block, step), forward=forward) for s in self.states)
        return StepContext(self.canvas, tuple(places), self.committed_BL)

    def put(self, host: HostCanvas, committed_BL: Tensor) -> None:
        """Put the canvas into the state in which a step that committed ``committed_BL`` left it."""
        self.canvas.put(host)
        self.host, self.committed_BL = host, committed_BL

    @property
    def stops(self) -> bool:
        """Whether any request may end before all of it is decoded."""
        return any(state.request.stop_ids for state in self.states)
