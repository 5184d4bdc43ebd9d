"""Who computes layers: one operation after the other, as captured graphs, or only some of the rows.

Shape letters: N packed rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from skipstone.memory.store import KVStore
from skipstone.rows import Rows


class Layers(Protocol):
    """Computes layers."""

    @property
    def store(self) -> KVStore:
        """Where keys and values go."""
        ...

    def run(
        self, first: int, last: int, x_ND: Tensor, rows: Rows, *, every: bool
    ) -> Iterator[tuple[int, Tensor]]:
        """Layers ``first`` to ``last``, counted from 1; overwrites the K/V of ``rows`` in them.

        Args:
            first: the first layer.
            last: the last layer.
            x_ND: states that go into the first.
            rows: whose states these are.
            every: give the states after each layer; else only those after the last.

        Returns:
            Layer and states; what was given before may be overwritten by the next call.
        """
        ...
