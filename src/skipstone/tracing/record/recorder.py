"""The recorder: an observer that writes down what it sees as plain data.

It makes the only copies from device to host: one for the decisions of a step, and one for each
tensor that its level asks for.

Shape letters: N packed rows, D width, V vocabulary, W width of a tensor.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import RequestStep
from skipstone.checks import checked
from skipstone.engine.observe import StepView, Taps
from skipstone.engine.result import Result
from skipstone.engine.settings import Settings
from skipstone.models.load import Model
from skipstone.reach import Reach
from skipstone.record import (
    SCORE_OFFSET,
    Header,
    MemoryTrace,
    Outcome,
    RunRecord,
    Sink,
    Tap,
    TensorKey,
    TraceWriter,
)
from skipstone.rows import Rows
from skipstone.tracing.record.decisions import Decisions

Level = Literal["decisions", "sketches", "window", "full"]

Window = tuple[tuple[int, int], tuple[int, int]]
"""First and last (block, step) whose tensors are kept, both included."""

Rowed = dict[TensorKey, tuple[np.ndarray, np.ndarray]]
"""Positions and values by tensor."""


class Recorder:
    """Writes down every step of a run; ``records`` has one record for each prompt.

    Levels: ``decisions`` (canvas, candidates, similarities, ages), ``sketches`` (and a projection
    of every hidden state), ``window`` (decisions, and every tensor of some steps), ``full`` (every
    tensor of every step: states, keys, values, logits).

    Example:
        ``recorder = Recorder(); engine.generate(prompt, observer=recorder); recorder.records[0]``
    """

    def __init__(
        self, level: Level = "decisions", *, sink: Sink | None = None, window: Window | None = None
    ) -> None:
        """Record in memory, or into ``sink``; a window belongs to the level of that name."""
        checked("level", level, Level)
        self.level: Level = level
        self._memory = MemoryTrace()
        self._sink: Sink = self._memory if sink is None else sink
        self._window = window
        self._headers = list[Header]()
        self._last = 0.0

    def __repr__(self) -> str:
        return f"<Recorder level {self.level}: {self._sink!r}>"

    @property
    def taps(self) -> Taps:
        """Every state and all logits, beyond decisions."""
        if self.level == "decisions":
            return Taps()
        # The number of layers is not known yet: asking for more than there are does no harm.
        return Taps(states=tuple(range(1025)), logits=self.level != "sketches")

    @property
    def trace(self) -> MemoryTrace:
        """The run as a trace, if it was recorded in memory."""
        return self._memory

    @property
    def path(self) -> Path | None:
        """Folder of the trace, if it is recorded on disk."""
        return self._sink.path if isinstance(self._sink, TraceWriter) else None

    @property
    def records(self) -> list[RunRecord]:
        """One record for each prompt, if it was recorded in memory."""
        return self._memory.records

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Note what is run; forgets the run before."""
        self._headers = [
            header_of(model, settings, prompt, sample, len(prompts))
            for sample, prompt in enumerate(prompts)
        ]
        self._sink.begin(self._headers, self.level)
        self._last = time.perf_counter()

    def on_step(self, view: StepView) -> None:
        """Copy one step to the host, for each request that took part."""
        now = time.perf_counter()
        decisions = Decisions.copy(view)
        records = decisions.records(now - self._last)
        if any(self._wanted(at) for at in view.context.requests):
            # At once: tensors that wait for a slow disk would fill the memory.
            for at, (sample, record) in zip(view.context.requests, records, strict=True):
                tensors = self._tensors(view, at) if self._wanted(at) else {}
                self._sink.step(sample, record, tensors)
        else:
            self._sink.later((sample, record, {}) for sample, record in records)
        self._last = now

    def on_end(self, results: Sequence[Result]) -> None:
        """Close the records."""
        self._sink.end([outcome(result) for result in results])

    def _wanted(self, at: RequestStep) -> bool:
        """Whether the tensors of this step are kept."""
        if self.level == "window" and self._window is not None:
            first, last = self._window
            return first <= (at.block.index, at.step) <= last
        return self.level != "decisions"

    def _tensors(self, view: StepView, at: RequestStep) -> Rowed:
        forward, request = at.forward, at.slot
        states = {
            TensorKey(forward, Tap.STATE, layer): (tapped.rows, tapped.x_ND)
            for layer, tapped in view.states.items()
        }
        if self.level == "sketches":
            from skipstone.record.sketch import pack, sketch

            return {
                TensorKey(forward, Tap.SKETCH, key.layer): (positions, pack(sketch(values)))
                for key, (positions, values) in _of(request, states).items()
            }
        if view.logits_NV is not None and view.scored is not None:
            last = self._headers[at.sample].num_layers
            states[TensorKey(forward, Tap.LOGITS, last)] = (view.scored, view.logits_NV)
        return _of(request, states) | _stored(view, at)


def _of(request: int, tapped: dict[TensorKey, tuple[Rows, Tensor]]) -> Rowed:
    """The rows of one request, on the host."""
    taken = Rowed()
    for key, (rows, values_NW) in tapped.items():
        mine = rows.request == request
        index = torch.from_numpy(np.flatnonzero(mine)).to(values_NW.device)
        values = values_NW if mine.all() else values_NW[index]
        taken[key] = (rows.position[mine].astype(np.int32), to_numpy(values))
    return taken


def _stored(view: StepView, at: RequestStep) -> Rowed:
    """Keys and values of every position that the block of a request sees, layer by layer.

    And which of them are visible, if a cache policy has hidden any in this batch.
    """
    length = at.reach.end(at.stop - 1, view.context.length_at(at))
    positions, taken = np.arange(length, dtype=np.int32), Rowed()
    for tap, store in ((Tap.KEY, view.store.keys), (Tap.VALUE, view.store.values)):
        for layer in range(store.shape[0]):
            values = to_numpy(store[layer, at.base : at.base + length].flatten(1))
            taken[TensorKey(at.forward, tap, layer + 1)] = (positions, values)
    if view.visible_YBL is not None:
        for layer, visible_L in enumerate(view.visible_YBL[:, at.slot, :length].float(), 1):
            values = to_numpy(visible_L[:, None])
            taken[TensorKey(at.forward, Tap.VISIBLE, layer)] = (positions, values)
    return taken


def to_numpy(values: Tensor) -> np.ndarray:
    """A copy on the host, bit for bit; bfloat16 stays bfloat16."""
    host = values.detach().to("cpu", copy=True).contiguous()
    if host.dtype == torch.bfloat16:
        return host.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return host.numpy()


def header_of(
    model: Model, settings: Settings, prompt: Sequence[int], sample: int, batch: int
) -> Header:
    """What is run: one prompt, as plain data.

    Args:
        model: that decodes it.
        settings: how.
        prompt: its ids.
        sample: which of the prompts of its call it is.
        batch: how many these are.
    """
    from skipstone.version import __version__

    config = model.config
    return Header(
        model=model.name,
        num_layers=config.num_layers,
        width=config.width,
        vocab_size=config.vocab_size,
        mask_id=config.mask_id,
        eos_id=config.eos_id,
        dtype=str(model.network.dtype).removeprefix("torch."),
        device=str(model.network.device),
        settings=settings.as_text(),
        prompt_ids=tuple(prompt),
        gen_length=settings.gen_length,
        versions={
            "skipstone": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        weights=model.fingerprint,
        batch=batch,
        sample=sample,
        environment=environment() | _scored(config.reach),
    )


def _scored(reach: Reach) -> dict[str, str]:
    """Which row scores a position, if it is not its own."""
    return {} if reach.score_offset == 0 else {SCORE_OFFSET: str(reach.score_offset)}


def environment() -> dict[str, str]:
    """What may change the last bit of a run on this machine."""
    backends = torch.backends.cuda
    return {
        "threads": str(torch.get_num_threads()),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()).lower(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "flash_sdp": str(backends.flash_sdp_enabled()).lower(),
        "math_sdp": str(backends.math_sdp_enabled()).lower(),
        "machine": f"{platform.machine()} {os.cpu_count()} cores",
    }


def outcome(result: Result) -> Outcome:
    """How a run ended, as plain data."""
    return Outcome(
        text=result.text,
        tokens=result.tokens,
        masks_left=result.masks_left,
        num_forwards=result.stats.num_forwards,
        skip_share=result.stats.skip_share,
        seconds=result.stats.seconds,
    )
