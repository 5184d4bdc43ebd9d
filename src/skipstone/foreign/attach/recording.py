"""From calls to runs: what the hooks see becomes steps, with a delay of one call.

What a call committed is known when the next one begins: its commit is in the canvas by then.

Shape letters: B batch, N rows of a call, L canvas length.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from inspect import Signature
from types import FrameType

import numpy as np
import torch
from torch import Tensor, nn

from skipstone.errors import ConfigError
from skipstone.foreign.attach.chance import DrawnNumbers, generators
from skipstone.foreign.attach.ending import costs, nothing_recorded, sanitized
from skipstone.foreign.attach.forward import Forward
from skipstone.foreign.attach.header import header_of
from skipstone.foreign.attach.hidden import HiddenPrompts
from skipstone.foreign.attach.kept import rowed
from skipstone.foreign.attach.keys import kind_of_keys
from skipstone.foreign.attach.picks import Picks
from skipstone.foreign.attach.run import ForeignRun
from skipstone.foreign.attach.said import (
    attention_unseen,
    disagree,
    guided_apart,
    guided_together,
    overwritten,
    stale_ids,
    unlocated,
    unseen,
)
from skipstone.foreign.attach.snapshot import Carriers
from skipstone.foreign.attach.stores import Stores
from skipstone.foreign.attach.wanted import Wanted
from skipstone.foreign.attach.watch import Watch
from skipstone.foreign.attention.listening import Listening
from skipstone.foreign.positions.follow import Follower
from skipstone.foreign.rows.cache_axis import CacheAxis
from skipstone.foreign.rows.finder import Finder
from skipstone.foreign.rows.locate import Located
from skipstone.foreign.sanitizer.sanitizer import Sanitizer
from skipstone.foreign.shared.calls import Call, read_call
from skipstone.foreign.shared.functions import Functions
from skipstone.foreign.shared.guard import Guard
from skipstone.foreign.shared.source import caller, place, source_line
from skipstone.record import Event, MemoryTrace
from skipstone.record.writer import TraceWriter


class Recording:
    """Gets every call of a model; several runs are distinguished by their first canvas."""

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], wanted: Wanted) -> None:
        """Nothing was called yet."""
        self.traces = list[MemoryTrace]()
        """One for each run, if they are kept in memory."""
        self.watch = Watch()
        self.guard = Guard()
        self.run: ForeignRun | None = None
        self.final_BL: np.ndarray | None = None
        """How the run ended, if the user said it."""
        self.source = ""
        """The line that called the model last."""
        self.texts: Sequence[str] = ()
        self._model, self._layers, self._wanted = model, layers, wanted
        self._sanitizer = Sanitizer() if wanted.sanitize else None
        self._follower = Follower() if self._sanitizer is None else self._sanitizer.follower
        self._finder = Finder(self._follower, wanted.mask_id)
        self._axis = CacheAxis()
        self.picks, self._hidden = Picks(), HiddenPrompts()
        self._carriers, self._stores = Carriers(), Stores()
        self._twin: Located | None = None
        """The call under way, if it has a hidden prompt."""
        self.functions = Functions(
            self.guard,
            (self._follower, self._finder, self.watch),
            within=() if self._sanitizer is None else (self._follower,),
        )
        """The mode that tells what the loop does in between."""
        self.listening = Listening(self.guard)
        self._listens = wanted.level in ("window", "full")
        self._runs = 0
        self._calls = 0
        self._first_call = 0
        self._forward: Forward | None = None
        self._done: Forward | None = None
        self._moment = 0.0
        self._step_began = 0.0

    @property
    def runs(self) -> int:
        """How many have begun."""
        return self._finder.run

    def end(self, *, by_itself: bool) -> None:
        """Close the run that is under way.

        Raises:
            ConfigError: nothing was recorded at all, and no other exception says why.
        """
        if self.run is not None:
            self._end(self.run, by_itself=by_itself)
        elif by_itself and self._runs == 0:
            raise ConfigError(nothing_recorded(self._model, self.guard.events, self._calls))
        self._carriers.close()

    def _end(self, run: ForeignRun, *, by_itself: bool) -> None:
        with self.guard.within("the end of the record", source_line):
            for event in self.watch.logits.events():
                run.event(event)
            self._close(run, ended=by_itself)
        if self.run is not None:
            # It failed half-way: what was said is written all the same, and the files are closed.
            with self.guard.within("the end of the record", source_line):
                self._hand_over(run)
                run.close()

    # What the hooks call.

    def before(
        self, signature: Signature, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        """A call begins: the one before it is complete, for its commit is in the canvas now."""
        began = time.perf_counter()
        frame = caller()
        self._calls += 1
        self._forward = None
        call, located = None, None
        with self.guard.within("reading a call of the model", lambda: place(frame)):
            call = read_call(signature, args, kwargs)
            call = None if call is None else self._axis.before(call)
            located = None if call is None else self._finder.find(call)
        with self.guard.within("taking down a call of the model", lambda: place(frame)):
            if call is not None and located is None:
                located = self._finder.lost()
            self._begin(call, located, frame, began)
        if self._sanitizer is not None:
            with self.guard.within("following the rows of a call", lambda: place(frame)):
                self._sanitizer.before(call, located)
        self._is_inside(True)
        self._moment = time.perf_counter()

    def after(self, output: object) -> None:
        """A call is done."""
        began = time.perf_counter()
        self._is_inside(False)
        run, forward = self.run, self._forward
        self._forward = None
        if run is not None:
            run.clock.inside += began - self._moment
            run.clock.forwards += 1
        with self.guard.within("reading what the model returned", source_line):
            self._axis.after(output)
            if self._sanitizer is not None:
                self._sanitizer.after(output)
            if self._twin is not None:
                self._hidden.made(output)
                if run is not None and self._wanted.level in ("window", "full"):
                    start_BL, mask_id = run.start_BL, self._wanted.mask_id
                    self._hidden.scored(output, self._twin, self._done, start_BL, mask_id)
            if run is not None and forward is not None:
                # Also if reading fails: what is known of the step goes into the record.
                self._done = forward
                self._read(run, forward, output)
                if not run.chance:
                    run.chance, self.watch.drawn = generators(self._device()), DrawnNumbers()
                forward.send(self._carriers)
        self._moment = time.perf_counter()

    def broken(self) -> None:
        """The model raised: no call is under way any more."""
        self._is_inside(False)
        self._forward = None

    def enter_layer(self, number: int, x: Tensor) -> None:
        """States go into a layer."""
        forward = self._forward
        if forward is None:
            return
        with torch._C.DisableTorchFunction():
            known = forward.enters_whole(number, x)
        if not known:
            with self.guard.within("reading the states before a layer", source_line):
                forward.enter(number, x, self.picks.taken() if number == 1 else ())
        if self._listens:
            self.listening.enter(number, x)

    def leave_layer(self, number: int, output: object) -> None:
        """A layer is done."""
        attention = self.listening.leave() if self._listens else ()
        forward = self._forward
        if forward is None:
            return
        if self._listens and (
            problem := self.listening.problem(self._layers[number - 1], attention)
        ):
            self._say(attention_unseen(number, problem, forward.number, self._source()))
        picks = self.picks.taken()
        with torch._C.DisableTorchFunction():
            if forward.leaves_whole(number, output):
                return
        with self.guard.within("reading the states after a layer", source_line):
            forward.leave(number, output, picks, attention)

    def _source(self) -> str:
        return "" if self.run is None else self.run.source

    def _is_inside(self, inside: bool) -> None:
        """A call of the model is under way from now on, or no more."""
        self.listening.stop()
        self.watch.inside = self._follower.inside = self.picks.inside = inside
        if inside:
            self.functions.call_begins()
        else:
            self.functions.call_is_over()

    # A call, from its arguments to what it returned.

    def _begin(
        self, call: Call | None, located: Located | None, frame: FrameType, began: float
    ) -> None:
        run = self.run
        if call is None or located is None:
            self._say(unlocated("", self._model, call, place(frame)))
            return
        twin = located.samples.twin or self._hidden.goes_on(call)
        self._twin = located if twin else None
        if twin and run is not None:
            self._guided(run, call, place(frame))
            return
        if run is not None and located.hid_before and not run.begun:
            self._take_back(run)
        if run is None or located.anew:
            run = self._start(located.canvas_BL)
        else:
            self._note_time(run, began)
        run.note_settings(call, self._wanted.stated, frame)
        run.grow(located.canvas_BL)
        self._complete(run, located.canvas_BL, located.placed.positions_BN)
        self._note(run, call, located, place(frame))
        run.canvas_BL = located.canvas_BL
        self._finder.found(call, located)
        rows = call.shape[1]
        number = run.count_call(call.arguments, (len(located.canvas_BL), rows))
        self._forward = Forward(
            number,
            located,
            rows,
            call.pairs,
            self._wanted.level,
            len(self._layers),
            self._stores,
            run.offset,
        )
        self._forward.hide(self._hidden.taken())
        if self._listens:
            self.listening.call(call.arguments, whole=rows == located.canvas_BL.shape[1])

    def _guided(self, run: ForeignRun, call: Call, source: str) -> None:
        """The second call of a step, with the prompt hidden: it decides nothing by itself."""
        run.count_call(call.arguments, call.shape)
        if not run.guided:
            run.guided = True
            run.event(guided_apart(run.forwards - 1, source))

    def _note(self, run: ForeignRun, call: Call, located: Located, source: str) -> None:
        """Say what is odd about a call."""
        for event in run.given.note(call, run.forwards, source):
            run.event(event)
        if located.overwritten_BL is not None:
            run.event(overwritten(located, run.start_BL, run.forwards - 1, run.source))
        if located.was_stale is not None and run.stale not in run.disagreed:
            run.disagreed.add(run.stale)
            run.event(stale_ids(located.was_stale, run.forwards - 1, run.stale))
        run.stale = source
        if not located.samples.all and not run.guided:
            run.guided = True
            run.event(guided_together(run.forwards, source))
        if located.problem:
            self._say(unlocated(located.problem, self._model, call, source, run.forwards))
        if located.said is not None and source not in run.disagreed:
            run.disagreed.add(source)
            run.event(disagree(located.placed, located.said, run.forwards, source))

    def _read(self, run: ForeignRun, forward: Forward, output: object) -> None:
        logits_CNV = forward.end(output, self._wanted.mask_id, self._axis.known)
        if logits_CNV is not None:
            self.watch.logits.add(logits_CNV)
        for event in unseen(forward, self._model, run.source):
            self._say(event)
        if forward.rows_lost:
            run.event(Event("skipped_rows_unknown", forward.rows_lost, forward=forward.number))

    def _say(self, event: Event) -> None:
        """Say it now, and write it down with the run."""
        self.guard.say(event)
        if self.run is not None:
            self._hand_over(self.run)

    def _hand_over(self, run: ForeignRun) -> None:
        for event in self.guard.events:
            run.event(event)
        self.guard.events.clear()

    # A run from its start to its end.

    def _start(self, canvas_BL: np.ndarray) -> ForeignRun:
        """Begin a run, after closing the one before."""
        if self.run is not None:
            self._close(self.run, ended=True)
        self.run = ForeignRun(self._sink(), canvas_BL, self._wanted)
        self._first_call = self._calls - 1
        self._step_began = time.perf_counter()
        return self.run

    def _take_back(self, run: ForeignRun) -> None:
        """A run of one call was none: nothing of it is written down yet."""
        self._hidden.unguided = [] if self._done is None else self._done.logits()
        run.close()
        self._runs -= 1
        del self.traces[self._runs :]
        self.run = self._done = None

    def _sink(self) -> MemoryTrace | TraceWriter:
        """Where the next run is written."""
        self._runs += 1
        path = self._wanted.path_of(self._runs)
        if path is not None:
            return TraceWriter(path)
        self.traces.append(MemoryTrace())
        return self.traces[-1]

    def _complete(
        self, run: ForeignRun, after_BL: np.ndarray, next_rows_BN: np.ndarray | None
    ) -> None:
        """Hand over the last call, now that the canvas after it is known."""
        done, self._done = self._done, None
        if done is None:
            return
        now = time.perf_counter()
        for b, after in enumerate(after_BL):
            rows = None if next_rows_BN is None else next_rows_BN[b]
            seen, tensors = done.seen(b, after, rows, now - self._step_began, self._wanted.mask_id)
            if not run.begun:
                first = rowed([kept for kept in tensors if kept.key.layer == 1])
                keys = kind_of_keys(first, done.number, seen.before == self._wanted.mask_id)
                header = header_of(
                    self._model, self._layers[0], self._wanted, done, run, keys, self.watch.drawn
                )
                run.begin(header, self._wanted.stated)
            run.add(b, seen, tensors)
        self._step_began = time.perf_counter()

    def _close(self, run: ForeignRun, *, ended: bool) -> None:
        """Write what is left of a run; its outcome only if it ended by itself."""
        self.source = run.source
        self._note_time(run, time.perf_counter())
        final_BL = self.final_BL
        if final_BL is None:
            with self.guard.within("looking for the last canvas", source_line):
                newest_BL = self._finder.newest()
                final_BL = None if newest_BL is None else newest_BL[:, : run.length]
        self._complete(run, run.canvas_BL if final_BL is None else final_BL, None)
        if self._sanitizer is not None:
            findings, next_token = self._sanitizer.findings, self._sanitizer.next_token
            stated, shifted = run.offset.stated, run.offset.reach.score_offset == -1
            findings.settle(shifted=shifted or (stated is None and next_token.shifted))
            for event in sanitized(findings, run.disagreed, self._first_call, self._calls):
                run.event(event)
        self._hand_over(run)
        if run.begun:
            for event in costs(run, self._layers, sanitized=self._wanted.sanitize):
                run.event(event)
            run.end(final_BL, self.texts, ended=ended)
        else:
            run.close()
        self._finder.forget()
        self._stores.forget()
        self.run = self._forward = self.final_BL = None
        self.texts = ()

    def _note_time(self, run: ForeignRun, now: float) -> None:
        """Time and reads since the last call."""
        if self._done is not None:
            run.clock.between += now - self._moment
        run.clock.reads_between.update(self.watch.reads_between)
        run.clock.reads_inside.update(self.watch.reads_inside)
        self.watch.reads_between.clear()
        self.watch.reads_inside.clear()

    def _device(self) -> torch.device:
        return next(self._layers[0].parameters()).device
