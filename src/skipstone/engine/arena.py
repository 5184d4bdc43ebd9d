"""The memory in which an engine decodes: a K/V store, and the graphs that were captured over it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from skipstone.engine.forward.eager import EagerLayers
from skipstone.engine.forward.graph import GraphLayers
from skipstone.engine.forward.runner import Layers
from skipstone.errors import NoRoomError
from skipstone.memory.limit import MemoryLimit, spelled
from skipstone.memory.ranges import rounded
from skipstone.memory.store import KVStore, cell_bytes
from skipstone.models.base import Network

MOST_SLOTS = 256
"""Requests that are decoded at once at most; more wait."""


class Arena:
    """Gives layers over a store to whoever decodes, one after the other the same."""

    def __init__(self, network: Network, limit: MemoryLimit) -> None:
        """Take nothing yet."""
        self._network = network
        self._limit = limit
        self.kept: GraphLayers | None = None
        """Layers over graphs that were captured; they outlive lengths and batches."""

    def check(self, length: int, where: str) -> None:
        """Refuse a request for which there could never be room.

        Args:
            length: its positions.
            where: names it in the message.

        Raises:
            NoRoomError: it needs more than all that there is.
        """
        config, dtype = self._network.config, self._network.dtype
        self._limit.check(length, self._cells(), config, dtype, where)

    def layers(self, lengths: Sequence[int], *, graphs: bool) -> Layers:
        """Layers over a store; with all graphs that were captured before, if nobody uses them.

        Args:
            lengths: of the requests that come first, so that there is room for them at once.
            graphs: whether steps are captured.

        Raises:
            NoRoomError: the memory that may be taken is not to be had.
        """
        network, kept = self._network, self.kept
        if graphs and kept is not None and kept.store.unused:
            return kept
        self.kept = None
        most = self._cells()
        # What is captured lies over this memory: it never moves, and all of it is taken at once.
        fixed = graphs and network.device.type == "cuda"
        cells = most if fixed else min(most, sum(map(rounded, lengths)))
        try:
            store = KVStore(network.config, cells, network.dtype, network.device, most=most)
        except torch.OutOfMemoryError:
            needed = spelled(cells * cell_bytes(network.config, network.dtype))
            raise NoRoomError(
                f"keys and values are to take {needed}, which is not to be had in one piece on "
                f"{network.device}: give the engine less memory"
            ) from None
        if not graphs:
            return EagerLayers(network, store)
        self.kept = GraphLayers(network, store)
        return self.kept

    def _cells(self) -> int:
        """Positions for whose keys and values there may be room."""
        if self.kept is not None:
            return self.kept.store.most
        network = self._network
        most = MOST_SLOTS * network.config.max_length
        return self._limit.cells(network.config, network.dtype, network.device, most)
