"""The memory in which an engine decodes: a K/V store, and the graphs that were captured over it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from skipstone.engine.forward.eager import EagerLayers
from skipstone.engine.forward.graph import GraphLayers
from skipstone.engine.forward.layers import Layers
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
        self._plain: EagerLayers | None = None
        """Layers without graphs whose store holds what later prompts may take over."""

    @property
    def cell_bytes(self) -> int:
        """Of the keys and values of one position."""
        return cell_bytes(self._network.config, self._network.dtype)

    def check(self, length: int, where: str) -> None:
        """Refuse a request for which there could never be room.

        Args:
            length: its positions.
            where: names it in the message.

        Raises:
            NoRoomError: it needs more than all that there is.
        """
        config, dtype = self._network.config, self._network.dtype
        self._limit.check(length, self.cells(), config, dtype, where)

    def layers(self, lengths: Sequence[int], *, graphs: bool, keep: bool = False) -> Layers:
        """Layers over a store; with all graphs that were captured before, if nobody uses them.

        Args:
            lengths: of the requests that come first, so that there is room for them at once.
            graphs: whether steps are captured.
            keep: whether whoever asks next is to find the keys and values of these requests.

        Raises:
            NoRoomError: the memory that may be taken is not to be had.
        """
        kept = self.kept if graphs else self._plain if keep else None
        if kept is not None and kept.store.unused:
            return kept
        if graphs:
            self.kept = None
            self.kept = GraphLayers(self._network, self._store(lengths, graphs=True))
            return self.kept
        layers = EagerLayers(self._network, self._store(lengths, graphs=False))
        if keep:
            self._plain = layers
        return layers

    def _store(self, lengths: Sequence[int], *, graphs: bool) -> KVStore:
        """An empty one with room for these requests."""
        network = self._network
        most = self.cells()
        # What is captured lies over this memory: it never moves, and all of it is taken at once.
        fixed = graphs and network.device.type == "cuda"
        cells = most if fixed else min(most, sum(map(rounded, lengths)))
        # On a CPU, no more than requests need unless more is given. While a store grows, the old
        # one is there beside one twice as large: a third, so that both are no more than all.
        spare = 0 if self._limit.asked is None and network.device.type != "cuda" else most // 3
        try:
            return KVStore(
                network.config,
                cells,
                network.dtype,
                network.device,
                most=most,
                spare=spare,
            )
        except torch.OutOfMemoryError:
            needed = spelled(cells * self.cell_bytes)
            raise NoRoomError(
                f"keys and values are to take {needed}, which is not to be had in one piece on "
                f"{network.device}: give the engine less memory"
            ) from None

    def cells(self) -> int:
        """Positions for whose keys and values there may be room."""
        for layers in (self.kept, self._plain):
            if layers is not None:
                return layers.store.most
        network = self._network
        most = MOST_SLOTS * network.config.max_length
        return self._limit.cells(network.config, network.dtype, network.device, most)
