"""The step loop: the one place where canvases are decoded.

Admit, schedule, launch, complete: requests that wait take free slots, the scheduler says who takes
part in the next step, the step is launched, and completed when the host has read what it committed.
Every request is at its own block and step; one that is done leaves at once. Batches, traces, every
model and every cache go through here.

Where it is very likely where the requests in flight go next, by their schedules or because they
will have masks left, the next step is launched before that is known, so that the device never
waits. If a block turns out to be done, its step changed nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from skipstone.engine.batch import Batch
from skipstone.engine.guarded import named
from skipstone.engine.progress import RequestState
from skipstone.engine.request import Done, Handle
from skipstone.engine.scheduler import Scheduler
from skipstone.engine.step import InFlightStep, Stepper
from skipstone.errors import SkipstoneError, StalledError


@dataclass(eq=False)
class Loop:
    """Requests being decoded in the slots of a batch. ``decode`` goes on until none is left."""

    batch: Batch
    stepper: Stepper
    queue: deque[Handle]
    """Those that wait for a slot, first come, first served; others may add to it at any time."""
    takes: Handle
    """The first that it was made for; others must be able to share a batch with it."""
    scheduler: Scheduler = field(default_factory=Scheduler)
    ahead: int = 0
    """Steps that may be launched before an earlier one is completed."""
    _flying: deque[InFlightStep] = field(default_factory=deque)

    def decode(self) -> list[Done]:
        """Decode all that is here or waits, and say what came of each, in this order."""
        handles = [*self.handles, *self.queue]
        while self.turn():
            pass
        return [handle.decoded() for handle in handles]

    @property
    def idle(self) -> bool:
        """Whether nobody is being decoded."""
        return not self.batch.states and not self._flying

    @property
    def handles(self) -> list[Handle]:
        """Of all that are being decoded; other threads ask, too, while some leave."""
        every = [state.handle for state in self.batch.states]
        return [handle for handle in every if handle is not None]

    def turn(self) -> bool:
        """Let requests leave and come, and take a step; False if there is nothing to do."""
        self._release()
        self.admit()
        launched = self._may_launch() and self._launch()
        if self._flying and (not launched or len(self._flying) > self.ahead):
            self._complete_oldest()
            return True
        return launched

    def fail(self, error: BaseException) -> None:
        """End all that are being decoded."""
        for state in self.batch.states:
            if state.handle is not None:
                state.handle.fail(error)
            self._leave(state, sound=False)
        self._flying.clear()

    def _release(self) -> None:
        """Let requests leave that are done or were cancelled."""
        flying = {state.slot for flight in self._flying for state in flight.states}
        for state in self.batch.states:
            if state.handle is not None and state.handle.cancelled():
                self._leave(state, sound=True)
            elif self._is_done(state, flies=state.slot in flying):
                if state.handle is not None:
                    state.handle.finish(self.batch.decoded(state))
                self._leave(state, sound=True)

    @property
    def _is_looked_at(self) -> bool:
        """Whether a step is in flight of which an observer wants what the next one overwrites."""
        return any(flight.tapped for flight in self._flying)

    def _is_done(self, state: RequestState, *, flies: bool) -> bool:
        host = self.batch.host
        if flies:
            # It has not reached the end of its block yet, or there is nothing after it; where
            # steps do not overlap, the one that flies may still change something.
            return state.request.settings.may_overlap and not state.has_masks(host)
        state.resume(host)
        return state.next_step(host) is None

    def _leave(self, state: RequestState, *, sound: bool) -> None:
        if state.watch is not None:
            state.watch.stop()
        self.scheduler.release(state.slot)
        self.batch.release(state, sound=sound)

    def admit(self) -> None:
        """Give free slots to those that wait and may share this batch."""
        for slot in self.batch.free:
            handle = self._next_waiting()
            if handle is None or self.batch.waits_for_prefix(handle.request):
                return
            request = handle.request
            place = self.batch.runner.store.admit(request.length, request.prefix)
            if place is None:
                # Others will leave and make room.
                return
            try:
                state = self.batch.admit(slot, place, request)
            except BaseException as error:
                self.batch.runner.store.release(place.base)
                handle.fail(error)
                if not isinstance(error, SkipstoneError):
                    raise
                # It is done, and leaves the queue with the next one that waits.
                continue
            state.handle = handle
            handle.admitted()
            self.scheduler.admit(slot)
            # Only now: wherever it is interrupted, whoever waits is in the queue or in a slot.
            self.queue.popleft()
            self._begin(state)

    def _begin(self, state: RequestState) -> None:
        """Tell the request's own observer, whose error ends it."""
        if state.watch is not None:
            try:
                state.watch.begin(state.request.settings, state.request.prompt)
            except Exception as error:  # raised where the request is waited for
                self._end(state, error)

    def _next_waiting(self) -> Handle | None:
        """The first that waits, if it may share this batch; it is in the queue still."""
        while self.queue:
            handle = self.queue[0]
            if handle.done():
                self.queue.popleft()
                continue
            if handle.shares_with(self.takes) and self.batch.fits(handle.request):
                return handle
            # It waits until this batch is done; so do those behind it, to keep their order.
            return None
        return None

    def _may_launch(self) -> bool:
        """Whether it is likely enough where all in flight go next."""
        if not self._flying:
            return True
        if len(self._flying) > self.ahead or self._is_looked_at:
            return False
        host = self.batch.host
        counts = dict[int, int]()
        for flight in self._flying:
            for state in flight.states:
                if self.batch.slots[state.slot] is state:
                    counts[state.slot] = counts.get(state.slot, 0) + 1
        states = {state.slot: state for state in self.batch.states}
        return all(
            states[slot].request.settings.may_overlap
            and states[slot].surely_goes_on(host, in_flight)
            for slot, in_flight in counts.items()
        )

    def _launch(self) -> bool:
        """Launch a step for those whose turn it is; False if nobody has one to take."""
        batch = self.batch
        context = batch.context(batch.states)
        if context is None:
            return False
        rows = batch.rows(context)
        if len(context.requests) > 1:
            leaders = batch.leaders(rows) or {}
            computed = dict(zip(rows.requests, rows.counts, strict=True))
            # Whoever takes over what another one computes goes with it, and costs no rows.
            wanted = {slot: n for slot, n in computed.items() if leaders.get(slot, slot) == slot}
            chosen = self.scheduler.choose(wanted)
            context, others = context.split(lambda at: leaders.get(at.slot, at.slot) in chosen)
            if others.requests:
                rows = batch.rows(context)
        flight = self.stepper.launch(context, rows)
        self._flying.append(flight)
        batch.begun(flight.states, rows)
        return True

    def _complete_oldest(self) -> None:
        """See the oldest step completed, and repeat it for requests that committed nothing."""
        empty = self._complete()
        while empty and self._flying:
            # Whoever has taken another step meanwhile is judged by that one.
            later = self._flying[0].states
            empty = [state for state in empty if state not in later] + self._complete()
        if empty:
            self._recover(empty)

    def _complete(self) -> list[RequestState]:
        completed = self.stepper.complete(self._flying.popleft())
        for state, error in completed.broken:
            self._end(state, error)
        return completed.empty

    def _recover(self, states: Sequence[RequestState]) -> None:
        """Repeat an empty step over all rows; progress is the engine's duty, not a policy's."""
        batch = self.batch
        completed = self.stepper.step(batch.again(states), recovery=True)
        for state, error in completed.broken:
            self._end(state, error)
        for state in completed.empty:
            at = state.last_step()
            unmask = state.request.settings.unmask
            self._end(
                state,
                StalledError(
                    f"block {at.block.index}, step {at.step}: nothing was committed, not "
                    f"even over all rows without skip; {named(unmask)} chooses no mask; "
                    f"commit at least one in each step while there is one"
                ),
            )

    def _end(self, state: RequestState, error: Exception) -> None:
        """End one request with an error; the others go on."""
        if state.handle is not None:
            state.handle.fail(error)
        self._leave(state, sound=False)
