"""What experiments do to a forward: they replace values, and turn rows to other positions.

Shape letters: N packed rows, W numbers of a row, V vocabulary, H query heads, U key/value heads,
E head width, F angles of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skipstone.diagnosis.experiment import STRAIGHT, Pairs, Patch, Turn
from skipstone.memory.store import KVStore
from skipstone.models.base import ModelConfig
from skipstone.ops.model import reference as ops
from skipstone.record import Tap
from skipstone.rows import Rows


class Replacement:
    """The intervention of one experiment. ``forward`` says which recorded forward is taken."""

    def __init__(
        self,
        config: ModelConfig,
        patches: Sequence[Patch] = (),
        turn: Turn = STRAIGHT,
        *,
        since: int = 0,
        nudge: bool = False,
    ) -> None:
        """Say what is to be done.

        Args:
            config: of the model.
            patches: values of request 0 that are replaced.
            turn: how queries and keys are rotated.
            since: the first forward whose rows are turned.
            nudge: move every embedded value by at most one unit in the last place.
        """
        self.forward = 0
        self._patches = {(p.tap, p.forward, p.layer): p for p in patches}
        # Logits are of no layer.
        self._logits = {p.forward: p for p in patches if p.tap is Tap.LOGITS}
        self._rotation = None if turn == STRAIGHT else _Rotation(config, turn)
        self._since, self._nudge = since, nudge

    def entering(self, layer: int, x_ND: Tensor, rows: Rows) -> Tensor:
        """States as a patch says: it is named by the layer that gave them."""
        if layer == 1 and self._nudge:
            x_ND = _last_bit(x_ND, rows)
        patch = self._patches.get((Tap.STATE, self.forward, layer - 1))
        return x_ND if patch is None else _replaced(x_ND, rows, patch)

    def written(
        self, layer: int, rows: Rows, qkv_NHE: Tensor, q_NHE: Tensor, store: KVStore
    ) -> Tensor:
        """Queries and keys rotated otherwise; keys, values and visible positions of patches."""
        keys, values = store.keys[layer - 1], store.values[layer - 1]
        if self._rotation is not None and self.forward >= self._since:
            q_NHE = self._rotation.rotate(qkv_NHE, keys, values, rows)
        for tap, cells in ((Tap.KEY, keys), (Tap.VALUE, values)):
            patch = self._patches.get((tap, self.forward, layer))
            if patch is not None:
                _overwrite(cells, rows, patch)
        patch = self._patches.get((Tap.VISIBLE, self.forward, layer))
        if patch is not None:
            _show(store, layer - 1, rows, patch)
        return q_NHE

    def scoring(self, rows: Rows, logits_NV: Tensor) -> Tensor:
        """Logits as a patch says."""
        patch = self._logits.get(self.forward)
        return logits_NV if patch is None else _replaced(logits_NV, rows, patch)


def _replaced(values_NW: Tensor, rows: Rows, patch: Patch) -> Tensor:
    """A copy with the patched rows of request 0 put in."""
    _, mine, theirs = np.intersect1d(
        np.where(rows.request == 0, rows.position, -1), patch.positions, return_indices=True
    )
    new = torch.from_numpy(patch.values[theirs].astype(np.float64)).to(values_NW)
    return values_NW.index_copy(0, torch.from_numpy(mine).to(values_NW.device), new)


def _overwrite(cells_CUE: Tensor, rows: Rows, patch: Patch) -> None:
    """Put the patched positions of request 0, whether they are computed or not, into a store."""
    base = int(rows.base[rows.request == 0][0])
    where = torch.from_numpy(base + patch.positions.astype(np.int64)).to(cells_CUE.device)
    new = torch.from_numpy(patch.values.astype(np.float64)).to(cells_CUE)
    cells_CUE[where] = new.unflatten(-1, cells_CUE.shape[-2:])


def _show(store: KVStore, layer: int, rows: Rows, patch: Patch) -> None:
    """Let the rows of request 0 see the positions that a patch has as visible, for this forward."""
    if store.visible_YBL is None:
        shape = (store.keys.shape[0], max(rows.requests) + 1, int(rows.horizon.max()))
        store.visible_YBL = torch.ones(shape, dtype=torch.bool, device=rows.device)
    shown = torch.from_numpy(patch.values[:, 0] > 0).to(rows.device)
    positions = torch.from_numpy(patch.positions.astype(np.int64)).to(rows.device)
    store.visible_YBL[layer, 0, positions] = shown


def _last_bit(x_ND: Tensor, rows: Rows) -> Tensor:
    """Move every value by at most one unit in the last place; the same rows move alike."""
    generator = torch.Generator().manual_seed(0x1B17)
    size = (int(rows.position.max()) + 1, x_ND.shape[-1])
    sign_LD = torch.randint(-1, 2, size, generator=generator)
    sign_ND = sign_LD[torch.from_numpy(rows.position)].to(x_ND)
    return x_ND * (1 + torch.finfo(x_ND.dtype).eps * sign_ND)


class _Rotation:
    """A rotation of queries and keys that is not the model's own."""

    def __init__(self, config: ModelConfig, turn: Turn) -> None:
        self._turn = turn
        width = config.rotary_width
        exponent_F = torch.arange(0, width, 2, dtype=torch.float32) / width
        self._slower_F = (turn.base or config.rope_theta) ** exponent_F

    def rotate(self, qkv_NHE: Tensor, key_CUE: Tensor, value_CUE: Tensor, rows: Rows) -> Tensor:
        """Write the keys of ``rows`` as this rotation gives them; their queries."""
        shared = key_CUE.shape[1]
        heads = [qkv_NHE.shape[1] - 2 * shared, shared, shared]
        q_NHE, key_NUE, value_NUE = qkv_NHE.split(heads, dim=1)
        key_NUE = self._rotated(key_NUE, rows, self._turn.keys)
        ops.write_rows(key_CUE, value_CUE, rows, key_NUE, value_NUE)
        scale = q_NHE.shape[-1] ** self._turn.width_power
        return (self._rotated(q_NHE, rows, self._turn.queries) * scale).contiguous()

    def _rotated(self, x_NHE: Tensor, rows: Rows, by: int) -> Tensor:
        position_N1 = (rows.position_N[:, None] + by).float() * self._turn.stretch
        angle_NF = position_N1 / self._slower_F.to(x_NHE.device)
        together = self._turn.pairs == "neighbours"
        angle_NE = angle_NF.repeat_interleave(2, -1) if together else angle_NF.repeat(1, 2)
        angles_2NE = torch.stack([angle_NE.cos(), angle_NE.sin()])
        turned_NHR, kept = x_NHE.tensor_split([angles_2NE.shape[-1]], dim=-1)
        if self._turn.rounded:
            rounded = turned_NHR.bfloat16(), angles_2NE.bfloat16()
            turned_NHR = _turned(*rounded, self._turn.pairs).to(x_NHE)
        else:
            turned_NHR = _turned(turned_NHR, angles_2NE, self._turn.pairs)
        return turned_NHR if kept.shape[-1] == 0 else torch.cat([turned_NHR, kept], dim=-1)


def _turned(x_NHE: Tensor, angles_2NE: Tensor, pairs: Pairs) -> Tensor:
    """Every number of a head and its partner, turned by the angle of the number."""
    cos_N1E, sin_N1E = angles_2NE[:, :, None]
    if pairs == "halves":
        first, second = x_NHE.chunk(2, dim=-1)
        partner_NHE = torch.cat([-second, first], dim=-1)
    else:
        partner_NHE = torch.stack((-x_NHE[..., 1::2], x_NHE[..., ::2]), dim=-1).flatten(-2)
    return (x_NHE * cos_N1E + partner_NHE * sin_N1E).to(x_NHE.dtype)
