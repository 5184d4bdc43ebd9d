"""Cache policies that say which rows a layer computes: the others take what it added to them last.

Since layers add to what enters them, one state is enough of each layer and position: what the layer
added there when it last computed it. That is added to what enters the layer in this step.

Shape letters: N packed rows, D width, W numbers of all values of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from skipstone.cache import CacheSession
from skipstone.canvas import StepContext
from skipstone.engine.forward.asked import Asked
from skipstone.engine.forward.followers import Followers
from skipstone.engine.forward.interventions import Intervention
from skipstone.engine.forward.layers import Layers
from skipstone.engine.forward.places import among, places
from skipstone.engine.guarded import Failed, check_rows, noting
from skipstone.errors import ConfigError
from skipstone.memory.kept import KeptStates
from skipstone.memory.store import KVStore
from skipstone.models.base import Network
from skipstone.rows import Rows, to_device

Part = Literal["layer", "mlp"]
"""What may be computed for some of the rows: all of a layer, or its second half."""
Ask = Callable[[CacheSession, Rows, np.ndarray, StepContext], Rows | None]
"""Asks a session about some of the rows that came, and their places among those, of the requests of
a context; the rows that it wants computed, None: all."""
Compute = Callable[[Tensor, Rows, Tensor | None], Tensor]
"""Computes rows: what is added to, the rows, and their places among those that came, None: all."""


class Reuse(NamedTuple):
    """What became of the rows that came to one layer."""

    layer: int
    """Counted from 1."""
    part: Part
    """Of the layer."""
    asked: Rows
    """Those of which a policy could leave it out."""
    computed: Rows
    """Those of which it was computed, whoever had a say."""
    renewed: Sequence[Rows] = ()
    """Those whose values a policy had computed before it chose, each time."""


class ChosenRows(NamedTuple):
    """What sessions say of the rows that came to a layer."""

    wanted: np.ndarray
    """bool [N]: those that are computed."""
    rows: Rows
    """The same."""
    asked: Rows
    """Those of which a session was asked."""


class Choosing:
    """What the cache policies of one step say of the rows that layers, or parts, compute."""

    def __init__(
        self,
        part: Part,
        asked: Sequence[Asked],
        changes: KeptStates,
        failed: Failed,
        followers: Followers,
    ) -> None:
        """Take the sessions that have a say.

        Args:
            part: what they may leave out.
            asked: those.
            changes: where it is kept what that part of layers adds.
            failed: takes the errors of sessions; one that failed has no say any more.
            followers: requests that others compute; what is computed of those is kept of them too.
        """
        self.changes = changes
        """What that part of layers added."""
        self._part: Part = part
        self._asked, self._failed, self._followers = asked, failed, followers
        self.layers = frozenset(n for one in asked for n in self._layers_of(one))
        """Layers in which somebody is asked, counted from 1."""

    def _layers_of(self, one: Asked) -> tuple[int, ...]:
        session = one.session
        return session.chooses_in if self._part == "layer" else session.chooses_mlp_in

    def choose(self, layer: int, rows: Rows, ask: Ask) -> ChosenRows:
        """Which rows are computed in a layer, and of which that was asked.

        A row of which nothing is kept in this layer is computed, and nobody is asked.
        """
        wanted, asked = np.ones(rows.num_rows, bool), np.zeros(rows.num_rows, bool)
        lacking = self.changes.lacking(layer, rows)
        for one in self._asked:
            if layer not in self._layers_of(one) or one.has_failed(self._failed):
                continue
            mine = rows.of(one.free.active)
            some = rows.only(one.free.active)
            if lacking.size:
                mine[lacking] = False
                some = rows.take(np.flatnonzero(mine))
            if some.num_rows:
                asked |= mine
                index = np.flatnonzero(mine)
                wanted[index] = self._said(one, layer, some, index, ask)
        return ChosenRows(wanted, _some(rows, wanted), _some(rows, asked))

    def _said(self, one: Asked, layer: int, some: Rows, index: np.ndarray, ask: Ask) -> np.ndarray:
        """What one session wants computed of the rows that it is asked about, a bool for each."""
        wanted = np.ones(index.size, bool)
        with noting(self._failed, one.policy, one.context.active):
            said = ask(one.session, some, index, one.free)
            if said is not None:
                check_rows(one.policy, said)
                wanted = np.zeros(index.size, bool)
                wanted[_places_of(said, some, type(one.session).__name__, layer)] = True
        return wanted

    def added(
        self, layer: int, x_ND: Tensor, rows: Rows, chosen: ChosenRows, compute: Compute
    ) -> Tensor:
        """What goes on: computed for some rows, and kept; the others take what it added last.

        Args:
            layer: counted from 1.
            x_ND: what that is added to.
            rows: that came.
            chosen: which of them are computed.
            compute: computes them.
        """
        if chosen.rows is rows:
            return self._computed(layer, x_ND, rows, None, compute)
        left = np.flatnonzero(~chosen.wanted)
        left_N, out_ND = to_device(left, rows.device), x_ND.clone()
        out_ND[left_N] += self.changes.take(layer, rows.take(left))
        if chosen.rows.num_rows:
            index_N = to_device(np.flatnonzero(chosen.wanted), rows.device)
            out_ND[index_N] = self._computed(layer, x_ND[index_N], chosen.rows, index_N, compute)
        return out_ND

    def _computed(
        self, layer: int, x_ND: Tensor, rows: Rows, index_N: Tensor | None, compute: Compute
    ) -> Tensor:
        """What is computed of these rows; what that adds is kept."""
        out_ND = compute(x_ND, rows, index_N)
        self.keep(self.changes, layer, rows, out_ND - x_ND)
        return out_ND

    def keep(self, states: KeptStates, layer: int, rows: Rows, x_NX: Tensor) -> None:
        """Keep what a layer gave, of the rows of those who are asked in it.

        Args:
            states: where; ``changes``, or what else they choose by.
            layer: counted from 1.
            rows: of which it gave something.
            x_NX: that, of any width.
        """
        slots = [
            slot
            for one in self._asked
            if layer in self._layers_of(one)
            for slot in one.context.active
        ]
        states.keep(layer, *self._followers.picked(rows, x_NX, slots))


class ChosenLayers:
    """Layers that compute the rows that sessions choose; to the others they add what is kept."""

    def __init__(
        self,
        inner: Layers,
        network: Network,
        choosing: Choosing,
        interventions: Sequence[Intervention],
        reuses: list[Reuse],
    ) -> None:
        """Let ``inner`` compute what is chosen.

        Args:
            inner: computes.
            network: whose layers these are.
            choosing: asks the sessions.
            interventions: those of ``inner``.
            reuses: takes what became of the rows of each layer in which somebody is asked.
        """
        self._inner, self._network, self._choosing = inner, network, choosing
        self._interventions, self._reuses = interventions, reuses

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

        def ask(
            session: CacheSession, some: Rows, _index: np.ndarray, free: StepContext
        ) -> Rows | None:
            return session.rows_in(layer, values, some, free)

        chosen = self._choosing.choose(layer, rows, ask)
        self._reuses.append(Reuse(layer, "layer", chosen.asked, chosen.rows, values.renewed))

        def compute(some_ND: Tensor, some: Rows, _index_N: Tensor | None) -> Tensor:
            ((_, out_ND),) = self._inner.run(layer, layer, some_ND, some, every=False)
            return out_ND

        out_ND = self._choosing.added(layer, x_ND, rows, chosen, compute)
        if layer == self._network.config.num_layers:
            out_ND = self._entering(layer + 1, out_ND, rows)
        return out_ND

    def _entering(self, layer: int, x_ND: Tensor, rows: Rows) -> Tensor:
        for intervention in self._interventions:
            x_ND = intervention.entering(layer, x_ND, rows)
        return x_ND


def _some(rows: Rows, wanted: np.ndarray) -> Rows:
    """Those of the rows that are wanted: the same ones if all are."""
    return rows if wanted.all() else rows.take(np.flatnonzero(wanted))


@dataclass(frozen=True, eq=False)
class _Values:
    """``LayerValues`` of the rows that came to a layer."""

    network: Network
    store: KVStore
    layer: int
    x_ND: Tensor
    rows: Rows
    renewed: list[Rows] = field(default_factory=list)
    """Whose values were computed, each time."""

    def renew(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Compute the values of some rows anew; those before, and the new ones: [N, W] each."""
        index = _places_of(rows, self.rows, "a session", self.layer)
        entering_ND = self.x_ND
        if index.size != self.rows.num_rows:
            entering_ND = entering_ND[to_device(index, rows.device)]
        new_NUE = self.network.values(self.layer - 1, entering_ND)
        old_NUE = self.store.renew_values(self.layer - 1, rows, new_NUE)
        self.renewed.append(rows)
        return old_NUE.flatten(1), new_NUE.flatten(1)


def _places_of(some: Rows, rows: Rows, who: str, layer: int) -> np.ndarray:
    """Where some of the rows stand among them.

    Raises:
        ConfigError: one of them does not.
    """
    strange = np.flatnonzero(~among(some, rows))
    if strange.size:
        raise ConfigError(
            f"{who} names position {some.position[strange[0]]} of slot {some.request[strange[0]]} "
            f"in layer {layer}, which it was not asked about"
        )
    return np.searchsorted(places(rows), places(some))
