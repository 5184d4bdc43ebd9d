"""A token skip whose share is forced: the similarity is computed, its answer is not taken.

Shape letters: N packed rows, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from skipstone.canvas import Geometry, StepContext
from skipstone.errors import ConfigError
from skipstone.rows import Rows, to_device
from skipstone.skip import CosineSkip, SkipPolicy, SkipScores, SkipSession


@dataclass(frozen=True)
class SpacedSkip(SkipPolicy):
    """Evenly spaced rows go on past a cosine skip's layer, whatever their states are."""

    cosine: CosineSkip
    """Whose work is done."""
    going: float
    """Share of the rows that go on, rounded up to a whole row."""

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if not 0.0 < self.going <= 1.0:
            raise ConfigError(f"going is {self.going}, must be a share above 0 and at most 1")

    def start(self, geometry: Geometry) -> SpacedSession:
        """Memory for one run: that of the cosine skip."""
        return SpacedSession(self.cosine.start(geometry), self.going)


class SpacedSession:
    """Asks the cosine skip, and answers with a mask of its own."""

    def __init__(self, inner: SkipSession, going: float) -> None:
        """Answer in place of ``inner``."""
        self._inner = inner
        self._going = going
        self._masks = dict[tuple[int, int], Tensor]()

    @property
    def scores(self) -> SkipScores | None:
        """What the similarity says; here it decides nothing."""
        return self._inner.scores

    @property
    def decides_after(self) -> tuple[int, ...]:
        """The last compared layer."""
        return self._inner.decides_after

    def expect(self, rows: Rows) -> None:
        """Let the cosine skip keep what it will compare with."""
        self._inner.expect(rows)

    def learn(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> None:
        """Let the cosine skip see the states."""
        self._inner.learn(layer, x_ND, rows, context)

    def forget(self, request: int) -> None:
        """Tell the cosine skip."""
        self._inner.forget(request)

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Tensor | None:
        """A mask when the cosine skip has one; other rows go on in the next step."""
        if self._inner.keep(layer, x_ND, rows, context) is None:
            return None
        count = math.ceil(rows.num_rows * self._going)
        shift = context.requests[0].step % (rows.num_rows // count)
        key = (rows.num_rows, shift)
        if key not in self._masks:
            keep = np.zeros(rows.num_rows, dtype=bool)
            keep[np.arange(count) * rows.num_rows // count + shift] = True
            self._masks[key] = to_device(keep, x_ND.device)
        return self._masks[key]
