"""From calls to runs: what the hooks hear becomes steps, one call behind.

What a call committed is known when the next one begins: its commit is in the canvas by then.

Shape letters: B batch, N rows of a call, L canvas length.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from skipstone.foreign.attach.canvases import first_mask, newest
from skipstone.foreign.attach.cost import measuring_cost, skip_cost
from skipstone.foreign.attach.forward import Forward
from skipstone.foreign.attach.header import header_of
from skipstone.foreign.attach.keys import kind_of_keys
from skipstone.foreign.attach.placed import Located, locate
from skipstone.foreign.attach.run import ForeignRun
from skipstone.foreign.attach.wanted import Wanted
from skipstone.foreign.attach.watch import Watch
from skipstone.foreign.positions.evidence import Findings
from skipstone.foreign.shared.calls import Call, read_call
from skipstone.foreign.shared.source import caller, place
from skipstone.record import Event, Header, MemoryTrace, Sink
from skipstone.record.writer import TraceWriter


class Recording:
    """Hears every call of a model; several runs are told apart by their first canvas."""

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], wanted: Wanted) -> None:
        """Nothing was called yet."""
        self.traces = list[MemoryTrace]()
        """One for each run, if they are kept in memory."""
        self.watch = Watch()
        self.run: ForeignRun | None = None
        self.found: Findings | None = None
        """What the sanitizer finds, if it is on."""
        self.final_BL: np.ndarray | None = None
        """How the run ended, if the user said it."""
        self.texts: Sequence[str] = ()
        self._model, self._layers, self._wanted = model, layers, wanted
        self._runs = 0
        self._calls = 0
        self._first_call = 0
        self._disagreed = set[str]()
        self._forward: Forward | None = None
        self._done: Forward | None = None
        self._canvas: Tensor | None = None
        self._moment = 0.0
        self._step_began = 0.0

    def end(self, *, by_itself: bool) -> None:
        """Close the run that is under way."""
        if self.run is None:
            return
        with torch.no_grad(), torch._C.DisableTorchFunction():
            for event in self.watch.logits.events():
                self.run.event(event)
            self._close(self.run, ended=by_itself)

    # What the hooks call.

    def before(
        self, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        """A call begins: the one before it is complete, for its commit is in the canvas now."""
        began = time.perf_counter()
        with torch.no_grad(), torch._C.DisableTorchFunction():
            frame = caller()
            call = read_call(module, args, kwargs, frame)
            located = self._locate(call)
            run = self.run
            if run is None or run.starts_anew(located.canvas_BL):
                run = self._start(located.canvas_BL)
            else:
                self._note_time(run, began)
            run.note_settings(call.settings, self._wanted.stated, frame)
            self._complete(run, located.canvas_BL, located.placed.positions_BN)
            if located.said is not None and place(frame) not in self._disagreed:
                self._disagreed.add(place(frame))
                run.event(_disagree(located, run.forwards, place(frame)))
            run.canvas_BL, self._canvas = located.canvas_BL, located.canvas
            self._calls += 1
            self._forward = Forward(
                run.count_call(call.arguments, located.placed.positions_BN.shape),
                call,
                located.placed,
                located.canvas_BL,
                tensors=self._wanted.level != "decisions",
            )
        self.watch.inside = True
        self._moment = time.perf_counter()

    def after(self, module: nn.Module, args: object, output: object) -> None:
        """A call is done."""
        began = time.perf_counter()
        self.watch.inside = False
        run, forward = self.run, self._forward
        if run is None or forward is None:
            return
        run.clock.inside += began - self._moment
        run.clock.forwards += 1
        with torch.no_grad(), torch._C.DisableTorchFunction():
            logits_BNV = forward.end(output, len(self._layers), self._wanted.mask_id)
            if logits_BNV is not None:
                self.watch.logits.add(logits_BNV)
            if forward.rows_lost:
                run.event(Event("skipped_rows_unknown", forward.rows_lost, forward=forward.number))
        self._forward, self._done = None, forward
        self.watch.expect(torch.Size(run.canvas_BL.shape))
        self._moment = time.perf_counter()

    def enter_layer(self, number: int, x: Tensor) -> None:
        """States go into a layer."""
        if self._forward is not None:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                self._forward.enter(number, x)

    def leave_layer(self, number: int, output: object) -> None:
        """A layer is done."""
        if self._forward is not None:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                self._forward.leave(number, output)

    # A run from its start to its end.

    def _locate(self, call: Call) -> Located:
        run = self.run
        if run is None:
            return locate(call, None, None, self._wanted.mask_id)
        return locate(call, run.canvas_BL, self._newest(run), self._wanted.mask_id)

    def _newest(self, run: ForeignRun) -> np.ndarray | None:
        """The newest canvas [B, L] that the loop made since the last call, if one was seen."""
        seen = self.watch.newest_canvases()
        return newest(run.canvas_BL, self._canvas, seen, self._wanted.mask_id)

    def _start(self, canvas_BL: np.ndarray) -> ForeignRun:
        """Begin a run, after closing the one before."""
        if self.run is not None:
            self._close(self.run, ended=True)
        self._runs += 1
        start = self._wanted.prompt_length
        if start is None:
            start = first_mask(canvas_BL, self._wanted.mask_id)
        self.run = ForeignRun(
            self._sink(),
            canvas_BL,
            start,
            self._wanted.mask_id,
            self._wanted.level,
            self._wanted.window,
        )
        self._first_call = self._calls
        self._disagreed.clear()
        self._step_began = time.perf_counter()
        return self.run

    def _sink(self) -> Sink:
        """Where the next run is written."""
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
                keys = kind_of_keys(tensors, done.number, seen.before == self._wanted.mask_id)
                run.begin(self._header(run, done, keys), self._wanted.stated)
            run.add(b, seen, tensors)
        self._step_began = now

    def _close(self, run: ForeignRun, *, ended: bool) -> None:
        """Write what is left of a run; its outcome only if it ended by itself."""
        self._note_time(run, time.perf_counter())
        final_BL = self._newest(run) if self.final_BL is None else self.final_BL
        self._complete(run, run.canvas_BL if final_BL is None else final_BL, None)
        for event in self._sanitized():
            run.event(event)
        if run.begun:
            self._note_cost(run)
            run.end(final_BL if ended else None, self.texts)
        else:
            run.close()
        self.run = self._forward = self.final_BL = self._canvas = None
        self.texts = ()

    def _note_time(self, run: ForeignRun, now: float) -> None:
        """Time and reads since the last call."""
        if self._done is not None:
            run.clock.between += now - self._moment
        run.clock.reads_between += self.watch.reads_between
        run.clock.reads_inside += self.watch.reads_inside
        self.watch.reads_between.clear()
        self.watch.reads_inside.clear()

    def _sanitized(self) -> Iterator[Event]:
        """What the sanitizer found in the calls of this run, once; its own count is of all runs."""
        if self.found is None:
            return
        found = self.found.found
        for (kind, source), event in tuple(found.items()):
            if event.forward < self._calls:
                del found[kind, source]
                self.found.tallies.pop(source, None)
                # The run itself says that masks are left, and that a call contradicts its ids.
                if kind != "masks_left" and source not in self._disagreed:
                    forward = max(-1, event.forward - self._first_call)
                    yield dataclasses.replace(event, forward=forward)

    def _note_cost(self, run: ForeignRun) -> None:
        if not self._wanted.sanitize:
            for event in measuring_cost(run.clock):
                run.event(event)
        if run.calls_that_may_skip or run.skipped_row_layers:
            found = skip_cost(
                self._layers, run.partial_rows, run.skipped_row_layers, run.calls_that_may_skip
            )
            if found is not None:
                run.event(dataclasses.replace(found, source=run.source))

    def _header(self, run: ForeignRun, done: Forward, keys: str) -> Header:
        name = self._wanted.function_name or run.function_name
        return header_of(
            self._model,
            self._layers[0],
            self._wanted,
            done,
            run.settings,
            function_name=name,
            keys=keys,
        )


def _disagree(located: Located, forward: int, source: str) -> Event:
    """The rows come from one place of the canvas, and the call puts them at another."""
    assert located.said is not None
    true, said = located.placed.positions_BN[0], located.said.positions_BN[0]
    return Event(
        kind="positions_disagree",
        message=(
            f"the call puts its {true.size} rows at positions {said.min()} to {said.max()} (by "
            f"{located.said.source}), but their ids are those of positions {true.min()} to "
            f"{true.max()} of the canvas"
        ),
        source=source,
        forward=forward,
        positions_a=tuple(true.tolist()),
        positions_b=tuple(said.tolist()),
    )
