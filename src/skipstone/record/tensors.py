"""Tensors of a run, row by row: which position each row is, and where its values come from.

Shape letters: N rows, W values of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple

import numpy as np

from skipstone.record.schema import RunRecord, StepRecord


class Tap(StrEnum):
    """What was tapped."""

    STATE = "state"
    """Hidden state after a layer; layer 0 is the embedding."""
    KEY = "key"
    """Rotated keys of one layer, as attention saw them: every position of the store."""
    VALUE = "value"
    """Values of one layer, every position of the store."""
    LOGITS = "logits"
    """Logits of the rows that were scored; their layer is the last one."""
    UNGUIDED = "unguided"
    """Logits of the same rows with the prompt hidden, where a loop guides its scores by both."""
    SKETCH = "sketch"
    """Random projection of a hidden state after a layer; see ``sketch.py``."""
    QUERY = "query"
    """Queries of one layer as its attention was given them; its rows are those of the call."""
    ATTENDED_KEY = "attended_key"
    """Keys as attention was given them, by their place among the keys; absent if they are ``KEY``,
    bit for bit. The place is the position, if keys are stored in the order of positions."""
    ATTENDED_VALUE = "attended_value"
    """Values as attention was given them; absent if they are ``VALUE``, bit for bit."""
    BIAS = "bias"
    """What attention adds to the scores of each row, one value a key; minus infinity hides it."""
    MIXED = "mixed"
    """What attention gives: values mixed by their weights, before the output projection."""
    VISIBLE = "visible"
    """Which positions the rows of one layer see, one value each: 1, or 0 where a cache policy hides
    one; absent if it hides none."""
    ATTENTION = "attention"
    """Numbers of one call of attention, as one row; see ``attention.py``."""


OF_ATTENTION = frozenset(
    (
        *(Tap.QUERY, Tap.ATTENDED_KEY, Tap.ATTENDED_VALUE, Tap.BIAS, Tap.MIXED),
        *(Tap.VISIBLE, Tap.ATTENTION),
    )
)
"""What is recorded of attention's own arguments; read together, by who knows what it does."""


class Source(IntEnum):
    """Where the values of a row come from."""

    COMPUTED = 0
    """This forward."""
    CACHED = 1
    """An earlier forward; this one did not ask for the row."""
    SKIPPED = 2
    """An earlier forward: the row entered, and left before this layer."""
    NEVER = 3
    """This request has computed nothing here: nobody has, or an earlier one has."""


class TensorKey(NamedTuple):
    """Which tensor of a sample."""

    forward: int
    tap: Tap
    layer: int


@dataclass(frozen=True, eq=False)
class TensorRows:
    """Rows of one tap. Row order means nothing: use ``positions``."""

    key: TensorKey
    positions: np.ndarray
    """int32 [N]: absolute."""
    values: np.ndarray
    """[N, W] in the dtype of the run (bfloat16 as ``ml_dtypes.bfloat16``)."""
    source: np.ndarray
    """uint8 [N], values of ``Source``."""
    age: np.ndarray
    """int32 [N]: forwards since it was computed; 0 now, -1 never."""
    canvas: np.ndarray
    """int64 [N]: fingerprint of the canvas it was computed from; -1 if never."""
    score: np.ndarray
    """float64 [N]: mean similarity that let a row skip; NaN for others."""

    def __repr__(self) -> str:
        tap, layer = self.key.tap.value, self.key.layer
        return (
            f"<TensorRows {tap} of layer {layer}, forward {self.key.forward}: "
            f"{list(self.values.shape)} {self.dtype}>"
        )

    @property
    def dtype(self) -> str:
        """The dtype that the values were computed in."""
        return self.values.dtype.name

    def at(self, positions: np.ndarray) -> np.ndarray:
        """float64 [M, W]: the values of some positions, gathered by position.

        Raises:
            KeyError: a position has no row here.
        """
        order = np.argsort(self.positions, kind="stable")
        found = np.searchsorted(self.positions[order], positions)
        inside = np.minimum(found, self.positions.size - 1)
        if self.positions.size == 0 or not np.array_equal(
            self.positions[order][inside], np.asarray(positions)
        ):
            raise KeyError(f"{self.key} has no rows for some of the positions {positions}")
        return self.values[order[inside]].astype(np.float64)


def with_provenance(
    record: RunRecord, key: TensorKey, positions: np.ndarray, values: np.ndarray
) -> TensorRows:
    """Say of each row where its values come from, by the ages in the record of its step."""
    step = record.at(key.forward)
    ages = record.ages_at(step, key.layer)
    # A cache that was never cropped holds rows beyond the canvas, which no step computed.
    inside = (positions >= 0) & (positions < ages.size)
    age = np.where(inside, ages[np.where(inside, positions, 0)], -1)
    entered = np.isin(positions, step.rows)
    source = np.where(
        age < 0,
        Source.NEVER,
        np.where(age == 0, Source.COMPUTED, np.where(entered, Source.SKIPPED, Source.CACHED)),
    ).astype(np.uint8)
    canvas = [record.canvas_at(key.forward - a) if a >= 0 else -1 for a in age.tolist()]
    return TensorRows(
        key=key,
        positions=positions,
        values=values,
        source=source,
        age=age,
        canvas=np.array(canvas, dtype=np.int64),
        score=_scores(step, positions, source),
    )


def _scores(step: StepRecord, positions: np.ndarray, source: np.ndarray) -> np.ndarray:
    score = np.full(positions.size, np.nan)
    if step.judgements is not None:
        mean = dict(zip(step.judgements.position.tolist(), step.judgements.mean, strict=True))
        for i in np.flatnonzero(source == Source.SKIPPED).tolist():
            score[i] = mean.get(int(positions[i]), np.nan)
    return score
