"""Recording the run of a foreign model and a foreign loop, from outside.

    with skipstone.attach(model) as recorder:
        output = their_generate(model, prompt)
    recorder.records[0]

Hooks on the model and its layers see every call; a torch function mode sees what the loop does in
between. Nothing is changed: the run gives the same bits as without.

Shape letters: B batch, N rows of a call, L canvas length.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from skipstone.checks import checked
from skipstone.errors import ConfigError
from skipstone.foreign.attach.cost import measuring_cost, skip_cost
from skipstone.foreign.attach.forward import Forward
from skipstone.foreign.attach.keys import kind_of_keys
from skipstone.foreign.attach.layers import find_layers
from skipstone.foreign.attach.placed import Located, locate
from skipstone.foreign.attach.run import ForeignRun
from skipstone.foreign.attach.watch import Watch
from skipstone.foreign.positions.sanitize import Report
from skipstone.foreign.positions.sanitize import sanitize as follow_positions
from skipstone.foreign.shared.calls import Call, as_text, read_call
from skipstone.foreign.shared.source import caller, place
from skipstone.record import Event, Header, MemoryTrace, RunRecord, Sink
from skipstone.record.writer import TraceWriter
from skipstone.tracing.recorder import Window, environment

AttachLevel = Literal["decisions", "window", "full"]


def attach(
    model: nn.Module,
    *,
    mask_id: int | None = None,
    eos_id: int | None = None,
    layers: str | None = None,
    level: AttachLevel = "decisions",
    window: Window | None = None,
    path: str | Path | None = None,
    stated: Mapping[str, object] | None = None,
    prompt_length: int | None = None,
    function_name: str = "",
    sanitize: bool = False,
) -> Attached:
    """Record what a loop that is not ours does with ``model`` inside a ``with`` block.

    Several runs in one block are told apart by their first canvas; ``records`` is of the last one,
    ``traces`` has all.

    Args:
        model: called with token ids [B, N]; returns logits, alone or as ``.logits``.
        mask_id: the mask's id; None takes ``model.config.mask_token_id``.
        eos_id: None takes ``model.config.eos_token_id``, if there is one.
        layers: dotted name of the list of layers; None finds it.
        level: ``decisions``; ``window`` and ``full`` add states, keys, values and logits.
        window: first and last (block, step) of the level ``window``.
        path: folder of the trace; None keeps it in memory. A second run goes to ``NAME-2``.
        stated: settings that were meant, to be held against those that arrive. ``block_length``
            also says how to cut blocks where the calls do not tell.
        prompt_length: where new tokens begin; None takes the first mask.
        function_name: name of the loop; empty takes the function that calls the model.
        sanitize: also follow the position of every row, as ``skipstone.sanitize`` does, and
            write what is found into the trace. It is slow, so nothing is said about time.

    Raises:
        ConfigError: the mask id or the layers are not known, or an argument is wrong.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model is a {type(model).__name__}; attach needs the torch.nn.Module that the loop "
            f"calls. Runs of skipstone.Engine are recorded by skipstone.tracing.Recorder"
        )
    checked("level", level, AttachLevel)
    if (level == "window") != (window is not None):
        raise ConfigError(
            f"level is {level!r} and window is {window!r}; a window belongs to level='window'"
        )
    known = _special_id(model, "mask_token_id", mask_id)
    if known is None:
        raise ConfigError(
            f"{type(model).__name__} does not say which id its mask has (config.mask_token_id); "
            f"pass mask_id=..."
        )
    eos = _special_id(model, "eos_token_id", eos_id)
    return Attached(
        model,
        find_layers(model, layers),
        mask_id=known,
        eos_id=-1 if eos is None else eos,
        level=level,
        window=window,
        path=None if path is None else Path(path),
        stated={name: as_text(value) for name, value in (stated or {}).items()},
        prompt_length=prompt_length,
        function_name=function_name,
        sanitize=sanitize,
    )


class Attached:
    """The recorder that ``attach`` gives; fills as the loop goes."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[nn.Module],
        *,
        mask_id: int,
        eos_id: int,
        level: AttachLevel,
        window: Window | None,
        path: Path | None,
        stated: dict[str, str],
        prompt_length: int | None,
        function_name: str,
        sanitize: bool,
    ) -> None:
        """Attach nothing yet; see ``attach``."""
        self.traces = list[MemoryTrace]()
        """One for each run, if they are kept in memory."""
        self._model, self._layers = model, layers
        self._mask_id, self._eos_id = mask_id, eos_id
        self._level: AttachLevel = level
        self._window, self._path = window, path
        self._stated, self._prompt_length = stated, prompt_length
        self._function_name = function_name
        self._sanitize = sanitize
        self._found: Report | None = None
        self._watch = Watch()
        self._on = ExitStack()
        self._run: ForeignRun | None = None
        self._runs = 0
        self._calls = 0
        self._first_call = 0
        self._disagreed = set[str]()
        self._forward: Forward | None = None
        self._done: Forward | None = None
        self._final_BL: np.ndarray | None = None
        self._texts: Sequence[str] = ()
        self._canvas: Tensor | None = None
        self._moment = 0.0
        self._step_began = 0.0

    @property
    def trace(self) -> MemoryTrace:
        """The last run, if it is kept in memory; empty before the first step is done."""
        return self.traces[-1] if self.traces else MemoryTrace()

    @property
    def records(self) -> list[RunRecord]:
        """One record for each prompt of the last run, if it is kept in memory."""
        return self.trace.records

    def finish(self, final_ids: Tensor, texts: Sequence[str] = ()) -> None:
        """Say how the run ended, where the loop's own tensors do not show it.

        Args:
            final_ids: [B, L] or [L], the whole canvas after the last commit.
            texts: the answers as text, one for each prompt.

        Raises:
            ConfigError: the canvas is not as long as that of the calls.
        """
        if self._run is None:
            raise ConfigError("finish was called before the model was; there is no run to finish")
        final_BL = np.atleast_2d(_to_host(final_ids))
        if final_BL.shape != self._run.canvas_BL.shape:
            raise ConfigError(
                f"finish was given ids of shape {final_BL.shape}, the canvas of the run is "
                f"{self._run.canvas_BL.shape}; give prompt and new tokens together"
            )
        self._final_BL, self._texts = final_BL, texts

    def __enter__(self) -> Self:
        """Put the hooks on."""
        if self._sanitize:
            # First, so that the watch does not see what the sanitizer computes for itself.
            sanitizer = follow_positions(self._model, mask_id=self._mask_id)
            self._found = self._on.enter_context(sanitizer)
        handles = [
            self._model.register_forward_pre_hook(self._before, with_kwargs=True),
            self._model.register_forward_hook(self._after),
        ]
        for number, layer in enumerate(self._layers, start=1):
            handles += _hook_layer(layer, number, self._enter_layer, self._leave_layer)
        for handle in handles:
            self._on.callback(handle.remove)
        self._on.enter_context(self._watch)
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        """Take the hooks off; the run ended by itself unless an exception is on its way."""
        self._on.close()
        if self._run is not None:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                for event in self._watch.logits.events():
                    self._run.event(event)
                self._close(self._run, ended=kind is None)

    # What the hooks call.

    def _before(
        self, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        """A call begins: the one before it is complete, for its commit is in the canvas now."""
        began = time.perf_counter()
        with torch.no_grad(), torch._C.DisableTorchFunction():
            frame = caller()
            call = read_call(module, args, kwargs, frame)
            located = self._locate(call)
            run = self._run
            if run is None or run.starts_anew(located.canvas_BL):
                run = self._start(located.canvas_BL)
            else:
                self._note_time(run, began)
            run.note_settings(call.settings, self._stated, frame)
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
                tensors=self._level != "decisions",
            )
        self._watch.inside = True
        self._moment = time.perf_counter()

    def _after(self, module: nn.Module, args: object, output: object) -> None:
        """A call is done."""
        began = time.perf_counter()
        self._watch.inside = False
        run, forward = self._run, self._forward
        if run is None or forward is None:
            return
        run.clock.inside += began - self._moment
        run.clock.forwards += 1
        with torch.no_grad(), torch._C.DisableTorchFunction():
            logits_BNV = forward.end(output, len(self._layers), self._mask_id)
            if logits_BNV is not None:
                self._watch.logits.add(logits_BNV)
            if forward.rows_lost:
                run.event(Event("skipped_rows_unknown", forward.rows_lost, forward=forward.number))
        self._forward, self._done = None, forward
        self._watch.expect(torch.Size(run.canvas_BL.shape))
        self._moment = time.perf_counter()

    def _enter_layer(self, number: int, x: Tensor) -> None:
        if self._forward is not None:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                self._forward.enter(number, x)

    def _leave_layer(self, number: int, output: object) -> None:
        if self._forward is not None:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                self._forward.leave(number, output)

    # A run from its start to its end.

    def _locate(self, call: Call) -> Located:
        run = self._run
        if run is None:
            return locate(call, None, None, self._mask_id)
        return locate(call, run.canvas_BL, self._newest(run), self._mask_id)

    def _newest(self, run: ForeignRun) -> np.ndarray | None:
        """The newest canvas [B, L] that the loop made since the last call; None if none was seen.

        It goes on from the canvas of that call: what was no mask there is the same here.
        """
        fixed_BL = run.canvas_BL != self._mask_id
        for canvas in self._watch.newest_canvases():
            ids_BL = _to_host(canvas)
            if np.array_equal(ids_BL[fixed_BL], run.canvas_BL[fixed_BL]):
                return ids_BL
        held_BL = run.canvas_BL if self._canvas is None else _to_host(self._canvas)
        complete = not (held_BL == self._mask_id).any()
        return held_BL if complete or not np.array_equal(held_BL, run.canvas_BL) else None

    def _start(self, canvas_BL: np.ndarray) -> ForeignRun:
        """Begin a run, after closing the one before."""
        if self._run is not None:
            self._close(self._run, ended=True)
        self._runs += 1
        start = self._prompt_length
        if start is None:
            masked_BL = canvas_BL == self._mask_id
            start = int(np.where(masked_BL.any(1), masked_BL.argmax(1), canvas_BL.shape[1]).min())
        self._run = ForeignRun(
            self._sink(), canvas_BL, start, self._mask_id, self._level, self._window
        )
        self._first_call = self._calls
        self._disagreed.clear()
        self._step_began = time.perf_counter()
        return self._run

    def _sink(self) -> Sink:
        """Where the next run is written."""
        if self._path is None:
            self.traces.append(MemoryTrace())
            return self.traces[-1]
        path = self._path
        name = path.name if self._runs == 1 else f"{path.stem}-{self._runs}{path.suffix}"
        return TraceWriter(path.with_name(name))

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
            seen, tensors = done.seen(b, after, rows, now - self._step_began, self._mask_id)
            if not run.begun:
                keys = kind_of_keys(tensors, done.number, seen.before == self._mask_id)
                run.begin(self._header(run, done, keys), self._stated)
            run.add(b, seen, tensors)
        self._step_began = now

    def _close(self, run: ForeignRun, *, ended: bool) -> None:
        """Write what is left of a run; its outcome only if it ended by itself."""
        self._note_time(run, time.perf_counter())
        final_BL = self._newest(run) if self._final_BL is None else self._final_BL
        self._complete(run, run.canvas_BL if final_BL is None else final_BL, None)
        for event in self._sanitized():
            run.event(event)
        if run.begun:
            self._note_cost(run)
            run.end(final_BL if ended else None, self._texts)
        else:
            run.close()
        self._run = self._forward = self._final_BL = self._canvas = None
        self._texts = ()

    def _note_time(self, run: ForeignRun, now: float) -> None:
        """Time and reads since the last call."""
        if self._done is not None:
            run.clock.between += now - self._moment
        run.clock.reads_between += self._watch.reads_between
        run.clock.reads_inside += self._watch.reads_inside
        self._watch.reads_between.clear()
        self._watch.reads_inside.clear()

    def _sanitized(self) -> Iterator[Event]:
        """What the sanitizer found in the calls of this run, once; its own count is of all runs."""
        if self._found is None:
            return
        found = self._found.findings.found
        for (kind, source), event in tuple(found.items()):
            if event.forward < self._calls:
                del found[kind, source]
                self._found.findings.tallies.pop(source, None)
                # The run itself says that masks are left, and that a call contradicts its ids.
                if kind != "masks_left" and source not in self._disagreed:
                    forward = max(-1, event.forward - self._first_call)
                    yield dataclasses.replace(event, forward=forward)

    def _note_cost(self, run: ForeignRun) -> None:
        if not self._sanitize:
            for event in measuring_cost(run.clock):
                run.event(event)
        if run.calls_that_may_skip or run.skipped_row_layers:
            found = skip_cost(
                self._layers, run.partial_rows, run.skipped_row_layers, run.calls_that_may_skip
            )
            if found is not None:
                run.event(dataclasses.replace(found, source=run.source))

    def _header(self, run: ForeignRun, done: Forward, keys: str) -> Header:
        """What is the same for all samples; the run fills in the rest."""
        from skipstone.version import __version__

        device = next(self._layers[0].parameters()).device
        return Header(
            model=type(self._model).__name__,
            num_layers=len(self._layers),
            width=done.width,
            vocab_size=done.vocab_size,
            mask_id=self._mask_id,
            eos_id=self._eos_id,
            dtype=str(done.dtype).removeprefix("torch."),
            device=str(device),
            settings=run.settings,
            prompt_ids=(),
            gen_length=0,
            versions={
                "skipstone": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            source=self._function_name or run.function_name,
            environment=environment() | {"keys": keys},
            stated=self._stated,
        )


def _special_id(model: nn.Module, name: str, given: int | None) -> int | None:
    """An id that was given, or that the model's configuration names."""
    if given is not None:
        return given
    found = getattr(getattr(model, "config", None), name, None)
    return found if isinstance(found, int) else None


def _hook_layer(
    layer: nn.Module,
    number: int,
    enter: Callable[[int, Tensor], None],
    leave: Callable[[int, object], None],
) -> list[RemovableHandle]:
    """Show what goes into a layer and what comes out."""

    def before(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        states = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        if states is not None:
            enter(number, states)

    def after(module: nn.Module, args: object, output: object) -> None:
        leave(number, output)

    return [
        layer.register_forward_pre_hook(before, with_kwargs=True),
        layer.register_forward_hook(after),
    ]


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


def _to_host(ids: Tensor) -> np.ndarray:
    return ids.detach().to("cpu", torch.int64, copy=True).numpy()
