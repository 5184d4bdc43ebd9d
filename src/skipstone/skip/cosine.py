"""What the cosine skip does in a step: it keeps reference states, and judges rows by them.

Shape letters: N packed rows, D width, S compared layers (K-1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipstone.canvas import Geometry, StepContext
from skipstone.ops.decide import dispatch as ops
from skipstone.rows import Rows
from skipstone.skip.base import SkipScores
from skipstone.skip.references import ReferenceStore


class CosineSession:
    """Reference states by absolute position, and the judgement of each step."""

    def __init__(
        self,
        geometry: Geometry,
        bars: ops.Bars,
        *,
        layers: int,
        dtype: torch.dtype,
        renewed: bool,
    ) -> None:
        """Start with no reference; the forward after the first ``expect`` gives some.

        Args:
            geometry: of the run.
            bars: what a stable row must reach.
            layers: S, how many states of a row are compared: those after layers 1..S.
            dtype: that the cosine is computed in.
            renewed: whether only a row that goes all the way gets a new reference.
        """
        self.scores: SkipScores | None = None
        self._bars = bars
        self._layers = layers
        self._dtype = dtype
        self._renewed = renewed
        self._store = ReferenceStore(layers, geometry)
        self._states = list[Tensor]()

    @property
    def decides_after(self) -> tuple[int, ...]:
        """The last compared layer."""
        return (self._layers,)

    def expect(self, rows: Rows) -> None:
        """Give these rows, and no others of their requests, a place for their reference."""
        self._store.expect(rows)

    def learn(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> None:
        """Take the states of rows that go all the way as their reference, where expected."""
        self.scores = None
        if layer <= self._layers:
            # Layer by layer: a refresh has too many rows for its states to be collected.
            held = self._store.layer(layer)
            ops.replace([x_ND.contiguous()], held, rows, None, context.forward_B1)

    def forget(self, request: int) -> None:
        """References of another request are no references."""
        self._store.forget(request)

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Tensor | None:
        """Collect the compared states, then judge all rows and layers at once."""
        if layer == 1:
            self._states.clear()
        if layer > self._layers:
            return None
        self._states.append(x_ND.contiguous())
        if layer < self._layers:
            return None
        keep_N = self._judge(self._states, rows, context)
        self._states.clear()
        return keep_N

    def _judge(self, states: Sequence[Tensor], rows: Rows, context: StepContext) -> Tensor:
        held = self._store.held
        similarity_SN = ops.similarity(states, held, rows, self._dtype)
        judged = ops.judge(similarity_SN, held, rows, context.committed_BL, self._bars)
        renewed_N = judged.keep_N if self._renewed else None
        ops.replace(states, held, rows, renewed_N, context.forward_B1)
        self.scores = SkipScores(
            rows=rows,
            similarity_SN=similarity_SN,
            smallest_N=judged.smallest_N,
            mean_N=judged.mean_N,
            stable_N=judged.stable_N,
            forced_N=judged.forced_N,
            reference_position_N=judged.stamp_2N[0],
            reference_forward_N=judged.stamp_2N[1],
        )
        return judged.keep_N
