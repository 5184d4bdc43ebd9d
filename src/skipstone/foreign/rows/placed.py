"""Where the rows of a foreign call stand in its canvas: every way in which it can be known.

The surest first: where the ids come from (they were cut from the canvas, however), what the call
states, how many positions its cache has, and at last where the ids fit.

Shape letters: B batch, N rows of the call, L canvas length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from skipstone.foreign.shared.calls import Call, StatedPositions, host_ids


@dataclass(frozen=True, eq=False)
class Placed:
    """Where the rows of a call stand."""

    positions_BN: np.ndarray
    """int32, absolute; no rows if they could not be located."""
    source: str
    """As in ``StepRecord.positions_from``."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """How positions of a padded canvas are numbered: from the first token that is no padding."""

    number_BL: np.ndarray
    """int64: what an argument calls each position of the canvas; -1 for padding."""

    def positions(self, said_BN: np.ndarray) -> np.ndarray | None:
        """Canvas positions of numbers [B, N]; numbers beyond the canvas go on by one."""
        found = np.empty(said_BN.shape, np.int64)
        for b, said in enumerate(said_BN):
            number = self.number_BL[b]
            at = {int(n): i for i, n in enumerate(number) if n >= 0}
            last = int(number.max(initial=0))
            for i, n in enumerate(said.tolist()):
                place = at.get(n, number.size - 1 - last + n if n > last else -1)
                if place < 0:
                    return None
                found[b, i] = place
        return found


def numbers_of(call: Call, length: int) -> Numbers | None:
    """How a call numbers its canvas, by position ids of all rows or by an attention mask.

    Returns:
        None if it says nothing, or numbers from 0 without padding.
    """
    batch, rows = call.shape
    mask = call.arguments.get("attention_mask")
    seen_BL = None
    if isinstance(mask, Tensor) and mask.shape == (batch, length) and call.padded:
        seen_BL = mask.detach().cpu().bool().numpy()
    stated = call.stated
    if stated is not None and stated.name == "position_ids" and rows == length:
        said_BL = np.broadcast_to(stated.positions_BN.numpy(), (batch, length))
        if (said_BL == np.arange(length)).all():
            return None
        known_BL = np.stack([_counting(said) for said in said_BL]) if seen_BL is None else seen_BL
        return Numbers(np.where(known_BL, said_BL, -1).astype(np.int64))
    if seen_BL is None:
        return None
    return Numbers(np.where(seen_BL, seen_BL.cumsum(1) - 1, -1).astype(np.int64))


def counts_from_start(said: StatedPositions) -> bool:
    """Whether positions are numbers of all rows, counted from the first that is no padding.

    Numbers that come twice are no positions of a canvas, wherever their longest stretch begins.
    """
    return said.name == "position_ids" and all(
        row[_counting(row)].min() <= 1 or (row.min() <= 1 and np.unique(row).size < row.size)
        for row in said.positions_BN.numpy()
    )


def _counting(numbers: np.ndarray) -> np.ndarray:
    """Bool [N]: the longest stretch in which each number is one more than that before it."""
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 2) != 1)
    ends = np.append(starts[1:], numbers.size)
    best = int(np.argmax(ends - starts))
    at = np.arange(numbers.size)
    return (at >= starts[best]) & (at < ends[best])


def span(batch: int, start: int, rows: int, source: str) -> Placed:
    """Rows one after the other."""
    positions = np.arange(start, start + rows, dtype=np.int32)
    return Placed(np.tile(positions, (batch, 1)), source)


def nowhere(batch: int) -> Placed:
    """Rows that could not be located."""
    return Placed(np.zeros((batch, 0), np.int32), "unknown")


def carried(call: Call, positions: Tensor | None) -> Placed | None:
    """Where the ids of a call come from, by the way that they went; None if it is not known."""
    batch, rows = call.shape
    if positions is None or positions.ndim > 2:
        return None
    wide = positions.reshape(-1, positions.shape[-1]) if positions.ndim else positions.reshape(1, 1)
    if wide.shape[0] not in (1, batch) or wide.shape[1] not in (1, rows) or bool((wide < 0).any()):
        return None
    if wide.shape[1] == 1 < rows:
        return None
    return Placed(np.broadcast_to(wide.numpy(), (batch, rows)).astype(np.int32), "canvas_slice")


def slice_of_canvas(ids: Tensor, length: int | None) -> tuple[int, np.ndarray, Tensor] | None:
    """Where ids that are a view of a whole canvas start in it, and that canvas.

    The memory tells: a view shares it with the canvas it was cut from.

    Args:
        ids: [N] or [B, N].
        length: L if it is known.

    Returns:
        Start, canvas [B, L] and its tensor; None if the ids are no such view.
    """
    ids = ids if ids.dim() == 2 else ids.unsqueeze(0)
    batch, rows = ids.shape
    total = ids.untyped_storage().nbytes() // ids.element_size()
    whole = total // batch
    if total % batch or whole <= rows or (length is not None and whole != length):
        return None
    if (rows > 1 and ids.stride(1) != 1) or (batch > 1 and ids.stride(0) != whole):
        return None
    start = int(ids.storage_offset())
    if start + rows > whole:
        return None
    canvas = ids.as_strided((batch, whole), (whole, 1), 0)
    return start, host_ids(canvas), canvas


def stated(said: StatedPositions | None, numbers: Numbers | None, batch: int) -> Placed | None:
    """Positions that the call itself names."""
    if said is None:
        return None
    numbers_BN = said.positions_BN.numpy()
    positions = np.broadcast_to(numbers_BN, (batch, numbers_BN.shape[1]))
    if numbers is not None and said.name == "position_ids":
        mapped = numbers.positions(positions)
        if mapped is None:
            return None
        positions = mapped
    return Placed(positions.astype(np.int32), said.source)


def counted(call: Call) -> Placed | None:
    """Positions that follow from the number of rows and of those in the cache."""
    batch, rows = call.shape
    return span(batch, call.cached, rows, "cache_length") if call.cached > 0 else None


def inferred(ids_BN: np.ndarray, canvas_BL: np.ndarray, mask_id: int) -> Placed | None:
    """The one place where the ids fit best; masks of the canvas may be filled since."""
    rows = ids_BN.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(canvas_BL, rows, axis=1)
    same = windows == ids_BN[:, None]
    fits = (same | (windows == mask_id)).all((0, 2))
    matches = np.where(fits, same.sum((0, 2)), -1)
    best = np.flatnonzero(matches == matches.max())
    if best.size != 1 or not fits[best[0]]:
        return None
    return span(len(ids_BN), int(best[0]), rows, "inferred")


def longer(canvas_BL: np.ndarray, length: int, mask_id: int) -> np.ndarray:
    """A copy of a canvas with masks after it, up to a length; one that is longer stays so."""
    more = max(0, length - canvas_BL.shape[1])
    return np.pad(canvas_BL, ((0, 0), (0, more)), constant_values=mask_id)
