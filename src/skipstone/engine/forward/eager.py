"""Layers computed one operation after the other: the readable path, and the twin of the graphs.

Shape letters: N packed rows, D width, H query heads, E head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from skipstone.engine.forward.interventions import Intervention
from skipstone.memory.store import KVStore
from skipstone.models.base import HalfLayer, Network
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
        network = self._network
        angles_2NE = network.angles(rows)
        self._listen()
        for layer in range(first, last + 1):
            x_ND = self._entering(layer, x_ND, rows)
            x_ND = network.layer(layer - 1, x_ND, angles_2NE, rows, self.store)
            x_ND = self.left(layer, x_ND, rows)
            if every or layer == last:
                yield layer, x_ND

    def attended(self, layer: int, x_ND: Tensor, rows: Rows) -> HalfLayer:
        """The first half of ``layer``: attention, which overwrites the K/V of ``rows``."""
        self._listen()
        x_ND = self._entering(layer, x_ND, rows)
        return self._network.attended(layer - 1, x_ND, self._network.angles(rows), rows, self.store)

    def with_mlp(self, layer: int, stream_ND: Tensor, normed_ND: Tensor) -> Tensor:
        """The other half, for some of the rows."""
        return self._network.with_mlp(layer - 1, stream_ND, normed_ND)

    def left(self, layer: int, x_ND: Tensor, rows: Rows) -> Tensor:
        """What both halves of ``layer`` give, as it goes on."""
        last = layer == self._network.config.num_layers
        return self._entering(layer + 1, x_ND, rows) if last else x_ND

    def _listen(self) -> None:
        # Whoever computed over this store before may have listened.
        self.store.on_write = self._written if self._interventions else None

    def _entering(self, layer: int, x_ND: Tensor, rows: Rows) -> Tensor:
        for intervention in self._interventions:
            x_ND = intervention.entering(layer, x_ND, rows)
        return x_ND

    def _written(self, index: int, rows: Rows, qkv_NHE: Tensor, q_NHE: Tensor) -> Tensor:
        for intervention in self._interventions:
            q_NHE = intervention.written(index + 1, rows, qkv_NHE, q_NHE, self.store)
        return q_NHE
