"""Caches of which a call changed a few rows: only these are carried to the host.

What the loop reads from the device waits behind whatever is on the way, and a cache of a large
model is on the way for milliseconds.

Shape letters: Y layers, C batch of the call, P positions of a cache, D width of all heads.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipstone.foreign.attach.snapshot import Carriers, Copy, Snapshot, Values
from skipstone.tracing.record.recorder import to_numpy

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(eq=False)
class _Last:
    """A cache as the call before left it."""

    rows_YCPD: Tensor
    copy: Values


class Stores:
    """Takes copies of caches, call by call."""

    def __init__(self) -> None:
        """None was seen yet."""
        self._last = dict[Hashable, _Last]()
        self._changed = list[Changed]()

    def take(
        self, name: Hashable, rows_YCPD: Tensor, computed_BN: np.ndarray, snapshot: Snapshot
    ) -> Values:
        """A copy of keys or values of some layers.

        Args:
            name: of them, the same in every call.
            rows_YCPD: nobody else holds them.
            computed_BN: int32: positions that the call computed, of each sample.
            snapshot: of the call.
        """
        last = self._last.pop(name, None)
        copy: Values | None = None
        begin = int(computed_BN.min()) if computed_BN.size else 0
        stop = int(computed_BN.max(initial=-1)) + 1
        if last is not None and 0 < stop - begin <= rows_YCPD.shape[2] // 2:
            copy = self._part(last, rows_YCPD, begin, stop, snapshot)
        if copy is None:
            copy = snapshot.take(rows_YCPD, own=True)
        self._last[name] = _Last(rows_YCPD, copy)
        return copy

    def _part(
        self, last: _Last, rows_YCPD: Tensor, begin: int, stop: int, snapshot: Snapshot
    ) -> Changed | None:
        """Some rows, and which have changed; None if the cache is another one by now."""
        old_YCPD = last.rows_YCPD
        alike = (old_YCPD.shape, old_YCPD.dtype, old_YCPD.device)
        if alike != (rows_YCPD.shape, rows_YCPD.dtype, rows_YCPD.device):
            return None
        try:
            bits = _BITS[rows_YCPD.element_size()]
            changed_P = (rows_YCPD.view(bits) != old_YCPD.view(bits)).any(3).any(1).any(0)
        except torch.OutOfMemoryError:
            return None
        part = Changed(
            rows_YCPD,
            last.copy,
            snapshot.take(rows_YCPD[:, :, begin:stop]),
            snapshot.take(changed_P, own=True),
            begin,
        )
        self._changed.append(part)
        return part

    def send(self, by: Carriers) -> None:
        """The snapshot of the call was sent: put caches together meanwhile."""
        for part in self._changed:
            part.send(by)
        self._changed.clear()

    def forget(self) -> None:
        """The run is over."""
        self._last.clear()
        self._changed.clear()


@dataclass(eq=False)
class Changed:
    """A cache that is put together of the one before and the rows that a call computed."""

    _whole_YCPD: Tensor | None
    """Held until it is known that no other row has changed."""
    _before: Values | None
    _rows_YCND: Copy
    _changed_P: Copy
    _begin: int
    _coming: Callable[[], np.ndarray] | None = None
    _made: np.ndarray | None = None

    def send(self, by: Carriers) -> None:
        """Its parts are being carried."""
        self._coming = by.later(self._make)

    def array(self) -> np.ndarray:
        """Its values [Y, C, P, D]; waits for them."""
        return self._make() if self._coming is None else self._coming()

    def _make(self) -> np.ndarray:
        if self._made is not None:
            return self._made
        assert self._before is not None
        assert self._whole_YCPD is not None
        rows, changed_P = self._rows_YCND.array(), self._changed_P.array()
        stop = self._begin + rows.shape[2]
        if changed_P[: self._begin].any() or changed_P[stop:].any():
            made = to_numpy(self._whole_YCPD)
        else:
            before = self._before.array()
            # As bytes: other threads may go on meanwhile, whatever the dtype.
            raw = before.view(np.uint8).copy()
            raw[:, :, self._begin : stop] = rows.view(np.uint8)
            made = raw.view(before.dtype)
        self._before = self._whole_YCPD = None
        self._made = made
        return made
