"""Where attention first gives other things in B than in A, from equal states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import numpy as np

from skipstone.checks import number
from skipstone.diagnosis.attention.call import AttentionCall, read
from skipstone.diagnosis.attention.cause import Cause, cause_of
from skipstone.diagnosis.attention.difference import AttentionDifference
from skipstone.diagnosis.attention.stage import Stage, stage_of
from skipstone.diagnosis.case.divergence import Parting
from skipstone.diagnosis.case.noise import Noise
from skipstone.diagnosis.case.runs import Runs
from skipstone.diagnosis.case.tensors import ComparedTensors
from skipstone.record import StepRecord, Tap, TensorKey

# As families call it.
_BASES = ("rope_theta", "rotary_base", "rotary_emb_base")


@dataclass(eq=False)
class Attending:
    """Attention of both runs, in the steps that started from the same canvas."""

    runs: Runs
    divergence: Parting
    noise: Noise
    tensors: ComparedTensors

    @cached_property
    def difference(self) -> AttentionDifference | None:
        """The first layer of the first step whose attention is wrong; None if none is known."""
        return next((pair for _, pair in self._from_equal_states() if pair.positions.size), None)

    @cached_property
    def cause(self) -> Cause | None:
        """Why attention is wrong; None if it is not, or its parts do not tell."""
        return None if self.difference is None else cause_of(self.difference)

    @cached_property
    def begins(self) -> AttentionDifference | None:
        """The first layer that gives other states from equal ones, in the first step that has one.

        None if none is known to: all layers before it have their attention recorded, and right.
        """
        for a, pair in self._from_equal_states():
            if pair.positions.size or self._parted(a, pair.step, pair.layer):
                return pair
        return None

    @cached_property
    def stage(self) -> Stage | None:
        """The part of that layer that is wrong; None if it is not known."""
        return None if self.begins is None else stage_of(self.begins)

    def heard(self, step: StepRecord, layer: int) -> bool:
        """Whether attention of a layer was recorded in a step of B, and in the same step of A."""
        other = self.divergence.same_step(step)
        return other is not None and self._pair(other, step, layer, 0) is not None

    def hides(self, step: StepRecord, layer: int) -> bool:
        """Whether attention of a layer is known to add something to its scores in a step of B."""
        call = self._call("b", step, layer)
        return call is not None and bool(call.bias_NHK.any())

    def _steps(self) -> Iterator[tuple[StepRecord, StepRecord]]:
        """Pairs of steps of A and B, up to where B is first known to be wrong."""
        for step in self.runs.up_to(self.tensors.focus):
            other = self.divergence.same_step(step)
            if other is not None:
                yield other, step

    def _from_equal_states(self) -> Iterator[tuple[StepRecord, AttentionDifference]]:
        """Layers that equal states enter, with A's step; of each step up to what is not known."""
        if self.runs.record_a.header.dtype != self.runs.record_b.header.dtype:
            return
        for a, b in self._steps():
            for layer in range(1, self.runs.record_b.header.num_layers + 1):
                equal = self._parted(a, b, layer - 1) is False
                pairs = list(self._pairs(a, b, layer)) if equal else []
                if not pairs:
                    break
                yield a, next((pair for pair in pairs if pair.positions.size), pairs[-1])

    def state_errors(self, b: StepRecord, layer: int) -> tuple[np.ndarray, float]:
        """Positions int [P] whose states after a layer differ, and by how much at most.

        Args:
            b: a step of B.
            layer: whose states were recorded in both runs.
        """
        a = self.divergence.same_step(b)
        found = None if a is None else self._apart(a, b, layer)
        if found is None:
            return np.zeros(0, int), 0.0
        positions, error = found
        return positions[~(error <= self._level(layer))], float(error.max(initial=0.0))

    def _parted(self, a: StepRecord, b: StepRecord, layer: int) -> bool | None:
        """Whether states after a layer differ in rows of both; None if it is not known."""
        found = self._apart(a, b, layer)
        return None if found is None else not bool((found[1] <= self._level(layer)).all())

    def _level(self, layer: int) -> float:
        return self.noise.floor.level(Tap.STATE, layer)

    def _apart(
        self, a: StepRecord, b: StepRecord, layer: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Positions of rows of both, and how far their states are apart, relative."""
        mine = self.runs.b.tensor(self.runs.sample_b, TensorKey(b.forward, Tap.STATE, layer))
        right = self.runs.a.tensor(self.runs.sample_a, TensorKey(a.forward, Tap.STATE, layer))
        if mine is None or right is None:
            return None
        common = np.intersect1d(mine.positions, right.positions)
        x, y = mine.at(common), right.at(common)
        apart, size = np.linalg.norm(x - y, axis=1), np.linalg.norm(y, axis=1)
        error = np.where(apart == 0, 0.0, apart / np.where(size > 0, size, 1.0))
        return common, np.where(np.isnan(error), np.inf, error)

    def _pairs(self, a: StepRecord, b: StepRecord, layer: int) -> Iterator[AttentionDifference]:
        """The calls of attention in a layer, in order."""
        for call in count():
            pair = self._pair(a, b, layer, call)
            if pair is None:
                return
            yield pair

    def _pair(
        self, a: StepRecord, b: StepRecord, layer: int, call: int
    ) -> AttentionDifference | None:
        mine, right = self._call("b", b, layer, call), self._call("a", a, layer, call)
        if mine is None or right is None:
            return None
        if mine.query_NHW.shape[1:] != right.query_NHW.shape[1:]:
            return None
        if mine.mixed_NHW.shape[1:] != right.mixed_NHW.shape[1:]:
            return None
        _, i, j = np.intersect1d(right.positions_N, mine.positions_N, return_indices=True)
        level = self._level(layer)
        if not i.size:
            return None
        right, mine = right.at(i), mine.at(j)
        a_keys, b_keys = right.places_K, mine.places_K
        right, mine = right.without_unseen(b_keys), mine.without_unseen(a_keys)
        return AttentionDifference(b, layer, right, mine, level, self._bases, call)

    @cached_property
    def _bases(self) -> tuple[float, ...]:
        """Bases of rotary embeddings that the configurations name."""
        records = self.runs.record_a, self.runs.record_b
        texts = (r.header.environment.get(f"config.{name}", "") for r in records for name in _BASES)
        with suppress(ValueError):
            found = (number(text) for text in texts if text)
            return tuple(dict.fromkeys(base for base in found if 1 < base < np.inf))
        return ()

    def _call(self, side: str, step: StepRecord, layer: int, call: int = 0) -> AttentionCall | None:
        if side == "a":
            return read(self.runs.a, self.runs.sample_a, step.forward, layer, call)
        return read(self.runs.b, self.runs.sample_b, step.forward, layer, call)
