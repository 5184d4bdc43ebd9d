"""The memory in which an engine decodes: a K/V store, and the graphs that were captured over it.

What the engine keeps for cache policies beside keys and values lies in the cells of that store, so
it counts by cells: one takes what its keys and values do, and all that is kept for any of the
policies that the store is made for. What sessions of policies keep themselves is for the batch as a
whole, and leaves less for cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from skipstone.engine.beside import Beside
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
        self._beside = Beside()
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
        return self._beside.keeping if self.is_bounded else None

    @property
    def is_bounded(self) -> bool:
        """Whether no more may be taken than was given, or than a share of what is free."""
        return self._limit.asked is not None or self._network.device.type == "cuda"

    def fits(self, lengths: Sequence[int], beside: Beside) -> bool:
        """Whether there is room at once for requests of so many positions, and what is beside."""
        return sum(map(rounded, lengths)) <= self._cells(beside)

    def gives_half(self, taken: int) -> bool:
        """Whether bytes are no more than half of what may be taken."""
        given = self._bytes()
        return given is None or taken <= given // 2

    def check(self, length: int, beside: Beside, where: str) -> None:
        """Refuse a request for which there could never be room.

        Args:
            length: its positions.
            beside: what is kept of it alone beside keys and values.
            where: names it in the message.

        Raises:
            NoRoomError: it needs more than all that there is.
        """
        cells = rounded(length)
        kept = cells * self._kept_bytes(beside.keeping) + beside.bytes
        self._limit.check(length, cells * self.cell_bytes, kept, self._bytes(), where)

    def layers(
        self, lengths: Sequence[int], beside: Beside, *, graphs: bool, keep: bool = False
    ) -> Layers:
        """Layers over a store; with all graphs that were captured before, if nobody uses them.

        Args:
            lengths: of the requests that come first, so that there is room for them at once.
            beside: what there is beside keys and values.
            graphs: whether steps are captured.
            keep: whether whoever asks next is to find the keys and values of these requests.

        Raises:
            NoRoomError: the memory that may be taken is not to be had.
        """
        self._make_room(lengths[0], beside)
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

    def _make_room(self, length: int, beside: Beside) -> None:
        """Drop stores with too many cells for what is kept, or too few for a request."""
        if not self.is_bounded:
            return
        if self._beside.covers(beside) and self.fits([length], self._beside):
            return
        both = self._beside.join(beside)
        self._beside = both if self.fits([length], both) else beside
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
        return self._cells(self._beside)

    def _cells(self, beside: Beside) -> int:
        """Positions for which there may be room where so much is kept."""
        given, each = self._bytes(), self.cell_bytes + self._kept_bytes(beside.keeping)
        left = None if given is None else given - beside.bytes
        return cells_in(left, each, MOST_SLOTS * self._network.config.max_length)

    def _kept_bytes(self, keeping: Keeping) -> int:
        """Of a cell, beside its keys and values."""
        return kept_bytes(keeping, self._network.config, self._network.dtype)

    def _bytes(self) -> int | None:
        """What may be taken; None: whatever is needed."""
        return self._limit.on(self._network.device) if self._given is None else self._given
