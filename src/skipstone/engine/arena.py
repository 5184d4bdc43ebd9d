"""The memory in which an engine decodes: a K/V store, and the graphs that were captured over it.

What cache policies have kept beside keys and values lies in the cells of that store, so it counts
by cells: one takes what its keys and values do, and all that is kept for any of the policies that
the store is made for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from skipstone.engine.forward.eager import EagerLayers
from skipstone.engine.forward.graph import GraphLayers
from skipstone.engine.forward.layers import Layers
from skipstone.errors import NoRoomError
from skipstone.memory.kept import Keeping, kept_bytes
from skipstone.memory.limit import MemoryLimit, cells_in, spelled
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
        self._given: int | None = None
        """Bytes that may be taken, once a store outlives its batch: what is free is less then."""
        self._keeping: Keeping = frozenset()
        """What there is room for beside keys and values in the store that was made last."""
        self.kept: GraphLayers | None = None
        """Layers over graphs that were captured; they outlive lengths and batches."""
        self._plain: EagerLayers | None = None
        """Layers without graphs whose store holds what later prompts may take over."""

    @property
    def cell_bytes(self) -> int:
        """Of the keys and values of one position."""
        return cell_bytes(self._network.config, self._network.dtype)

    @property
    def keeping(self) -> Keeping | None:
        """What there is room for beside keys and values in the latest layers; None: anything."""
        return self._keeping if self._is_bounded else None

    def fits(self, length: int, keeping: Keeping) -> bool:
        """Whether there is room for a request of so many positions where so much is kept."""
        return rounded(length) <= self._cells(keeping)

    def check(self, length: int, keeping: Keeping, where: str) -> None:
        """Refuse a request for which there could never be room.

        Args:
            length: its positions.
            keeping: what is kept of it beside keys and values.
            where: names it in the message.

        Raises:
            NoRoomError: it needs more than all that there is.
        """
        kept = kept_bytes(keeping, self._network.config, self._network.dtype)
        self._limit.check(length, self._cells(keeping), self.cell_bytes, kept, where)

    def layers(
        self, lengths: Sequence[int], keeping: Keeping, *, graphs: bool, keep: bool = False
    ) -> Layers:
        """Layers over a store; with all graphs that were captured before, if nobody uses them.

        Args:
            lengths: of the requests that come first, so that there is room for them at once.
            keeping: what is kept of them beside keys and values.
            graphs: whether steps are captured.
            keep: whether whoever asks next is to find the keys and values of these requests.

        Raises:
            NoRoomError: the memory that may be taken is not to be had.
        """
        self._make_room(lengths[0], keeping)
        kept = self.kept if graphs else self._plain if keep else None
        if kept is not None and kept.store.unused:
            return kept
        if graphs or keep:
            self._given = self._bytes()
        if graphs:
            self.kept = None
            self.kept = GraphLayers(self._network, self._store(lengths, graphs=True))
            return self.kept
        layers = EagerLayers(self._network, self._store(lengths, graphs=False))
        if keep:
            self._plain = layers
        return layers

    def _make_room(self, length: int, keeping: Keeping) -> None:
        """Drop stores with too many cells for what is kept, or too few for a request."""
        if not self._is_bounded:
            return
        if keeping <= self._keeping and self.fits(length, self._keeping):
            return
        both = self._keeping | keeping
        self._keeping = both if self.fits(length, both) else keeping
        self.kept = self._plain = None

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
        """Positions for which there may be room, with all that is kept in the latest layers."""
        return self._cells(self._keeping)

    def _cells(self, keeping: Keeping) -> int:
        """Positions for which there may be room where so much is kept of them."""
        config, dtype = self._network.config, self._network.dtype
        each = self.cell_bytes + kept_bytes(keeping, config, dtype)
        return cells_in(self._bytes(), each, MOST_SLOTS * config.max_length)

    def _bytes(self) -> int | None:
        """What may be taken; None: whatever is needed."""
        return self._limit.on(self._network.device) if self._given is None else self._given

    @property
    def _is_bounded(self) -> bool:
        return self._limit.asked is not None or self._network.device.type == "cuda"
