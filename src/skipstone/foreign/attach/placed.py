"""Which positions of the canvas the rows of a foreign call are, and what the canvas is by now.

Shape letters: B batch, N rows of the call, L canvas length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipstone.errors import ConfigError
from skipstone.foreign.shared.calls import Call


@dataclass(frozen=True, eq=False)
class Placed:
    """Where the rows of a call stand."""

    positions_BN: np.ndarray
    """int32, absolute."""
    source: str
    """As in ``StepRecord.positions_from``."""


@dataclass(frozen=True, eq=False)
class Located:
    """A call and its canvas."""

    canvas_BL: np.ndarray
    """int64: the whole canvas at the call."""
    canvas: Tensor | None
    """The tensor that holds it; the loop may go on to write into it."""
    placed: Placed
    said: Placed | None = None
    """Where the call says its rows are, if the memory of its ids shows that they are elsewhere."""


def locate(
    call: Call, known_BL: np.ndarray | None, newest_BL: np.ndarray | None, mask_id: int
) -> Located:
    """Find the canvas of a call, and its rows in it.

    Args:
        call: as the model was called.
        known_BL: the canvas of the call before; None if there was none.
        newest_BL: a canvas that the loop made since; None if none was seen.
        mask_id: fits every id when rows are looked for.

    Raises:
        ConfigError: nothing tells which positions the rows are.
    """
    rows = call.ids_BN.shape[1]
    if known_BL is not None and len(known_BL) != len(call.ids_BN):
        known_BL = newest_BL = None
    alone = call.past_length == 0 and call.arguments.get("replace_position") is None
    if alone and (known_BL is None or rows != known_BL.shape[1]):
        return _whole(call)
    view = slice_of_canvas(call.ids, None if known_BL is None else known_BL.shape[1])
    if view is not None:
        return _sliced(call, *view)
    if known_BL is None:
        raise ConfigError(
            f"the first call seen has {rows} rows and a cache, and its whole canvas is not known; "
            f"attach before the first call over all positions"
        )
    if rows == known_BL.shape[1]:
        return _whole(call)
    canvas_BL = (known_BL if newest_BL is None else newest_BL).copy()
    placed = _placed(call, canvas_BL, mask_id)
    np.put_along_axis(canvas_BL, placed.positions_BN.astype(np.int64), call.ids_BN, axis=1)
    return Located(canvas_BL, None, placed)


def _whole(call: Call) -> Located:
    return Located(call.ids_BN, call.ids, _span(call, 0, "all_rows"))


def _sliced(call: Call, start: int, canvas: Tensor) -> Located:
    """Ids that are a slice of the canvas; that is believed over what the call says."""
    canvas_BL = canvas.detach().to("cpu", torch.int64, copy=True).numpy()
    exact = _span(call, start, "canvas_slice")
    said = _stated(call, canvas_BL.shape[1]) or _counted(call, canvas_BL.shape[1])
    if said is None:
        return Located(canvas_BL, canvas, exact)
    if np.array_equal(said.positions_BN, exact.positions_BN):
        return Located(canvas_BL, canvas, said)
    return Located(canvas_BL, canvas, exact, said)


def _placed(call: Call, canvas_BL: np.ndarray, mask_id: int) -> Placed:
    length = canvas_BL.shape[1]
    found = _stated(call, length) or _counted(call, length) or _inferred(call, canvas_BL, mask_id)
    if found is None:
        raise ConfigError(
            f"a call of {call.ids_BN.shape[1]} rows does not say which positions they are, and its "
            f"ids fit the canvas of {length} at no place or at several; pass position_ids or "
            f"replace_position to the model, or ids that are a slice of the canvas"
        )
    return found


def slice_of_canvas(ids: Tensor, length: int | None) -> tuple[int, Tensor] | None:
    """Where ids that are a view of a whole canvas start in it, and that canvas.

    The memory tells: a view shares it with the canvas it was cut from.

    Args:
        ids: [B, N].
        length: L if it is known.

    Returns:
        Start and canvas [B, L]; None if the ids are no such view.
    """
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
    return start, ids.as_strided((batch, whole), (whole, 1), 0)


def _stated(call: Call, length: int) -> Placed | None:
    """Positions that the call itself names, by ``replace_position`` or position ids."""
    batch, rows = call.ids_BN.shape
    replace = call.arguments.get("replace_position")
    if isinstance(replace, Tensor) and replace.dtype == torch.bool:
        marked = np.broadcast_to(_host(replace), (batch, length))
        if (marked.sum(1) == rows).all():
            positions = np.stack([np.flatnonzero(m) for m in marked])
            return Placed(positions.astype(np.int32), "replace_position")
    for name in ("position_ids", "cache_position"):
        given = call.arguments.get(name)
        if isinstance(given, Tensor) and given.shape[-1] == rows and given.dim() <= 2:
            positions = np.broadcast_to(_host(given), (batch, rows)).astype(np.int32)
            if positions.max() < length:
                return Placed(positions, "position_ids")
    return None


def _counted(call: Call, length: int) -> Placed | None:
    """Positions that follow from the number of rows and of those in the cache."""
    rows, past = call.ids_BN.shape[1], call.past_length
    return _span(call, past, "cache_length") if past > 0 and past + rows <= length else None


def _inferred(call: Call, canvas_BL: np.ndarray, mask_id: int) -> Placed | None:
    """The one place where the ids fit best; masks of the canvas may be filled since."""
    windows = np.lib.stride_tricks.sliding_window_view(canvas_BL, call.ids_BN.shape[1], axis=1)
    same = windows == call.ids_BN[:, None]
    fits = (same | (windows == mask_id)).all((0, 2))
    matches = np.where(fits, same.sum((0, 2)), -1)
    best = np.flatnonzero(matches == matches.max())
    return _span(call, int(best[0]), "inferred") if best.size == 1 and fits[best[0]] else None


def _span(call: Call, start: int, source: str) -> Placed:
    batch, rows = call.ids_BN.shape
    span = np.arange(start, start + rows, dtype=np.int32)
    return Placed(np.tile(span, (batch, 1)), source)


def _host(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
