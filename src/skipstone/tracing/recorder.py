"""The recorder: an observer that writes down what it sees as plain data.

It makes the only copies from device to host: one for the decisions of a step, and one for each
tensor that its level asks for.

Shape letters: B requests, L canvas length, G generation length, N packed rows, V vocabulary,
U key/value heads, E head width, S compared layers, K stacked columns.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import Status
from skipstone.checks import check_value
from skipstone.engine.observe import StepView, Taps
from skipstone.engine.result import Result
from skipstone.engine.settings import Settings
from skipstone.models.load import Model
from skipstone.record import (
    Candidates,
    Header,
    Judgements,
    MemoryTrace,
    Outcome,
    RunRecord,
    Sink,
    StepRecord,
    Tap,
    TensorKey,
)
from skipstone.rows import Rows
from skipstone.skip import SkipScores

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
        check_value("level", level, Level)
        self.level: Level = level
        self._memory = MemoryTrace()
        self._sink: Sink = self._memory if sink is None else sink
        self._window = window
        self._headers = list[Header]()
        self._last = 0.0

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
    def records(self) -> list[RunRecord]:
        """One record for each prompt, if it was recorded in memory."""
        return self._memory.records

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Note what is run; forgets the run before."""
        self._headers = [
            _header(model, settings, prompt, sample, len(prompts))
            for sample, prompt in enumerate(prompts)
        ]
        self._sink.begin(self._headers, self.level)
        self._last = time.perf_counter()

    def on_step(self, view: StepView) -> None:
        """Copy one step to the host, for each request that took part."""
        now = time.perf_counter()
        board = _HostBoard.read(view)
        for request in view.rows.requests:
            record = _step(view, board, request, now - self._last)
            tensors = self._tensors(view, request) if self._wanted(view) else {}
            self._sink.step(request, record, tensors)
        self._last = now

    def on_end(self, results: Sequence[Result]) -> None:
        """Close the records."""
        self._sink.end([outcome(result) for result in results])

    def _wanted(self, view: StepView) -> bool:
        """Whether the tensors of this step are kept."""
        if self.level == "window" and self._window is not None:
            first, last = self._window
            return first <= (view.moment.block.index, view.moment.step) <= last
        return self.level != "decisions"

    def _tensors(self, view: StepView, request: int) -> Rowed:
        forward = view.moment.forward
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
            last = self._headers[request].num_layers
            states[TensorKey(forward, Tap.LOGITS, last)] = (view.scored, view.logits_NV)
        return _of(request, states) | _stored(view, request)


def _of(request: int, tapped: dict[TensorKey, tuple[Rows, Tensor]]) -> Rowed:
    """The rows of one request, on the host."""
    taken = Rowed()
    for key, (rows, values_NW) in tapped.items():
        mine = rows.request == request
        index = torch.from_numpy(np.flatnonzero(mine)).to(values_NW.device)
        values = values_NW if mine.all() else values_NW[index]
        taken[key] = (rows.position[mine].astype(np.int32), to_numpy(values))
    return taken


def _stored(view: StepView, request: int) -> Rowed:
    """Keys and values of every position of one request, layer by layer."""
    length = view.moment.canvas.length_of(request)
    positions, taken = np.arange(length, dtype=np.int32), Rowed()
    for tap, store in ((Tap.KEY, view.store.keys), (Tap.VALUE, view.store.values)):
        for layer in range(store.shape[0]):
            values = to_numpy(store[layer, request, :length].flatten(1))
            taken[TensorKey(view.moment.forward, tap, layer + 1)] = (positions, values)
    return taken


def to_numpy(values: Tensor) -> np.ndarray:
    """A copy on the host, bit for bit; bfloat16 stays bfloat16."""
    host = values.detach().to("cpu", copy=True).contiguous()
    if host.dtype == torch.bfloat16:
        return host.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return host.numpy()


@dataclass(frozen=True, eq=False)
class _HostBoard:
    """Everything that decides, of all requests, after one read of the device."""

    counts_KBG: np.ndarray
    """int64: token, runner-up, scored at, committed."""
    chances_KBG: np.ndarray
    """float64: confidence, that of the runner-up, that which was allowed to count."""
    at_2BL: np.ndarray
    """int64: forward in which a position last entered layer 1, and went through every layer."""

    @classmethod
    def read(cls, view: StepView) -> _HostBoard:
        """Pack all columns into one integer tensor; floats travel as their bits."""
        board = view.board
        columns = [
            board.token_BG,
            board.runner_up_BG,
            board.scored_at_BG,
            view.commit_BG.long(),
            board.confidence_BG.view(torch.int64),
            board.runner_up_confidence_BG.view(torch.int64),
            view.allowed_BG.view(torch.int64),
        ]
        ages = (view.entered_at_BL, view.finished_at_BL)
        packed = torch.cat([t.reshape(-1) for t in (*columns, *ages)]).cpu().numpy()
        batch, length = view.entered_at_BL.shape
        split = packed.size - 2 * batch * length
        columns_KBG = packed[:split].reshape(len(columns), batch, -1)
        return cls(
            columns_KBG[:4],
            columns_KBG[4:].view(np.float64),
            packed[split:].reshape(2, batch, length),
        )

    def ranks(self, request: int) -> np.ndarray:
        """int64 [G]: by the confidence that was allowed to count; ties: lowest position first."""
        order = np.argsort(-self.chances_KBG[2, request], kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(order.size)
        return rank


def _step(view: StepView, board: _HostBoard, request: int, seconds: float) -> StepRecord:
    moment = view.moment
    start = moment.canvas.prompt_lengths[request]
    length = moment.canvas.length_of(request)
    rows = _positions(view.rows, request)
    finished = rows[:0] if view.finished is None else _positions(view.finished, request)
    return StepRecord(
        forward=moment.forward,
        block=moment.block.index,
        step=moment.step,
        recovery=view.recovery,
        refresh=view.rows.refresh,
        block_start=start + moment.block.start,
        block_stop=start + moment.block.stop,
        ids_before=view.before.ids_BG[request].astype(np.int32),
        ids_after=view.after.ids_BG[request].astype(np.int32),
        status_before=view.before.status_BG[request].astype(np.uint8),
        status_after=view.after.status_BG[request].astype(np.uint8),
        rows=rows,
        finished=finished,
        entered_age=_ages(board.at_2BL[0, request, :length], moment.forward),
        finished_age=_ages(board.at_2BL[1, request, :length], moment.forward),
        candidates=_candidates(view, board, request),
        judgements=_judgements(view.skip, request),
        skip_layer=0 if finished.size == rows.size else _skip_layer(view),
        seconds=seconds,
    )


def _positions(rows: Rows, request: int) -> np.ndarray:
    return rows.position[rows.request == request].astype(np.int32)


def _ages(at_L: np.ndarray, forward: int) -> np.ndarray:
    return np.where(at_L < 0, -1, forward - at_L).astype(np.int32)


def _skip_layer(view: StepView) -> int:
    """The first layer that the skipped rows did not compute: one after the last compared."""
    return 0 if view.skip is None else view.skip.similarity_SN.shape[0] + 1


def _candidates(view: StepView, board: _HostBoard, request: int) -> Candidates:
    """The masks that have scores in this block or left of it, in order of position."""
    moment = view.moment
    known = view.before.status_BG[request] == Status.MASK
    known &= board.counts_KBG[2, request] >= 0
    known[moment.block.stop :] = False
    offset = np.flatnonzero(known)
    counts_KC = board.counts_KBG[:, request, offset].astype(np.int32)
    chances_KC = board.chances_KBG[:, request, offset]
    rank = board.ranks(request)
    # On the host: the rule's arithmetic on a few numbers is not worth a kernel.
    bound_1G = view.unmask.bound(torch.from_numpy(rank)[None])
    return Candidates(
        position=(moment.canvas.prompt_lengths[request] + offset).astype(np.int32),
        token=counts_KC[0],
        confidence=chances_KC[0],
        runner_up=counts_KC[1],
        runner_up_confidence=chances_KC[1],
        rank=rank[offset].astype(np.int32),
        bound=np.full(offset.size, np.nan) if bound_1G is None else bound_1G[0].numpy()[offset],
        age=moment.forward - counts_KC[2],
        eligible=np.isfinite(chances_KC[2]),
        committed=counts_KC[3].astype(bool),
    )


def _judgements(scores: SkipScores | None, request: int) -> Judgements | None:
    if scores is None:
        return None
    mine = scores.rows.request == request
    counts = (scores.reference_position_N, scores.reference_forward_N)
    flags_2N = torch.stack([scores.stable_N, scores.forced_N]).cpu().numpy()
    at_2N = torch.stack(counts).cpu().numpy().astype(np.int32)
    floats = torch.cat([scores.similarity_SN, scores.smallest_N[None], scores.mean_N[None]])
    floats_KN = floats.cpu().numpy()
    return Judgements(
        position=scores.rows.position[mine].astype(np.int32),
        similarity=np.ascontiguousarray(floats_KN[:-2, mine].T),
        smallest=floats_KN[-2, mine],
        mean=floats_KN[-1, mine],
        stable=flags_2N[0, mine],
        forced=flags_2N[1, mine],
        reference_position=at_2N[0, mine],
        reference_forward=at_2N[1, mine],
    )


def _header(
    model: Model, settings: Settings, prompt: Sequence[int], sample: int, batch: int
) -> Header:
    from skipstone import __version__

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
        environment=environment(),
    )


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
