"""What is kept of positions by layer: what entered it when last computed, or what it gave them.

Shape letters: N packed rows, C cells, D width.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from skipstone.memory.store import KVStore
from skipstone.rows import Rows

Kind = Literal["inputs", "changes", "contexts", "mlps"]
"""A field of ``Kept``."""
Keeping = frozenset[tuple[Kind, int]]
"""Of which layers, counted from 1, what is kept."""


class KeptConfig(Protocol):
    """What must be known of a model to say how much that is."""

    @property
    def width(self) -> int:
        """D."""
        ...

    @property
    def query_width(self) -> int:
        """Numbers of a context."""
        ...


def kept_bytes(keeping: Keeping, config: KeptConfig, dtype: torch.dtype) -> int:
    """What is kept of one position of one request, at most, beside its keys and values."""
    widths = (config.query_width if kind == "contexts" else config.width for kind, _ in keeping)
    return sum(widths) * dtype.itemsize


class KeptStates:
    """States by layer and cell of a K/V store; a layer takes memory once something is kept of it.

    In the dtype of the model, a position of a layer takes as much as its keys and values do in 1/2
    to 4 layers. There is room up to the last cell that something was kept of.
    """

    def __init__(self, store: KVStore) -> None:
        """Keep nothing yet."""
        self._store = store
        self._states = dict[int, Tensor]()
        """[C, D] of each layer."""
        self._known = dict[int, np.ndarray]()
        """bool [C] of each layer, on the host: cells whose request has something there."""

    def keep(self, layer: int, rows: Rows, x_ND: Tensor) -> None:
        """Overwrite what is kept of ``layer`` at ``rows``."""
        if not rows.num_rows:
            return
        cells = rows.base + rows.position
        states_CD, known_C = self._of(layer, x_ND, int(cells.max()) + 1)
        states_CD[rows.cell_N] = x_ND
        known_C[cells] = True

    def take(self, layer: int, rows: Rows) -> Tensor:
        """What is kept of ``layer`` at ``rows``, none of which lacks it: a copy [N, D]."""
        return self._states[layer][rows.cell_N]

    def lacking(self, layer: int, rows: Rows) -> np.ndarray:
        """Which of ``rows`` have nothing there: int64, ascending."""
        known_C = self._known.get(layer, np.zeros(0, dtype=bool))
        cells = rows.base + rows.position
        known = np.zeros(len(cells), dtype=bool)
        inside = cells < len(known_C)
        known[inside] = known_C[cells[inside]]
        return np.flatnonzero(~known)

    def forget(self, base: int, length: int) -> None:
        """Keep nothing of ``length`` cells from ``base`` on: another request has them now."""
        for known_C in self._known.values():
            known_C[base : base + length] = False

    def _of(self, layer: int, like_ND: Tensor, needed: int) -> tuple[Tensor, np.ndarray]:
        """States of a layer, with room for so many cells."""
        states_CD = self._states.get(layer, like_ND.new_empty(0, like_ND.shape[1]))
        known_C = self._known.get(layer, np.zeros(0, dtype=bool))
        if len(states_CD) < needed:
            # Twice as many, so that what is copied in all is no more than what there is.
            cells = min(self._store.cells, max(needed, 2 * len(states_CD)))
            grown_CD = like_ND.new_empty(cells, like_ND.shape[1])
            grown_CD[: len(states_CD)] = states_CD
            known_C = np.pad(known_C, (0, cells - len(known_C)))
            states_CD = grown_CD
        self._states[layer], self._known[layer] = states_CD, known_C
        return states_CD, known_C


class Kept(NamedTuple):
    """What is kept for cache policies that have a say in the midst of a forward."""

    inputs: KeptStates
    """What entered layers."""
    changes: KeptStates
    """What layers added."""
    contexts: KeptStates
    """What attention gave, before its last product."""
    mlps: KeptStates
    """What MLPs added."""

    @classmethod
    def over(cls, store: KVStore) -> Kept:
        """Nothing yet, by cells of a K/V store."""
        return cls(*(KeptStates(store) for _ in cls._fields))

    def forget(self, base: int, length: int) -> None:
        """Keep nothing of ``length`` cells from ``base`` on: another request has them now."""
        for states in self:
            states.forget(base, length)
