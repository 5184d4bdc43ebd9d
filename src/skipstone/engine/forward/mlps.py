"""Cache policies that say of which rows a layer computes the MLP: the others take what it gave.

Attention is computed for all rows that come, and its result is added to them. What the MLP adds
to a row is kept of the step that computed it last, and so is what the heads gave the row in the
step before, which is what sessions choose by.

Both halves are computed one operation after the other, whoever computes whole layers: the host
must know in between which rows the second half has.

Shape letters: N packed rows, D width, W numbers of all heads of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from skipstone.cache import CacheSession
from skipstone.canvas import StepContext
from skipstone.engine.forward.choosing import Choosing, ChosenRows, Reuse
from skipstone.engine.forward.eager import EagerLayers
from skipstone.engine.forward.interventions import Intervention
from skipstone.engine.forward.layers import Layers
from skipstone.memory.kept import KeptStates
from skipstone.memory.store import KVStore
from skipstone.models.base import Network
from skipstone.rows import Rows, to_device


class ChosenMlps:
    """Layers whose MLP computes the rows that sessions choose."""

    def __init__(
        self,
        inner: Layers,
        network: Network,
        choosing: Choosing,
        contexts: KeptStates,
        interventions: Sequence[Intervention],
        reuses: list[Reuse],
    ) -> None:
        """Let ``inner`` compute the layers in which nobody is asked.

        Args:
            inner: computes them.
            network: whose layers these are.
            choosing: asks the sessions.
            contexts: where it is kept what the heads gave.
            interventions: those of ``inner``.
            reuses: takes what became of the rows of each layer in which somebody is asked.
        """
        self._inner, self._choosing, self._contexts = inner, choosing, contexts
        self._halves = EagerLayers(network, inner.store, interventions)
        self._reuses = reuses

    @property
    def store(self) -> KVStore:
        """Keys and values of all positions."""
        return self._inner.store

    def run(
        self, first: int, last: int, x_ND: Tensor, rows: Rows, *, every: bool
    ) -> Iterator[tuple[int, Tensor]]:
        """Layers ``first`` to ``last``; see ``Layers``. One that is chosen in is alone."""
        if first not in self._choosing.layers:
            yield from self._inner.run(first, last, x_ND, rows, every=every)
            return
        assert first == last
        half = self._halves.attended(first, x_ND, rows)
        chosen = self._chosen(first, rows, half.context_NW)
        # Of all rows: the next step is compared with this one, whatever is computed.
        self._choosing.keep(self._contexts, first, rows, half.context_NW)
        self._reuses.append(Reuse(first, "mlp", chosen.asked, chosen.rows))

        def compute(some_ND: Tensor, _: Rows, index_N: Tensor | None) -> Tensor:
            normed_ND = half.normed_ND if index_N is None else half.normed_ND[index_N]
            return self._halves.with_mlp(first, some_ND, normed_ND)

        out_ND = self._choosing.added(first, half.stream_ND, rows, chosen, compute)
        yield first, self._halves.left(first, out_ND, rows)

    def _chosen(self, layer: int, rows: Rows, context_NW: Tensor) -> ChosenRows:
        """Which rows the MLP computes, and of which that was asked."""

        def ask(
            session: CacheSession, some: Rows, index: np.ndarray, free: StepContext
        ) -> Rows | None:
            before_NW = self._contexts.take(layer, some)
            now_NW = context_NW[to_device(index, rows.device)]
            return session.mlp_rows_in(layer, before_NW, now_NW, some, free)

        return self._choosing.choose(layer, rows, ask)
