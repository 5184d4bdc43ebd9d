"""One forward: rows in, final states out, and who left on the way.

Where many rows are computed, those that a skip policy drops are packed away, which takes one read
of the device. Where few are, a forward is bound by reading the weights and packing would save
nothing: then they are computed all the same, but what they give is not taken.

Shape letters: N packed rows, D width, L canvas length, B requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from skipstone.canvas import StepContext
from skipstone.engine.forward.eager import EagerLayers
from skipstone.engine.observe import TappedStates, Taps
from skipstone.memory.store import KVStore
from skipstone.models.base import Network
from skipstone.rows import HostCopy, Rows, to_device, to_host
from skipstone.skip import SkipScores, SkipSession


class Layers(Protocol):
    """Computes layers: one operation after the other, or as captured graphs."""

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


class Exit(NamedTuple):
    """What a skip policy said after one layer."""

    rows: Rows
    """The rows that it judged."""
    layer: int
    kept: HostCopy
    """bool [N]: those that go on."""
    fresh: Sequence[int]
    """Requests that could not lose a row."""

    def left(self) -> np.ndarray:
        """Bool [N], on the host: rows that do not go on."""
        return ~self.kept.wait()


@dataclass(frozen=True, eq=False)
class Pass:
    """What one forward computed."""

    computed: Rows | None
    """Rows that were computed through every layer; None if all rows were packed away."""
    x_ND: Tensor
    """States of these rows after the last layer."""
    kept_N: Tensor | None
    """bool: which of ``computed`` did not skip; None if the others were packed away."""
    exits: Sequence[Exit]
    """Each time that rows could leave, in order."""
    skip: SkipScores | None
    states: dict[int, TappedStates]

    def finished(self) -> Rows | None:
        """Rows that did not skip; waits until the host knows. None if all rows skipped."""
        if self.kept_N is None or self.computed is None:
            return self.computed
        index = np.flatnonzero(~np.logical_or.reduce([e.left() for e in self.exits]))
        return self.computed.take(index) if index.size else None

    def row_layers(self, batch: int, num_layers: int) -> tuple[np.ndarray, np.ndarray]:
        """Row-layers that could have been skipped, and that were: int64 [B] each."""
        could, did = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
        gone = np.zeros(0, bool)
        for rows, layer, kept, fresh in self.exits:
            left, judged = ~kept.wait(), ~np.isin(rows.request, fresh)
            if gone.size == left.size:
                judged, left = judged & ~gone, left & ~gone
            could += (num_layers - layer) * np.bincount(rows.request[judged], minlength=batch)
            did += (num_layers - layer) * np.bincount(rows.request[left], minlength=batch)
            if self.kept_N is not None:
                # Whoever left is judged again, without consequence.
                gone = ~kept.wait()
        return could, did


@dataclass(eq=False)
class Runner:
    """Runs forwards over one K/V store."""

    network: Network
    skip: SkipSession | None
    layers: Layers
    packs: bool = True
    """Whether rows that leave are packed away; else they are computed, and what they give is not
    taken."""

    @property
    def store(self) -> KVStore:
        """Keys and values of all positions."""
        return self.layers.store

    def forward(
        self, rows: Rows, context: StepContext, *, fresh: Sequence[int], taps: Taps
    ) -> Pass:
        """Recompute ``rows``; overwrites their K/V in every layer that they reach.

        Args:
            rows: what to compute.
            context: where the requests are.
            fresh: requests whose rows may not skip in this step.
            taps: what an observer wants.
        """
        network, num_layers = self.network, self.network.config.num_layers
        x_ND = network.embed(context.canvas.ids_BL[rows.request_N, rows.position_N])
        states = {0: TappedStates(rows, x_ND)} if 0 in taps.states else {}
        # Whoever keeps states must own them.
        layers = EagerLayers(network, self.store) if taps.states else self.layers
        judges = self.skip is not None and not set(rows.requests) <= set(fresh)
        going, layer = rows.protect(fresh) if judges else rows, 0
        kept_N, exits = None, list[Exit]()
        while layer < num_layers and going.num_rows:
            said_N, (last, shown) = None, self._span(layer)
            span = layers.run(layer + 1, last, x_ND, going, every=shown or bool(taps.states))
            for layer, x_ND in span:
                if layer in taps.states:
                    states[layer] = _kept_states(going, x_ND, kept_N)
                if shown:
                    said_N = self._show(layer, x_ND, going, context, judges=judges)
                if said_N is not None:
                    break
            if said_N is None:
                continue
            kept_N = said_N if kept_N is None else kept_N & said_N
            exits.append(Exit(going, layer, to_host(kept_N), fresh))
            if self.packs:
                going, x_ND = _packed(going, x_ND, exits[-1])
                kept_N = None
            else:
                going = going.writing(kept_N)
        return Pass(
            computed=going if going.num_rows else None,
            x_ND=x_ND,
            kept_N=kept_N,
            exits=exits,
            skip=self.skip.scores if self.skip is not None else None,
            states=states,
        )

    def spans(self) -> list[tuple[int, int, bool]]:
        """What a forward asks of its layers: first, last, and whether every state is wanted."""
        found, layer = list[tuple[int, int, bool]](), 0
        while layer < self.network.config.num_layers:
            last, shown = self._span(layer)
            found.append((layer + 1, last, shown))
            layer = last
        return found

    def _span(self, layer: int) -> tuple[int, bool]:
        """Up to which layer all can be computed, and whether the skip policy sees the states."""
        num_layers = self.network.config.num_layers
        if self.skip is None:
            return num_layers, False
        stops = self.skip.decides_after
        last = next((stop for stop in stops if stop > layer), num_layers)
        return last, not stops or layer < stops[-1]

    def _show(
        self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext, *, judges: bool
    ) -> Tensor | None:
        """Show states to the skip policy; which rows go on, if it says."""
        if self.skip is None or layer == self.network.config.num_layers:
            return None
        if not judges:
            self.skip.learn(layer, x_ND, rows, context)
            return None
        kept_N = self.skip.keep(layer, x_ND, rows, context)
        # Whatever a policy says of rows that may not skip.
        return kept_N if kept_N is None or rows.fresh_N is None else kept_N | rows.fresh_N


def _packed(rows: Rows, x_ND: Tensor, said: Exit) -> tuple[Rows, Tensor]:
    """Rows and states without those that leave. The one read of the device that packing takes."""
    left = said.left()
    if not left.any():
        return rows, x_ND
    rows, index_N = rows.pack(np.flatnonzero(~left))
    return rows, x_ND[index_N]


def _kept_states(rows: Rows, x_ND: Tensor, kept_N: Tensor | None) -> TappedStates:
    """States of the rows that have not left; waits until the host knows which."""
    if kept_N is None:
        return TappedStates(rows, x_ND)
    index = np.flatnonzero(kept_N.cpu().numpy())
    return TappedStates(rows.take(index), x_ND[to_device(index, x_ND.device)])
