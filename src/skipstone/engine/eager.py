"""The eager runner: rows in, final states out, layer by layer.

Shape letters: N packed rows, D width, L canvas length, B requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import Geometry, Moment
from skipstone.engine.observe import TappedStates, Taps
from skipstone.models.base import KVStore, Network
from skipstone.rows import Rows
from skipstone.skip import SkipScores, SkipSession


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


class EagerRunner:
    """Runs forwards one operation at a time over one K/V store."""

    def __init__(
        self,
        network: Network,
        geometry: Geometry,
        skip: SkipSession | None,
        visible_BL: Tensor | None,
    ) -> None:
        """Allocate the K/V store of a run."""
        self._network = network
        self._skip = skip
        self._batch = geometry.batch
        self.store = KVStore(
            network.config,
            geometry.batch,
            geometry.length,
            geometry.dtype,
            geometry.device,
            visible_BL,
        )

    def forward(self, rows: Rows, moment: Moment, *, may_skip: bool, taps: Taps) -> Pass:
        """Recompute ``rows``; overwrites their K/V in every layer that they reach."""
        network, num_layers = self._network, self._network.config.num_layers
        x_ND = network.embed(moment.canvas.ids_BL[rows.request_N, rows.position_N])
        going, angles = rows, network.angles(rows)
        skipped, skippable = np.zeros(self._batch, np.int64), np.zeros(self._batch, np.int64)
        states = {0: TappedStates(rows, x_ND)} if 0 in taps.states else {}
        for layer in range(1, num_layers + 1):
            x_ND = network.layer(layer - 1, x_ND, angles, going, self.store)
            if layer in taps.states:
                states[layer] = TappedStates(going, x_ND)
            if self._skip is None or layer == num_layers:
                continue
            if not may_skip:
                self._skip.learn(layer, x_ND, going, moment)
                continue
            keep_N = self._skip.keep(layer, x_ND, going, moment)
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
            going, x_ND = going.take(index), x_ND[torch.from_numpy(index).to(x_ND.device)]
            if going.num_rows == 0:
                break
            angles = network.angles(going)
        return Pass(
            finished=going if going.num_rows else None,
            x_ND=x_ND,
            skipped_layers=skipped,
            skippable_layers=skippable,
            skip=self._skip.scores if self._skip is not None else None,
            states=states,
        )
