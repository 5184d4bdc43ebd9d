"""One forward: rows in, final states out. Rows that a skip policy drops are packed away on the way.

Shape letters: N packed rows, D width, L canvas length, B requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from skipstone.canvas import Geometry, Moment
from skipstone.engine.eager import EagerLayers
from skipstone.engine.observe import TappedStates, Taps
from skipstone.models.base import KVStore, Network
from skipstone.rows import Rows, to_device
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


@dataclass(frozen=True, eq=False)
class Pass:
    """What one forward computed."""

    finished: Rows | None
    """Rows that went through every layer; None if all rows skipped."""
    x_ND: Tensor
    """States of these rows after the last layer."""
    skipped_layers: np.ndarray
    """int64 [B], on the host: row-layers that were not computed, by request."""
    skippable_layers: np.ndarray
    """int64 [B], on the host: row-layers that could have been skipped, by request."""
    skip: SkipScores | None
    states: dict[int, TappedStates]


class Runner:
    """Runs forwards over one K/V store."""

    def __init__(
        self, network: Network, geometry: Geometry, skip: SkipSession | None, layers: Layers
    ) -> None:
        """Compute layers in a given way."""
        self._network = network
        self._skip = skip
        self._batch = geometry.batch
        self.layers = layers

    @property
    def store(self) -> KVStore:
        """Keys and values of all positions."""
        return self.layers.store

    def expect(self, rows: Rows) -> None:
        """Tell the skip policy which rows the coming steps may ask it about."""
        if self._skip is not None:
            self._skip.expect(rows)

    def forward(self, rows: Rows, moment: Moment, *, may_skip: bool, taps: Taps) -> Pass:
        """Recompute ``rows``; overwrites their K/V in every layer that they reach."""
        network, num_layers = self._network, self._network.config.num_layers
        x_ND = network.embed(moment.canvas.ids_BL[rows.request_N, rows.position_N])
        skipped, skippable = np.zeros(self._batch, np.int64), np.zeros(self._batch, np.int64)
        states = {0: TappedStates(rows, x_ND)} if 0 in taps.states else {}
        # Whoever keeps states must own them.
        layers = EagerLayers(network, self.store) if taps.states else self.layers
        going, layer, every = rows, 0, self._skip is not None or bool(taps.states)
        while layer < num_layers and going.num_rows:
            keep_N, last = None, self._next_stop(layer, may_skip=may_skip)
            span = layers.run(layer + 1, last, x_ND, going, every=every)
            for layer, x_ND in span:
                if layer in taps.states:
                    states[layer] = TappedStates(going, x_ND)
                keep_N = self._ask(layer, x_ND, going, moment, may_skip=may_skip)
                if keep_N is not None:
                    break
            if keep_N is None:
                continue
            # The one host read of packing.
            kept = keep_N.cpu().numpy()
            deeper = num_layers - layer
            skippable += deeper * np.bincount(going.request, minlength=self._batch)
            if kept.all():
                continue
            skipped += deeper * np.bincount(going.request[~kept], minlength=self._batch)
            index = np.flatnonzero(kept)
            going, x_ND = going.take(index), x_ND[to_device(index, x_ND.device)]
        return Pass(
            finished=going if going.num_rows else None,
            x_ND=x_ND,
            skipped_layers=skipped,
            skippable_layers=skippable,
            skip=self._skip.scores if self._skip is not None else None,
            states=states,
        )

    def _next_stop(self, layer: int, *, may_skip: bool) -> int:
        """The next layer after which rows may be dropped, or the last of all."""
        num_layers = self._network.config.num_layers
        if self._skip is None or not may_skip:
            return num_layers
        return next((stop for stop in self._skip.decides_after if stop > layer), num_layers)

    def _ask(
        self, layer: int, x_ND: Tensor, rows: Rows, moment: Moment, *, may_skip: bool
    ) -> Tensor | None:
        """Show states to the skip policy; which rows go on, if it says."""
        if self._skip is None or layer == self._network.config.num_layers:
            return None
        if not may_skip:
            self._skip.learn(layer, x_ND, rows, moment)
            return None
        return self._skip.keep(layer, x_ND, rows, moment)
