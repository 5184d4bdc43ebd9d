"""The decisions of a run as its loop made them: masks, what was written, and what the scores said.

Shape letters: C masks of the canvas before a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from skipstone.diagnosis.dtypes import rounded
from skipstone.diagnosis.loop.rule import Draw, SoftmaxAxis
from skipstone.diagnosis.loop.sheet import (
    Proposals,
    Sheet,
    from_candidates,
    from_logits,
    guided,
    matched,
    propose,
)
from skipstone.record import RANDOM_CALLS, RunRecord, StepRecord, Tap, TensorKey, TensorRows, Trace

_MASK, _COMMITTED, _FILLED = 2, 3, 4

# Logits of a run beyond this many bytes are not all read: every second step, every third, ...
_MOST_BYTES = 16 << 30


@dataclass(frozen=True, eq=False)
class Decision:
    """One step, ready to be decided again."""

    step: StepRecord
    position_C: np.ndarray
    """int32: masks of the canvas, and of no others; ascending."""
    written_C: np.ndarray
    """int64: the token that the step wrote there; -1 where it left the mask."""
    open_C: np.ndarray
    """bool: nothing that is known forbids to commit it."""
    at: int
    """Which step of its block it is."""
    before: StepRecord | None = None
    """The step before it, if there is one."""

    @property
    def committed(self) -> np.ndarray:
        """Bool [C]."""
        return self.written_C >= 0

    def earlier(self, in_block: bool) -> StepRecord:
        """The step before, of the block if that is asked; the step itself if it is the first."""
        before = self.before
        if before is None or (in_block and before.block != self.step.block):
            return self.step
        return before

    @classmethod
    def of(cls, step: StepRecord, idle: int = 0, before: StepRecord | None = None) -> Decision:
        """Read a step: what was filled up after an EOS was not decided.

        Args:
            step: as it was recorded.
            before: the step before it, if there is one.
            idle: steps of its block that do not count, as a loop had nothing left to do before it.
        """
        start = step.prompt_length
        masks = (step.status_before == _MASK) & (step.status_after != _FILLED)
        offset = np.flatnonzero(masks)
        done = step.status_after[offset] == _COMMITTED
        position_C = (start + offset).astype(np.int32)
        barred = step.candidates.position[~step.candidates.eligible]
        return cls(
            step,
            position_C,
            np.where(done, step.ids_after[offset], -1).astype(np.int64),
            ~np.isin(position_C, barred) | done,
            step.step - idle,
            before,
        )


@dataclass(eq=False, repr=False)
class Evidence:
    """All decisions of one sample, with their scores; these are read when they are asked for."""

    trace: Trace
    sample: int
    decisions: Sequence[Decision]
    watched: tuple[int, ...]
    """Ids that rules may leave out, raise or hold back."""
    logits: bool
    """Whether the logits of its steps were recorded; else there are only the candidates."""
    complete: bool
    """Whether they are the logits of all rows of each call."""
    steps: int
    """Of the run; more than the decisions if not all were read."""
    guided: bool
    """Whether the logits with a hidden prompt were recorded, too, in every step."""
    _sheets: dict[tuple[int, Draw, str], Sheet] = field(default_factory=dict)
    _proposals: dict[tuple[int, Draw, str], Proposals] = field(default_factory=dict)
    _drawn: dict[Draw, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls, trace: Trace, sample: int, watched: tuple[int, ...], wanted: Sequence[int] = ()
    ) -> Evidence:
        """Gather the decisions of a sample.

        Args:
            trace: of the run.
            sample: which of its requests.
            watched: ids that rules may leave out, raise or hold back.
            wanted: forwards that are read in any case.
        """
        record = trace.records[sample]
        # A step that is done again over all rows was not decided by the rule of the loop.
        steps = [s for s in record.steps if s.masks_before or s.committed]
        if record.outcome is None and steps and not steps[-1].committed:
            # The canvas after the last call was not seen, nor what was committed then.
            steps.pop()
        idle = _idle(steps)
        steps = [s for s in steps if s.step >= idle.get(s.block, 0)]
        last = record.header.num_layers
        sizes = {s.forward: _size(trace, sample, s, last) for s in steps[:1]}
        logits = any(k.tap is Tap.LOGITS for k in trace.keys(sample))
        each = max(sizes.values(), default=0)
        stride = 1 + each * len(steps) // _MOST_BYTES
        steps_read = [s for i, s in enumerate(steps) if i % stride == 0 or s.forward in wanted]
        if logits:
            recorded = {k.forward for k in trace.keys(sample) if k.tap is Tap.LOGITS}
            steps_read = [s for s in steps_read if s.forward in recorded]
        hidden = {k.forward for k in trace.keys(sample) if k.tap is Tap.UNGUIDED}
        before = {s.forward: b for b, s in pairwise(record.steps)}
        return cls(
            trace,
            sample,
            [Decision.of(s, idle.get(s.block, 0), before.get(s.forward)) for s in steps_read],
            watched,
            logits=logits,
            complete=logits and _complete(trace, sample, steps_read, last),
            steps=len(steps),
            guided=logits and bool(hidden) and hidden >= {s.forward for s in steps_read},
        )

    def __repr__(self) -> str:
        seen = "logits" if self.logits else "candidates"
        return f"<Evidence of {len(self.decisions)} decisions, with their {seen}>"

    @property
    def record(self) -> RunRecord:
        """Of the sample."""
        return self.trace.records[self.sample]

    def may_hold(self, dtype: str) -> bool:
        """Whether confidences may have been of a dtype: those that our engine records were not all.

        Of foreign code they are not seen.
        """
        record = self.record
        if record.header.source != "skipstone":
            return True
        seen = (s.candidates.confidence for s in record.steps)
        return all(np.array_equal(rounded(c, dtype), c, equal_nan=True) for c in seen)

    @property
    def drew_nothing(self) -> bool:
        """Whether nothing was drawn for the first decision, as far as that was seen.

        The generators stand as before it, and no function that draws was called; a record may say
        nothing of the one or the other.
        """
        names = ("random before", "random after")
        before, after = (self.record.header.environment.get(name, "") for name in names)
        # A call that only stores a prompt is followed by no decision.
        still = bool(before) and before == after and bool(self.record.steps[0].committed)
        return still and self.record.header.environment.get(RANDOM_CALLS, "none") == "none"

    @property
    def drew_over_ids(self) -> bool:
        """Whether the first decision drew random numbers over the ids of the vocabulary."""
        calls = self.record.header.environment.get(RANDOM_CALLS, "").split()
        size = str(self.record.header.vocab_size)
        return any(call.rpartition(":")[2].split("x")[-1] == size for call in calls)

    @cached_property
    def dtype(self) -> str:
        """Of the recorded logits."""
        tensor = self._tensor(self.decisions[0].step) if self.logits and self.decisions else None
        return "float64" if tensor is None else tensor.values.dtype.name

    def proposals(self, number: int, draw: Draw, dtype: str = "float64") -> Proposals:
        """What a draw proposes in one decision.

        Args:
            number: of the decision.
            draw: which token a position proposes.
            dtype: that the logits are held in before the softmax.
        """
        held = dtype if dtype in ("float16", "bfloat16") and dtype != self.dtype else "float64"
        key = (number, draw, held)
        if key not in self._proposals:
            sheet = self.sheet(number, draw, held)
            self._proposals[key] = propose(sheet, draw, self.decisions[number].written_C)
        return self._proposals[key]

    def drawn(self, draw: Draw) -> np.ndarray:
        """Bool, one for each decision: every token written is one that a draw proposes."""
        if draw not in self._drawn:
            proposed = (self._proposed(i, draw) for i in range(len(self.decisions)))
            self._drawn[draw] = np.fromiter(proposed, bool)
        return self._drawn[draw]

    def _proposed(self, number: int, draw: Draw) -> bool:
        decision = self.decisions[number]
        done_C = decision.committed
        token_C = self.proposals(number, draw).token_C
        return bool((token_C[done_C] == decision.written_C[done_C]).all())

    def sheet(self, number: int, draw: Draw, dtype: str = "float64") -> Sheet:
        """The reduced scores of one decision.

        Ids that a draw leaves out or raises, one by one, are no matter of them.
        """
        rows = replace(draw, without=(), still_summed=(), raised=-1, by=0.0, greedy=True)
        key = (number, rows, dtype)
        if key not in self._sheets:
            self._sheets[key] = self._reduced(self.decisions[number], draw, dtype)
        return self._sheets[key]

    def watch(self, ids: tuple[int, ...]) -> Evidence:
        """The same with more watched ids; the logits are read again."""
        watched = tuple(dict.fromkeys((*self.watched, *ids)))
        if watched == self.watched:
            return self
        return replace(self, watched=watched, _sheets={}, _proposals={}, _drawn={})

    def alone(self, number: int, written_C: np.ndarray) -> Evidence:
        """One decision by itself, as if other tokens had been written: int64 [C], -1 for none."""
        asked = replace(self.decisions[number], written_C=written_C)
        return replace(self, decisions=(asked,), _sheets={}, _proposals={}, _drawn={})

    def _reduced(self, decision: Decision, draw: Draw, dtype: str) -> Sheet:
        position_C, written_C = decision.position_C, decision.written_C
        step = decision.earlier(draw.within_block) if draw.late else decision.step
        tensor = self._logits(step, draw.guidance)
        if tensor is not None:
            tensor = self._bent(tensor, decision.step, draw)
        if tensor is None:
            return from_candidates(decision.step.candidates, position_C, written_C)
        return from_logits(
            tensor,
            position_C,
            written_C,
            self.watched,
            row_C=_rows(decision, tensor.positions, draw),
            across=_across(decision, tensor.positions) if self.complete else {},
            dtype=dtype,
        )

    def _bent(self, tensor: TensorRows, step: StepRecord, draw: Draw) -> TensorRows:
        """Logits as a draw has them: of some ids, and less of those that stand on the canvas."""
        if draw.ids is None and draw.penalty == 1.0:
            return tensor
        values = tensor.values.astype(np.float32)
        if draw.ids is not None:
            values[:, : draw.ids[0]] = -np.inf
            values[:, draw.ids[1] :] = -np.inf
        if draw.penalty != 1.0:
            seen = self.seen(step)
            x_NS = values[:, seen]
            values[:, seen] = np.where(x_NS > 0, x_NS / draw.penalty, x_NS * draw.penalty)
        return replace(tensor, values=values)

    def seen(self, step: StepRecord) -> np.ndarray:
        """Which ids stand on the canvas before a step, the mask and the prompt among them."""
        ids = np.unique([*self.record.header.prompt_ids, *step.ids_before.tolist()])
        return ids[(ids >= 0) & (ids < self.record.header.vocab_size)]

    def logits_of(self, number: int, draw: Draw) -> Iterator[tuple[np.ndarray, int]]:
        """Of every token that was written: float64 [V], its logits, and its id."""
        decision = self.decisions[number]
        tensor = self._tensor(decision.step)
        if tensor is None:
            return
        row_C = _rows(decision, tensor.positions, draw)
        for c in np.flatnonzero(decision.committed & (row_C >= 0)).tolist():
            yield tensor.values[row_C[c]].astype(np.float64), int(decision.written_C[c])

    def best_of_rows(self, number: int, draw: Draw) -> Iterator[tuple[int, int]]:
        """Position and best id of every row of a call, what a draw leaves out left out."""
        tensor = self._tensor(self.decisions[number].step)
        if tensor is None:
            return
        values = tensor.values.astype(np.float32)
        values[:, list(draw.without)] = -np.inf
        yield from zip(tensor.positions.tolist(), values.argmax(1).tolist(), strict=True)

    def halves(self, number: int, draw: Draw) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Of every token that was written: its logits, those with a hidden prompt, and its id."""
        decision = self.decisions[number]
        tensor, hidden = self._tensor(decision.step), self._tensor(decision.step, Tap.UNGUIDED)
        if tensor is None or hidden is None:
            return
        row_C, other_C = (_rows(decision, t.positions, draw) for t in (tensor, hidden))
        for c in np.flatnonzero(decision.committed & (row_C >= 0) & (other_C >= 0)).tolist():
            x_V, y_V = tensor.values[row_C[c]], hidden.values[other_C[c]]
            yield x_V.astype(np.float64), y_V.astype(np.float64), int(decision.written_C[c])

    def _logits(self, step: StepRecord, guidance: float) -> TensorRows | None:
        if not self.logits:
            return None
        tensor = self._tensor(step)
        hidden = None if guidance == 1.0 else self._tensor(step, Tap.UNGUIDED)
        if tensor is None or hidden is None:
            return tensor
        known, at = matched(tensor.positions, hidden.positions)
        mine = replace(tensor, positions=tensor.positions[known], values=tensor.values[known])
        return guided(mine, hidden.values[at], guidance, self.dtype)

    def _tensor(self, step: StepRecord, tap: Tap = Tap.LOGITS) -> TensorRows | None:
        key = TensorKey(step.forward, tap, self.record.header.num_layers)
        return self.trace.tensor(self.sample, key)


def _idle(steps: Sequence[StepRecord]) -> dict[int, int]:
    """Steps without a commit, by the block that they seem to begin.

    A loop that was through with a block before its steps were up shows nothing else.
    """
    found, begun = dict[int, int](), set[int]()
    for step in steps:
        if step.committed:
            begun.add(step.block)
        elif step.block not in begun and begun:
            found[step.block] = step.step + 1
    return {block: count for block, count in found.items() if block in begun}


def _rows(decision: Decision, at_R: np.ndarray, draw: Draw) -> np.ndarray:
    """int64 [C]: the row that scores each mask; -1 where it was not recorded.

    A loop that shifts its scores has none for the first row of what it shifts, which keeps its own.
    """
    position_C, row_C = decision.position_C, np.full(decision.position_C.size, -1, np.int64)
    if not at_R.size:
        return row_C
    whole = "whole" if decision.step.rows.size == decision.step.entered_age.size else "partial"
    offset = draw.offset if draw.calls in ("all", whole) else 0
    first = max(int(at_R.min()), decision.step.block_start if draw.within_block else 0)
    last = min(int(at_R.max()), decision.step.block_stop - 1 if draw.within_block else int(1e9))
    # Of a row that is not there, the outermost one stands in.
    low_C, high_C = np.minimum(position_C, first), np.maximum(position_C, last)
    wanted = np.clip(position_C + offset, low_C, high_C)
    known, at = matched(wanted, at_R)
    row_C[known] = at
    return row_C


def _across(decision: Decision, at_R: np.ndarray) -> dict[SoftmaxAxis, np.ndarray]:
    """Rows, by number, that a softmax over positions may sum over."""
    step = decision.step
    rows: dict[SoftmaxAxis, np.ndarray] = {
        "rows": np.ones(at_R.size, bool),
        "block": (at_R >= step.block_start) & (at_R < step.block_stop),
        "from the block on": at_R >= step.block_start,
        "masks": np.isin(at_R, decision.position_C),
    }
    return {axis: np.flatnonzero(inside) for axis, inside in rows.items() if inside.any()}


def _size(trace: Trace, sample: int, step: StepRecord, layer: int) -> int:
    tensor = trace.tensor(sample, TensorKey(step.forward, Tap.LOGITS, layer))
    return 0 if tensor is None else tensor.values.nbytes


def _complete(trace: Trace, sample: int, steps: Sequence[StepRecord], layer: int) -> bool:
    """Whether the first and the last step have the logits of every row of their call."""
    for step in (*steps[:1], *steps[-1:]):
        tensor = trace.tensor(sample, TensorKey(step.forward, Tap.LOGITS, layer))
        if tensor is None or not np.isin(step.rows, tensor.positions).all():
            return False
    return bool(steps)
