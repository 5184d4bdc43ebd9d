"""How the work of attention is cut into pieces, each for one program and a group of heads.

The host knows which rows there are and how far they see, so it says what each program computes:
a tile of one request's rows, and some of the keys that they see. Kernels read it from the device.
One launch of enough programs therefore serves any requests of any lengths, and a graph that
captured it serves them, too.

Shape letters: W pieces.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from skipstone.rows import Rows

# Joining reads every part again: no part of a split has fewer keys, and there are no more of them.
LEAST_KEYS, MOST_PARTS = 128, 4
# With more rows there are enough programs.
MOST_ROWS_OF_SPLIT = 256
# Of an H100. Not asked of the card, so that the order of a sum depends on shapes alone.
_PROCESSORS = 132
# Programs that fill a card: two run at once on each processor.
_ENOUGH = 2 * _PROCESSORS


class Tiles(NamedTuple):
    """How large the pieces are."""

    slots: int
    """Rows times heads that one program computes; a power of two, 16 or more."""
    keys: int
    """Keys that are taken at once; a power of two, 16 or more."""
    parts: int
    """The most pieces among which the keys of a row are split."""
    warps: int
    stages: int
    least_keys: int = LEAST_KEYS
    """Keys that a part has, if the keys are split at all."""


def splits(rows: Rows) -> bool:
    """Whether the rows are few, and one sees so many keys that they may be worth splitting."""
    few = rows.num_rows <= MOST_ROWS_OF_SPLIT
    return few and bool(rows.horizon.max(initial=0) >= 2 * LEAST_KEYS)


def tiles_for(
    num_rows: int,
    heads: int,
    group: int,
    width: int,
    itemsize: int,
    *,
    shared: bool = False,
    far: bool,
) -> Tiles:
    """Good pieces, by shapes alone: near the best of ``benchmarks/attend.py``.

    Args:
        num_rows: of all requests, padding included.
        heads: of the queries.
        group: of them, computed together.
        width: of a head.
        itemsize: bytes of a number.
        shared: whether heads share keys.
        far: what ``splits`` says.
    """
    # Float32 has no matrix unit that is exact: small tiles keep it in registers.
    most = 16 if itemsize > 2 else 32 if width > 128 else 64
    # Blocks have few rows; refreshes, of which many are computed at once, have many. Keys that
    # heads share are read again and again, and the more often, the smaller the tiles are.
    usual = 64 if shared or num_rows > 2 * MOST_ROWS_OF_SPLIT else 32
    slots = min(most, usual, 1 << (max(16, num_rows * group) - 1).bit_length())
    if not far and num_rows * heads < slots * _PROCESSORS:
        # Too few keys to split: rather read them more often than leave processors idle.
        slots = 16
    if most < 64:
        return Tiles(slots, most, MOST_PARTS if far else 1, 4, 2)
    return Tiles(slots, 64, MOST_PARTS if far else 1, 4, 3)


def pieces_of(num_rows: int) -> int:
    """W, pieces for which a graph of so many rows has room."""
    return num_rows // 8 + 4


def count(rows: Rows, rows_of_tile: int) -> int:
    """Tiles that these rows need, if no keys are split."""
    return sum(-(-count // rows_of_tile) for count in rows.counts)


def pieces(
    rows: Rows, tiles: Tiles, group: int, heads: int, *, num_rows: int, room: int | None = None
) -> np.ndarray:
    """What each program computes.

    Args:
        rows: whose attention it is.
        tiles: how large the pieces are.
        group: heads that are computed together.
        heads: of the queries.
        num_rows: padding included; what is computed of it is 0.
        room: W, if there must be so many pieces; those that nobody needs have no rows.

    Returns:
        int32 [W, 8]: first and last + 1 of the rows; the cell where their request begins; first
        and last + 1 of the keys; keys that all of the rows see; which part of the keys it is, and
        how many there are.
    """
    tile = tiles.slots // group
    counts = np.array([*rows.counts, num_rows - rows.num_rows], np.int64)
    tiles_A = -(-counts // tile)
    within = np.arange(tiles_A.sum()) - np.repeat(np.cumsum(tiles_A) - tiles_A, tiles_A)
    ends = np.cumsum(counts)
    first = np.repeat(ends - counts, tiles_A) + within * tile
    stop = np.minimum(first + tile, np.repeat(ends, tiles_A))
    # Padding sees nothing.
    padding = (0, num_rows - rows.num_rows)
    horizon, base = np.pad(rows.horizon, padding), np.pad(rows.base, padding)
    bound = np.maximum.reduceat(horizon, first) if first.size else first
    nearest = np.minimum.reduceat(horizon, first) if first.size else first

    used = max(1, first.size)
    most = max(
        1, min(tiles.parts, _ENOUGH // (used * (heads // group)), (room or used * 8) // used)
    )
    parts = np.clip(bound // tiles.least_keys, 1, most)
    blocks = -(-bound // tiles.keys)
    keys = -(-blocks // parts) * tiles.keys
    # Rounded up to whole blocks, fewer parts may hold all of them.
    parts = np.maximum(1, -(-bound // np.maximum(keys, 1)))
    part = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    of = np.repeat(np.arange(first.size), parts)
    begin = part * keys[of]
    end = np.minimum(begin + keys[of], bound[of])
    columns = (first[of], stop[of], base[first][of], begin, end, nearest[of], part, parts[of])
    found = np.stack(columns, axis=1).astype(np.int32)
    if room is None:
        return found
    assert len(found) <= room, f"{len(found)} pieces, room for {room}"
    return np.concatenate([found, np.zeros((room - len(found), 8), np.int32)])
