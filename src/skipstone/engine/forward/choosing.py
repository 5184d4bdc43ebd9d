"""Cache policies that say which rows a layer computes: the others take what it added to them last.

Since layers add to what enters them, one state is enough of each layer and position: what the layer
added there when it last computed it. That is added to what enters the layer in this step.

Shape letters: N packed rows, D width, W numbers of all values of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from skipstone.engine.forward.asked import Asked
from skipstone.engine.forward.interventions import Intervention
from skipstone.engine.forward.layers import Layers
from skipstone.engine.guarded import Failed, check_rows, noting
from skipstone.errors import ConfigError
from skipstone.memory.kept import KeptStates
from skipstone.memory.store import KVStore
from skipstone.models.base import Network
from skipstone.rows import Rows, to_device


class Reuse(NamedTuple):
    """What became of the rows that came to one layer."""

    asked: Rows
    """Those that a policy could leave out."""
    computed: Rows
    """Those that the layer computed, whoever had a say."""


class Choosing:
    """What the cache policies of one step say of the rows that layers compute."""

    def __init__(self, asked: Sequence[Asked], changes: KeptStates, failed: Failed) -> None:
        """Take the sessions that have a say.

        Args:
            asked: those.
            changes: where it is kept what layers add.
            failed: takes the errors of sessions; one that failed has no say any more.
        """
        self._asked, self._changes, self._failed = asked, changes, failed
        self.layers = frozenset(n for one in asked for n in one.session.chooses_in)
        """Layers in which somebody is asked, counted from 1."""

    def choose(self, layer: int, rows: Rows, values: _Values) -> tuple[np.ndarray, np.ndarray]:
        """Which rows a layer computes, and of which that was asked: int64, ascending.

        A row of which nothing is kept in this layer is computed, and nobody is asked.
        """
        wanted, asked = np.ones(rows.num_rows, bool), np.zeros(rows.num_rows, bool)
        known = np.ones(rows.num_rows, bool)
        known[self._changes.lacking(layer, rows)] = False
        for one in self._asked:
            if layer not in one.session.chooses_in or one.has_failed(self._failed):
                continue
            mine = np.flatnonzero(known & np.isin(rows.request, one.free.active))
            if mine.size:
                asked[mine] = True
                wanted[mine] = self._said(one, layer, rows.take(mine), values)
        return np.flatnonzero(wanted), np.flatnonzero(asked)

    def _said(self, one: Asked, layer: int, rows: Rows, values: _Values) -> np.ndarray:
        """What one session wants computed of the rows that it is asked about, bool [N]."""
        wanted = np.ones(rows.num_rows, bool)
        with noting(self._failed, one.policy, one.context.active):
            said = one.session.rows_in(layer, values, rows, one.free)
            if said is not None:
                check_rows(one.policy, said)
                wanted = np.zeros(rows.num_rows, bool)
                wanted[_places_of(said, rows, type(one.session).__name__, layer)] = True
        return wanted

    def keep(self, layer: int, rows: Rows, change_ND: Tensor) -> None:
        """Keep what a layer has added to the rows of those who may leave it out later."""
        slots = [
            slot
            for one in self._asked
            if layer in one.session.chooses_in
            for slot in one.context.active
        ]
        mine = np.isin(rows.request, slots)
        if mine.all():
            self._changes.keep(layer, rows, change_ND)
            return
        index = np.flatnonzero(mine)
        self._changes.keep(layer, rows.take(index), change_ND[to_device(index, rows.device)])

    def kept(self, layer: int, rows: Rows) -> Tensor:
        """What a layer added to rows when it last computed them: [N, D]."""
        return self._changes.take(layer, rows)


class ChosenLayers:
    """Layers that compute the rows that sessions choose; to the others they add what is kept."""

    def __init__(
        self,
        inner: Layers,
        network: Network,
        choosing: Choosing,
        interventions: Sequence[Intervention],
    ) -> None:
        """Let ``inner`` compute what is chosen.

        Args:
            inner: computes.
            network: whose layers these are.
            choosing: asks the sessions.
            interventions: those of ``inner``.
        """
        self.reuses = list[Reuse]()
        """What became of the rows of each layer in which somebody was asked."""
        self._inner, self._network, self._choosing = inner, network, choosing
        self._interventions = interventions

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
        yield first, self._layer(first, x_ND, rows)

    def _layer(self, layer: int, x_ND: Tensor, rows: Rows) -> Tensor:
        """What goes on, computed or not."""
        # Also of rows that are not computed; those of the others are replaced by the same.
        x_ND = self._entering(layer, x_ND, rows)
        values = _Values(self._network, self.store, layer, x_ND, rows)
        index, asked = self._choosing.choose(layer, rows, values)
        self.reuses.append(Reuse(rows.take(asked), rows.take(index)))
        if index.size == rows.num_rows:
            out_ND = self._computed(layer, x_ND, rows)
        else:
            left = np.setdiff1d(np.arange(rows.num_rows), index, assume_unique=True)
            left_N, out_ND = to_device(left, rows.device), x_ND.clone()
            out_ND[left_N] += self._choosing.kept(layer, rows.take(left))
            if index.size:
                index_N = to_device(index, rows.device)
                out_ND[index_N] = self._computed(layer, x_ND[index_N], rows.take(index))
        if layer == self._network.config.num_layers:
            out_ND = self._entering(layer + 1, out_ND, rows)
        return out_ND

    def _computed(self, layer: int, x_ND: Tensor, rows: Rows) -> Tensor:
        """The layer itself; what it adds is kept."""
        ((_, out_ND),) = self._inner.run(layer, layer, x_ND, rows, every=False)
        self._choosing.keep(layer, rows, out_ND - x_ND)
        return out_ND

    def _entering(self, layer: int, x_ND: Tensor, rows: Rows) -> Tensor:
        for intervention in self._interventions:
            x_ND = intervention.entering(layer, x_ND, rows)
        return x_ND


@dataclass(frozen=True, eq=False)
class _Values:
    """``LayerValues`` of the rows that came to a layer."""

    network: Network
    store: KVStore
    layer: int
    x_ND: Tensor
    rows: Rows

    def renew(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Compute the values of some rows anew; those before, and the new ones: [N, W] each."""
        index = _places_of(rows, self.rows, "a session", self.layer)
        entering_ND = self.x_ND
        if index.size != self.rows.num_rows:
            entering_ND = entering_ND[to_device(index, rows.device)]
        new_NUE = self.network.values(self.layer - 1, entering_ND)
        old_NUE = self.store.renew_values(self.layer - 1, rows, new_NUE)
        return old_NUE.flatten(1), new_NUE.flatten(1)


def _places_of(some: Rows, rows: Rows, who: str, layer: int) -> np.ndarray:
    """Where some of the rows stand among them.

    Raises:
        ConfigError: one of them does not.
    """
    places, wanted = _numbers(rows), _numbers(some)
    strange = np.flatnonzero(~np.isin(wanted, places))
    if strange.size:
        raise ConfigError(
            f"{who} names position {some.position[strange[0]]} of slot {some.request[strange[0]]} "
            f"in layer {layer}, which it was not asked about"
        )
    return np.searchsorted(places, wanted)


def _numbers(rows: Rows) -> np.ndarray:
    """One number for each request and position, ascending as rows are: int64 [N]."""
    return (rows.request << 32) + rows.position
