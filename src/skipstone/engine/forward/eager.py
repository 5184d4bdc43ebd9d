"""Layers computed one operation after the other: the readable path, and the twin of the graphs.

Shape letters: N packed rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from skipstone.memory.store import KVStore
from skipstone.models.base import Network
from skipstone.rows import Rows


class EagerLayers:
    """Computes a layer when its states are asked for."""

    def __init__(self, network: Network, store: KVStore) -> None:
        """Compute into a store."""
        self.store = store
        self._network = network

    def run(
        self, first: int, last: int, x_ND: Tensor, rows: Rows, *, every: bool
    ) -> Iterator[tuple[int, Tensor]]:
        """Layers ``first`` to ``last``; see ``Layers``."""
        angles_2NE = self._network.angles(rows)
        for layer in range(first, last + 1):
            x_ND = self._network.layer(layer - 1, x_ND, angles_2NE, rows, self.store)
            if every or layer == last:
                yield layer, x_ND
