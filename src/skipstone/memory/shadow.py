"""Keys and values of a shadow: rows that are computed beside a request, and that it does not see.

Shape letters: N packed rows, C cells, H query heads, U key/value heads, E head width, K keys,
R rows of one request, and rotated part of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.memory.store import KVStore
from skipstone.ops.model import dispatch as ops
from skipstone.rows import Rows


class _Sight(NamedTuple):
    """What the rows of one request see."""

    request: int
    rows: slice
    cells: slice
    """Of the store, up to their furthest horizon."""
    seen_RK: Tensor
    """bool: of these cells, and then of the shadow's own rows."""

    def among(self, visible_BL: Tensor | None) -> Tensor:
        """What they see where some cells are hidden, bool [R, K]; of the shadow itself none is."""
        if visible_BL is None:
            return self.seen_RK
        shown_K = visible_BL[self.request, : self.cells.stop - self.cells.start]
        own = self.seen_RK.shape[1] - len(shown_K)
        return self.seen_RK & F.pad(shown_K, (0, own), value=True)


class ShadowKV:
    """A store for the rows of a shadow: each has its place in a request, but not in its keys.

    A row sees what the request has, except at its own position, and the shadow's rows, itself among
    them. What it writes lasts for a layer and is seen by nobody else: no cell of the store changes.
    """

    def __init__(self, store: KVStore, rows: Rows) -> None:
        """Stand beside the requests of ``rows`` in ``store``, which holds what they see."""
        self._store = store
        self._rows = replace(
            rows, position=np.arange(rows.num_rows), base=np.zeros(rows.num_rows, np.int64)
        )
        """The same rows, by where their keys and values lie here."""
        shape = (rows.num_rows, *store.keys.shape[2:])
        self._keys, self._values = store.keys.new_empty(shape), store.values.new_empty(shape)
        self._sights = list(_sights(store, rows))

    def write(
        self,
        layer: int,
        rows: Rows,
        qkv_NHE: Tensor,
        angles_2NR: Tensor,
        norms: ops.HeadNorms | None = None,
    ) -> Tensor:
        """As ``KVStore.write``, but not into it."""
        return ops.rotate_and_write(
            qkv_NHE, angles_2NR, self._keys, self._values, self._rows, norms
        )

    def attend(self, layer: int, q_NHE: Tensor, rows: Rows) -> Tensor:
        """What the rows see of their requests and of each other: [N, H*E]."""
        out_NHE = torch.empty_like(q_NHE)
        visible_BL = self._store.visible_in(layer)
        for sight in self._sights:
            mine, cells = sight.rows, sight.cells
            key_KUE = torch.cat([self._store.keys[layer, cells], self._keys[mine]])
            value_KUE = torch.cat([self._store.values[layer, cells], self._values[mine]])
            out_HRE = F.scaled_dot_product_attention(
                q_NHE[None, mine].transpose(1, 2),
                key_KUE[None].transpose(1, 2),
                value_KUE[None].transpose(1, 2),
                attn_mask=sight.among(visible_BL),
                enable_gqa=q_NHE.shape[1] != key_KUE.shape[1],
            )[0]
            out_NHE[mine] = out_HRE.transpose(0, 1)
        return out_NHE.flatten(1)


def _sights(store: KVStore, rows: Rows) -> Iterator[_Sight]:
    first = 0
    for request, count in zip(rows.requests, rows.counts, strict=True):
        mine = slice(first, first + count)
        first += count
        base, far = int(rows.base[mine.start]), int(rows.horizon[mine].max())
        position_R, horizon_R = rows.position_N[mine], rows.horizon_N[mine]
        place_K = torch.arange(far, device=rows.device)
        theirs_RK = (place_K < horizon_R[:, None]) & (place_K != position_R[:, None])
        own_RK = position_R < horizon_R[:, None]
        yield _Sight(request, mine, slice(base, base + far), torch.cat([theirs_RK, own_RK], dim=-1))
