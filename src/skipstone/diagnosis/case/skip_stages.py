"""What a skip rule that ranks rows was given, worked out from recorded states and scores.

Such a rule compares rows with each other after the layers where rows leave, and says nothing of how
it judged. A trace with tensors has all that it is given: states, confidences, and what was
committed. It is put together as the rule states it, and with one slip in it.

Shape letters: N rows, L canvas length, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from skipstone.record import SCORE_OFFSET, RunRecord, StepRecord, Tap, TensorKey, Trace
from skipstone.skip import StageRows

Given = Literal["stated", "number", "renewed", "never", "committed", "older"]
"""As stated; states of the position with the number of the row; states of rows that left, too; of
forwards that computed everything alone; confidences of committed tokens, too; of the step before
the last."""


@dataclass(frozen=True, eq=False)
class RankedStage:
    """Rows after one layer of one step, and who went on."""

    step: StepRecord
    layer: int
    position_N: np.ndarray
    """int32, ascending: those that came there."""
    going: np.ndarray
    """int32, ascending: those of them that went on."""
    rows: Mapping[Given, StageRows]
    """What the rule was given, if it was given that."""


class _References:
    """States after one layer, by position, as the rule or a slip of it keeps them."""

    def __init__(self, length: int, width: int) -> None:
        self.states_LW = np.zeros((length, width))
        self.known_L = np.zeros(length, bool)

    def put(self, positions: np.ndarray, states_NW: np.ndarray) -> None:
        """Take states of some positions."""
        self.states_LW[positions], self.known_L[positions] = states_NW, True


class _Layer:
    """References after one layer: as stated, and with slips."""

    def __init__(self, length: int, width: int) -> None:
        self.stated, self.renewed, self.never = (_References(length, width) for _ in range(3))

    def learn(self, position_N: np.ndarray, going: np.ndarray, state_NW: np.ndarray) -> None:
        """Take the states of a step."""
        self.stated.put(going, state_NW[np.isin(position_N, going)])
        self.renewed.put(position_N, state_NW)
        if position_N.size == self.never.known_L.size:
            self.never.put(position_N, state_NW)

    def slipped(
        self, rows: StageRows, step: StepRecord, position_N: np.ndarray
    ) -> dict[Given, StageRows]:
        """The rows of a stage, held against other states."""
        others: dict[Given, tuple[_References, np.ndarray]] = {
            "number": (self.stated, np.sort(step.rows)[: position_N.size]),
            "renewed": (self.renewed, position_N),
            "never": (self.never, position_N),
        }
        return {
            given: replace(rows, reference_NW=kept.states_LW[at])
            for given, (kept, at) in others.items()
        }


class _Scores:
    """What steps before one have scored and committed."""

    def __init__(self, record: RunRecord) -> None:
        self._offset = int(record.header.environment.get(SCORE_OFFSET, "0"))
        self._num_layers = record.header.num_layers
        self._before: StepRecord | None = None
        self._last_L, self._older_L = np.zeros((2, record.length))
        """Confidences by position, up to the step before and up to the one before that."""
        self._new_L = np.zeros(record.length, bool)
        """What the step before committed."""

    def begin(self, step: StepRecord) -> None:
        """A step begins: what the one before it scored and committed is known now."""
        before, start = self._before, step.prompt_length
        self._new_L[:] = False
        if before is not None:
            self._older_L = self._last_L.copy()
            self._last_L[before.candidates.position] = before.candidates.confidence
            changed = before.masked & ~step.masked | (before.ids_before != step.ids_before)
            self._new_L[start:] = changed
        self._before = step

    def rows(
        self,
        step: StepRecord,
        layer: int,
        position_N: np.ndarray,
        state_NW: np.ndarray,
        kept: _References,
    ) -> StageRows:
        """What the rule is given at a stage."""
        open_L = self._open(step)
        leftmost = np.flatnonzero(open_L)[:1]
        beside_L = self._new_L.copy()
        beside_L[1:] |= self._new_L[:-1]
        beside_L[:-1] |= self._new_L[1:]
        return StageRows(
            layer=layer,
            num_layers=self._num_layers,
            entered=step.rows.size,
            block_length=step.block_stop - step.block_start,
            committed=int(self._new_L.sum()),
            state_NW=state_NW,
            reference_NW=kept.states_LW[position_N],
            known_N=kept.known_L[position_N],
            confidence_N=self._of_rows(np.where(open_L, self._last_L, 0.0))[position_N],
            leftmost_N=np.isin(position_N, self._row_of(leftmost)),
            committed_N=self._new_L[position_N],
            beside_N=beside_L[position_N],
        )

    def slipped(
        self, rows: StageRows, step: StepRecord, position_N: np.ndarray
    ) -> dict[Given, StageRows]:
        """The rows of a stage with other confidences."""
        inside_L = np.zeros(self._last_L.size, bool)
        inside_L[step.block_start : step.block_stop] = True
        others: dict[Given, np.ndarray] = {
            "committed": np.where(inside_L, self._last_L, 0.0),
            "older": np.where(
                self._open(step), self._older_L if step.step > 1 else self._last_L, 0.0
            ),
        }
        return {
            given: replace(rows, confidence_N=self._of_rows(confidence_L)[position_N])
            for given, confidence_L in others.items()
        }

    def _open(self, step: StepRecord) -> np.ndarray:
        """Masks of the block: bool [L]."""
        open_L = np.zeros(self._last_L.size, bool)
        open_L[step.prompt_length :] = step.masked
        open_L[: step.block_start] = open_L[step.block_stop :] = False
        return open_L

    def _of_rows(self, confidence_L: np.ndarray) -> np.ndarray:
        """Confidences by the row that scores them, where that is another: float64 [L]."""
        found_L = np.zeros(confidence_L.size)
        np.maximum.at(found_L, self._row_of(np.arange(confidence_L.size)), confidence_L)
        return found_L

    def _row_of(self, positions: np.ndarray) -> np.ndarray:
        return np.maximum(positions + self._offset, 0)


def stages_of(trace: Trace, sample: int, after: Sequence[int], last: int) -> Iterator[RankedStage]:
    """Each time that rows could leave in a step in which some did.

    It ends where states were not recorded.

    Args:
        trace: of the run, with states.
        sample: of the trace.
        after: layers after which rows may leave, ascending.
        last: the last forward that matters.
    """
    record = trace.records[sample]
    layers = {layer: _Layer(record.length, record.header.width) for layer in after}
    scores = _Scores(record)
    for step in record.steps:
        if step.forward > last:
            return
        scores.begin(step)
        for layer, kept in layers.items():
            position_N = np.sort(step.computed_in(layer))
            tensor = trace.tensor(sample, TensorKey(step.forward, Tap.STATE, layer))
            if tensor is None or not np.isin(position_N, tensor.positions).all():
                return
            state_NW, going = tensor.at(position_N), np.sort(step.computed_in(layer + 1))
            if step.left_before.any() and position_N.size:
                stated = scores.rows(step, layer, position_N, state_NW, kept.stated)
                slipped = kept.slipped(stated, step, position_N)
                slipped |= scores.slipped(stated, step, position_N)
                rows: dict[Given, StageRows] = {"stated": stated, **slipped}
                yield RankedStage(step, layer, position_N, going, rows)
            kept.learn(position_N, going, state_NW)
