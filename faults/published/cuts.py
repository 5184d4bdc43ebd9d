"""How a loop really goes, and whether a record cuts it the same.

The truth is read in a run without any recorder: when the model is called, the loop's own variables
say which block it is at, which rows it passes, and what its canvas is.

Shape letters: B batch, L canvas length, N rows of a call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
from torch import Tensor, nn

from skipstone.record import RunRecord, StepRecord


@dataclass(frozen=True, eq=False)
class StepContext:
    """One step, as the loop's own variables say it when the model is called."""

    canvas_BL: np.ndarray
    """The whole canvas before the commit."""
    rows_BN: np.ndarray
    """Positions of the rows that are passed."""
    block: int
    starts: tuple[int, ...]
    """First position of the block, for each sample."""
    stops: tuple[int, ...]
    """First position after the block."""
    number: int = 0
    """Of the step in its block."""


Variables = Mapping[str, Any]
"""Local variables of the function that decodes."""
Reader = Callable[[Variables, Tensor], StepContext | None]
"""What they say, beside the ids of the call; None if the call decides nothing."""


def truth(
    model: nn.Module, run: Callable[[], Tensor], function: str, read: Reader
) -> tuple[list[StepContext], Tensor]:
    """Run a loop without a recorder, and ask its variables at each call.

    Args:
        model: that the loop calls.
        run: gives the last canvas.
        function: name of the function that has the variables.
        read: what these say.
    """
    moments = list[StepContext]()

    def ask(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        ids = args[0] if args else kwargs["input_ids"]
        moment = read(_variables(function), ids)
        if moment is not None:
            moments.append(moment)

    handle = model.register_forward_pre_hook(ask, with_kwargs=True)
    try:
        last = run()
    finally:
        handle.remove()
    return list(_numbered(moments)), last


def _variables(function: str) -> Variables:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != function:
        frame = frame.f_back
    assert frame is not None, f"the model is not called from {function}"
    return frame.f_locals


def _numbered(moments: Sequence[StepContext]) -> Iterator[StepContext]:
    """Count the steps of each block."""
    number, block = 0, -1
    for moment in moments:
        number = number + 1 if moment.block == block else 0
        block = moment.block
        yield StepContext(
            moment.canvas_BL, moment.rows_BN, block, moment.starts, moment.stops, number
        )


def host(ids: Tensor) -> np.ndarray:
    """A copy of ids, int64."""
    return ids.detach().cpu().long().numpy().copy()


def span(batch: int, start: int, stop: int) -> np.ndarray:
    """The same positions for every sample, [B, N]."""
    return np.tile(np.arange(start, stop), (batch, 1))


def differences(
    records: Sequence[RunRecord], moments: Sequence[StepContext], last_BL: np.ndarray
) -> list[str]:
    """What a trace says otherwise than the loop; empty if nothing."""
    if not moments:
        return ["the loop never called the model"]
    batch = moments[0].canvas_BL.shape[0]
    if len(records) != batch:
        return [f"{len(records)} samples, the loop has {batch}"]
    return [
        f"sample {b}: {said}"
        for b, record in enumerate(records)
        for said in _of_sample(record, moments, last_BL, b)
    ]


def _of_sample(
    record: RunRecord, moments: Sequence[StepContext], last_BL: np.ndarray, b: int
) -> Iterator[str]:
    if record.prompt_length != moments[0].starts[b]:
        yield f"the prompt ends at {record.prompt_length}, really at {moments[0].starts[b]}"
    if len(record.steps) != len(moments):
        yield f"{len(record.steps)} steps, the loop makes {len(moments)}"
    after = [moment.canvas_BL[b] for moment in moments[1:]] + [last_BL[b]]
    for step, moment, ids in zip(record.steps, moments, after, strict=False):
        said = list(_of_step(record, step, moment, ids, b))
        if said:
            yield f"forward {step.forward}: {', '.join(said)}"
            return


def _of_step(
    record: RunRecord, step: StepRecord, moment: StepContext, after: np.ndarray, b: int
) -> Iterator[str]:
    before, prompt = moment.canvas_BL[b], record.prompt_length
    mask = record.header.mask_id
    where = (step.block, step.step, step.block_start, step.block_stop)
    really = (moment.block, moment.number, moment.starts[b], moment.stops[b])
    if where != really:
        yield f"block, step, start, stop {where}, really {really}"
    if not np.array_equal(step.rows, moment.rows_BN[b]):
        yield f"rows {_short(step.rows)}, really {_short(moment.rows_BN[b])}"
    if not np.array_equal(step.ids_before, before[prompt:]):
        yield "other ids before"
    if not np.array_equal(step.ids_after, after[prompt : step.ids_after.size + prompt]):
        yield "other ids after"
    committed = np.flatnonzero((before == mask) & (after[: before.size] != mask))
    if not np.array_equal(step.committed, committed):
        yield f"commits {_short(np.array(step.committed))}, really {_short(committed)}"
    tokens = step.candidates.token[step.candidates.committed]
    if not np.array_equal(tokens, after[list(step.committed)]):
        yield "candidates have other tokens than the canvas"


def _short(positions: np.ndarray) -> str:
    """Positions in few words."""
    if positions.size > 4 and np.ptp(positions) == positions.size - 1:
        return f"{positions.min()}-{positions.max()}"
    return str(positions.tolist())
