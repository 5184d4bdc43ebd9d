"""The K/V store: one arena of cells for the keys and values of all requests.

Shape letters: N packed rows, C cells, H query heads, U key/value heads, E head width, B requests,
L canvas length, R rotated part of a head, Y layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from skipstone.memory.prefixes import NOTHING, Prefix, Prefixes, Shared
from skipstone.memory.ranges import Ranges, rounded
from skipstone.ops.model import dispatch as ops
from skipstone.rows import Rows


class KVConfig(Protocol):
    """What a store must know of a model."""

    @property
    def num_layers(self) -> int:
        """Layers, each of which has keys and values of its own."""
        ...

    @property
    def num_kv_heads(self) -> int:
        """U."""
        ...

    @property
    def head_width(self) -> int:
        """E."""
        ...


OnWrite = Callable[[int, Rows, Tensor, Tensor], Tensor]
"""Takes layer (from 0), rows, what ``write`` took, and the queries that it made; gives those that
attend."""


class KeysAndValues(Protocol):
    """What a layer asks of keys and values: take those of its rows, and let the rows attend."""

    def write(
        self,
        layer: int,
        rows: Rows,
        qkv_NHE: Tensor,
        angles_2NR: Tensor,
        norms: ops.HeadNorms | None = None,
    ) -> Tensor:
        """Take those of ``rows`` in one layer; see ``KVStore.write``."""
        ...

    def attend(self, layer: int, q_NHE: Tensor, rows: Rows) -> Tensor:
        """What rotated queries attend to in one layer: [N, H*E]."""
        ...


def cell_bytes(config: KVConfig, dtype: torch.dtype) -> int:
    """What one position of one request takes, in all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_width * dtype.itemsize


class Admitted(NamedTuple):
    """Where a request lies, and what it finds there."""

    base: int
    """The cell of its position 0, by which it is released."""
    reused: int
    """Its first positions, whose keys and values are there already."""


class KVStore:
    """Keys and values of every position of every request.

    A request has a range of cells while it is in its slot: position ``p`` is in cell ``base + p``.
    The store does not know whose a range is: each request remembers its base.
    A forward overwrites the rows it computes; every other position keeps what it has. Keys are
    stored rotated, so nothing is rotated twice. What a released range holds stays there until the
    next request writes over it: that sees nothing that it did not write, for it sees no further
    than its horizon. Where a prompt begins as another did, it is copied from there (``prefixes``).
    """

    def __init__(
        self,
        config: KVConfig,
        cells: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        most: int | None = None,
        spare: int = 0,
    ) -> None:
        """Allocate an empty store.

        Args:
            config: shapes.
            cells: C, positions for which there is room at first.
            dtype: of keys and values.
            device: where they lie.
            most: cells up to which the store grows, by copying; None: it never moves, as captured
                graphs that point into it need.
            spare: cells up to which it grows, at most ``most``, before it lets anything be written
                over that others may take over.
        """
        cells = rounded(cells)
        shape = (config.num_layers, cells, config.num_kv_heads, config.head_width)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.visible_BL: Tensor | None = None
        """bool: False where a position is hidden from all rows; None hides nothing."""
        self.visible_YBL: Tensor | None = None
        """bool: the same for each layer, in the forward that is computed."""
        self.on_write: OnWrite | None = None
        """Told of each write; None: nobody is."""
        self.prefixes = Prefixes()
        """What others can take over."""
        self._most = cells if most is None else max(cells, most)
        self._spare = min(spare, self._most)
        self._ranges = Ranges(cells)

    @property
    def cells(self) -> int:
        """C, positions for which there is room at present."""
        return self.keys.shape[1]

    @property
    def most(self) -> int:
        """Cells that there may ever be."""
        return self._most

    @property
    def unused(self) -> bool:
        """Whether nobody has a range."""
        return self._ranges.end == 0

    def fits(self, length: int) -> bool:
        """Whether a request of so many positions could ever be admitted."""
        return rounded(length) <= self._most

    def admit(self, length: int, prefix: Prefix | None = None) -> Admitted | None:
        """Give a range to a request.

        Args:
            length: of the request, with all that it will decode.
            prefix: of its tokens, to be copied as far as it is held; None: nothing is.

        Returns:
            Where it lies; None if there is no room now.
        """
        ranges, prefixes = self._ranges, self.prefixes
        if not ranges.gaps(length) and ranges.end + rounded(length) > self._most:
            return None
        shared = NOTHING if prefix is None else prefixes.longest(prefix)
        if shared.count:
            # Whatever is written over, this is the last of all.
            prefixes.touch(shared.base)
        base = self._place(rounded(length), shared.base)
        prefixes.overwrite(ranges.take(base, length))
        if prefix is not None and shared.count:
            self._copy(shared, base)
            prefixes.hold(base, prefix.first(shared.count))
        return Admitted(base, shared.count)

    def _place(self, length: int, source: int) -> int:
        """Where a request of so many cells goes, for which there is room; the store may grow."""
        ranges, prefixes = self._ranges, self.prefixes
        gaps = ranges.gaps(length)
        spares = self.cells < self._spare and prefixes.fill(gaps, length)
        if (spares or not gaps) and self._grow(ranges.end + length):
            gaps = ranges.gaps(length)
        return prefixes.place(gaps, length, source)

    def release(self, base: int) -> None:
        """Take the range of a request back."""
        self._ranges.release(base)

    def _grow(self, needed: int) -> bool:
        """Make room for so many cells in all; False if that is more than there may be."""
        if needed > self._most:
            return False
        # At least twice as many, so that what is copied in all is no more than what there is.
        cells = min(self._most, max(needed, 2 * self.cells))
        self._ranges.capacity = cells
        self.keys, self.values = _grown(self.keys, cells), _grown(self.values, cells)
        return True

    def _copy(self, shared: Shared, base: int) -> None:
        """Bring keys and values of every layer to ``base``; both ranges may overlap."""
        apart = abs(shared.base - base)
        for cells in (self.keys, self.values) if apart else ():
            taken = cells[:, shared.base : shared.base + shared.count]
            taken = taken if apart >= shared.count else taken.clone()
            cells[:, base : base + shared.count] = taken

    def take_over(self, position: np.ndarray, source: int, base: int) -> None:
        """Copy keys and values of some positions from one request to another, in every layer.

        Args:
            position: int64, ascending.
            source: the cell of position 0 of the request that has them.
            base: that of the request that takes them over.
        """
        first, end = int(position[0]), int(position[-1]) + 1
        whole = len(position) == end - first
        at = slice(first, end) if whole else position
        for cells in (self.keys, self.values):
            cells[:, base:][:, at] = cells[:, source:][:, at]

    def write(
        self,
        layer: int,
        rows: Rows,
        qkv_NHE: Tensor,
        angles_2NR: Tensor,
        norms: ops.HeadNorms | None = None,
    ) -> Tensor:
        """Overwrite the keys and values of ``rows`` in one layer. Changes the store.

        Args:
            layer: counted from 0.
            rows: whose they are.
            qkv_NHE: H + 2 U heads: queries, keys and values, none of them rotated yet.
            angles_2NR: cosine and sine at the positions of the rows.
            norms: what queries and keys are normalised by first, head by head.

        Returns:
            Rotated queries [N, H, E].
        """
        keys, values = self.keys[layer], self.values[layer]
        q_NHE = ops.rotate_and_write(qkv_NHE, angles_2NR, keys, values, rows, norms)
        if self.on_write is None:
            return q_NHE
        if norms is not None:
            qkv_NHE = ops.normed(qkv_NHE, keys.shape[1], norms)
        return self.on_write(layer, rows, qkv_NHE, q_NHE)

    def renew_values(self, layer: int, rows: Rows, new_NUE: Tensor) -> Tensor:
        """Overwrite the values of ``rows`` in one layer, and no keys; those before: [N, U, E]."""
        values, cell_N = self.values[layer], rows.cell_N
        old_NUE = values[cell_N]
        values[cell_N] = new_NUE
        return old_NUE

    def attend(self, layer: int, q_NHE: Tensor, rows: Rows) -> Tensor:
        """Attention of rows over their own requests, up to the horizon of each: [N, H*E].

        Args:
            layer: counted from 0.
            q_NHE: rotated queries of the rows.
            rows: whose these are.
        """
        return ops.attend(q_NHE, self.keys[layer], self.values[layer], rows, self.visible_in(layer))

    def visible_in(self, layer: int) -> Tensor | None:
        """Which positions rows see in a layer, counted from 0: bool [B, L]; None: all."""
        if self.visible_YBL is None:
            return self.visible_BL
        own_BL = self.visible_YBL[layer]
        return own_BL if self.visible_BL is None else own_BL & self.visible_BL


def _grown(old: Tensor, cells: int) -> Tensor:
    """The same keys or values, with room for so many cells."""
    new = old.new_zeros((old.shape[0], cells, *old.shape[2:]))
    new[:, : old.shape[1]] = old
    return new
