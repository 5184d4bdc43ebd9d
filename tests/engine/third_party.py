"""Policies of a third party that choose at random, the same in every run of the same request.

What they choose follows from position, block, step and layer by a hash; a skip looks at the states
besides, so that a state that is not what it should be shows in who goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipstone import Threshold
from skipstone.cache import CacheNeed, CachePolicy
from skipstone.canvas import Geometry, RequestStep, StepContext
from skipstone.rows import Rows
from skipstone.skip import SkipPolicy
from skipstone.unmask import Scores

_PRIMES = (73856093, 19349663, 83492791, 2654435761)


def chance(*keys: np.ndarray | int) -> np.ndarray:
    """Numbers from 0 up to 1, the same for the same keys."""
    mixed = sum(
        np.asarray(key, np.uint64) * np.uint64(p) for key, p in zip(keys, _PRIMES, strict=False)
    )
    mixed = np.asarray(mixed, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(40)) / float(1 << 24)


def of_rows(rows: Rows, context: StepContext, seed: int) -> np.ndarray:
    """A chance for each row, by where its request is and by its position."""
    found = np.empty(rows.num_rows)
    for at in context.requests:
        mine = rows.request == at.slot
        found[mine] = chance(rows.position[mine], 64 * at.block.index + at.step, seed)
    return found


@dataclass(frozen=True)
class RandomSkip(SkipPolicy):
    """Drops rows after any of its layers."""

    layers: tuple[int, ...]
    """() is every one."""
    share: float
    seed: int

    @property
    def pure(self) -> bool:
        return True

    def start(self, geometry: Geometry) -> RandomSkip:
        return self

    @property
    def scores(self) -> None:
        return None

    @property
    def decides_after(self) -> tuple[int, ...]:
        return self.layers

    def expect(self, rows: Rows) -> None:
        pass

    def learn(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> None:
        pass

    def forget(self, request: int) -> None:
        pass

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Tensor | None:
        if self.layers and layer not in self.layers:
            return None
        going = of_rows(rows, context, self.seed + 97 * layer) >= self.share
        return torch.from_numpy(going).to(x_ND.device) | (x_ND[:, layer] > 0.5)


@dataclass(frozen=True)
class RandomCache(CachePolicy):
    """Recomputes any rows beside those of the block, and names others before any of its layers."""

    layers: tuple[int, ...]
    share: float
    seed: int

    @property
    def pure(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[CacheNeed]:
        return frozenset(("layer_inputs",) if self.layers else ())

    @property
    def names_before(self) -> tuple[int, ...]:
        return self.layers

    def rows(self, context: StepContext) -> Rows:
        fresh, others = context.split(lambda at: at.step == 0)
        return fresh.changed_rows().beside(self._some(others, 0))

    def rows_before(
        self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext
    ) -> Rows | None:
        return None if layer % 2 and self.seed % 2 else self._some(context, layer)

    def _some(self, context: StepContext, layer: int) -> Rows:
        positions = dict[int, np.ndarray]()
        for at in context.requests:
            every = np.arange(context.canvas.length_of(at.slot))
            key = 64 * at.block.index + at.step
            chosen = chance(every, key, self.seed, layer) < self.share
            positions[at.slot] = every[chosen | self._always(every, at)]
        return context.rows_at(positions)

    def _always(self, every: np.ndarray, at: RequestStep) -> np.ndarray:
        """Half of the block: the others may be left out."""
        return (every >= at.start) & (every < at.stop) & ((every + at.step) % 2 == 0)


@dataclass(frozen=True)
class RandomUnmask(Threshold):
    """Commits any masks, and the surest."""

    seed: int = 0

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        surest_BG = super().select(scores, context)
        offset = np.arange(context.canvas.gen_length)
        drawn_BG = np.zeros(surest_BG.shape, dtype=bool)
        for at in context.requests:
            drawn_BG[at.slot] = chance(offset, at.forward, self.seed) < self.value
        may_BG = scores.confidence_BG.isfinite()
        return surest_BG | (torch.from_numpy(drawn_BG).to(may_BG.device) & may_BG)
