"""What an experiment may do to a forward while it is computed.

A runner, and the scorer behind it, ask an ``Intervention`` at three places: before each layer for
the states that enter it, after keys and values have been written for the queries, and before logits
are scored. Where there is none nothing is asked, and nothing is computed otherwise: a run without
an intervention has the bits and the cost that it would have if there were no such thing. One that
intervenes is computed eagerly.

Shape letters: N packed rows, D width, V vocabulary, H query heads, U key/value heads, E head width.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from skipstone.memory.store import KVStore
from skipstone.rows import Rows


class Intervention(Protocol):
    """Replaces values of a forward. What it gives back has the shape and dtype of what it took."""

    def entering(self, layer: int, x_ND: Tensor, rows: Rows) -> Tensor:
        """The states that go on.

        Args:
            layer: that they enter, counted from 1; one more than the last is the final norm.
            x_ND: what the layer before gave; the embedding before layer 1.
            rows: whose states these are.
        """
        ...

    def written(
        self, layer: int, rows: Rows, qkv_NHE: Tensor, q_NHE: Tensor, store: KVStore
    ) -> Tensor:
        """The queries that attend; may overwrite what has been written to the store.

        Args:
            layer: counted from 1.
            rows: whose keys and values have just been written.
            qkv_NHE: H + 2 U heads: their queries, keys and values before the rotation.
            q_NHE: their rotated queries.
            store: with their rotated keys and their values.
        """
        ...

    def scoring(self, rows: Rows, logits_NV: Tensor) -> Tensor:
        """The logits that are scored, and shown to observers, of ``rows``."""
        ...
