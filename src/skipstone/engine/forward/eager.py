"""Layers computed one operation after the other: the readable path, and the twin of the graphs.

Shape letters: N packed rows, D width, H query heads, E head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from skipstone.engine.forward.interventions import Intervention
from skipstone.memory.store import KVStore
from skipstone.models.base import Network
from skipstone.rows import Rows


class EagerLayers:
    """Computes a layer when its states are asked for."""

    def __init__(
        self, network: Network, store: KVStore, interventions: Sequence[Intervention] = ()
    ) -> None:
        """Compute into a store; ``interventions`` are asked one after the other."""
        self.store = store
        self._network = network
        self._interventions = tuple(interventions)

    def run(
        self, first: int, last: int, x_ND: Tensor, rows: Rows, *, every: bool
    ) -> Iterator[tuple[int, Tensor]]:
        """Layers ``first`` to ``last``; see ``Layers``."""
        network, count = self._network, self._network.config.num_layers
        angles_2NE = network.angles(rows)
        # Whoever computed over this store before may have listened.
        self.store.on_write = self._written if self._interventions else None
        for layer in range(first, last + 1):
            x_ND = self._entering(layer, x_ND, rows)
            x_ND = network.layer(layer - 1, x_ND, angles_2NE, rows, self.store)
            if layer == count:
                x_ND = self._entering(layer + 1, x_ND, rows)
            if every or layer == last:
                yield layer, x_ND

    def _entering(self, layer: int, x_ND: Tensor, rows: Rows) -> Tensor:
        for intervention in self._interventions:
            x_ND = intervention.entering(layer, x_ND, rows)
        return x_ND

    def _written(self, index: int, rows: Rows, qkv_NHE: Tensor, q_NHE: Tensor) -> Tensor:
        for intervention in self._interventions:
            q_NHE = intervention.written(index + 1, rows, qkv_NHE, q_NHE, self.store)
        return q_NHE
