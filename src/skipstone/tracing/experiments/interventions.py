"""A run in which chosen values are replaced, and rows are turned to other positions.

Shape letters: N packed rows, D width, V vocabulary, H query heads, U key/value heads, E head width,
F angles of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import StepContext
from skipstone.diagnosis.experiment import STRAIGHT, Pairs, Patch, Turn
from skipstone.engine.forward.runner import Pass
from skipstone.engine.score.scorer import Scorer
from skipstone.memory.store import KVStore
from skipstone.models.base import ModelConfig, Network
from skipstone.ops.model import reference as ops
from skipstone.record import Tap
from skipstone.rows import Rows


@dataclass(frozen=True, eq=False)
class Intervention:
    """What is done to a network."""

    patches: Sequence[Patch] = ()
    turn: Turn = STRAIGHT
    since: int = 0
    """The first forward whose rows are turned."""
    nudge: bool = False
    """Move every embedded value by at most one unit in the last place."""


class PatchedNetwork:
    """A network in which chosen rows of states, keys and values are replaced or turned."""

    def __init__(
        self, inner: Network, forward: Callable[[], int], intervention: Intervention
    ) -> None:
        """Stand before a network; ``forward`` says which recorded forward is being taken."""
        self._inner, self._forward = inner, forward
        self._done = intervention
        self._patches = {(p.tap, p.forward, p.layer): p for p in intervention.patches}

    @property
    def config(self) -> ModelConfig:
        """As it is."""
        return self._inner.config

    @property
    def dtype(self) -> torch.dtype:
        """As it is."""
        return self._inner.dtype

    @property
    def device(self) -> torch.device:
        """As it is."""
        return self._inner.device

    def published(self) -> dict[str, Tensor]:
        """As they are."""
        return self._inner.published()

    def copy(self, dtype: torch.dtype) -> PatchedNetwork:
        """As it is, in another dtype."""
        return PatchedNetwork(self._inner.copy(dtype), self._forward, self._done)

    def embed(self, ids_N: Tensor) -> Tensor:
        """As it is."""
        return self._inner.embed(ids_N)

    def angles(self, rows: Rows) -> Tensor:
        """As they are."""
        return self._inner.angles(rows)

    def final_norm(self, x_ND: Tensor) -> Tensor:
        """As it is."""
        return self._inner.final_norm(x_ND)

    def head(self, normed_ND: Tensor) -> Tensor:
        """As it is."""
        return self._inner.head(normed_ND)

    def layer(
        self, index: int, x_ND: Tensor, angles_2NR: Tensor, rows: Rows, store: KVStore
    ) -> Tensor:
        """One layer, with what is to be done to it."""
        if index == 0 and self._done.nudge:
            x_ND = _last_bit(x_ND, rows)
        # A patched state enters the next layer; whoever taps sees what this layer itself gave.
        x_ND = self._state(index, x_ND, rows)
        forward = self._forward()
        if self._done.turn != STRAIGHT and forward >= self._done.since:
            store = _TurnedStore(store, self._rotation)
        key, value = (self._patches.get((t, forward, index + 1)) for t in (Tap.KEY, Tap.VALUE))
        if key is not None or value is not None:
            store = _PatchedStore(store, key, value)
            store.patch(index)
        x_ND = self._inner.layer(index, x_ND, angles_2NR, rows, store)
        last = index + 1 == self.config.num_layers
        return self._state(index + 1, x_ND, rows) if last else x_ND

    @cached_property
    def _rotation(self) -> _Rotation:
        return _Rotation(self.config, self._done.turn)

    def _state(self, layer: int, x_ND: Tensor, rows: Rows) -> Tensor:
        patch = self._patches.get((Tap.STATE, self._forward(), layer))
        return x_ND if patch is None else _replaced(x_ND, rows, patch)


def _replaced(values_NW: Tensor, rows: Rows, patch: Patch) -> Tensor:
    """A copy with the patched rows of request 0 put in."""
    _, mine, theirs = np.intersect1d(
        np.where(rows.request == 0, rows.position, -1), patch.positions, return_indices=True
    )
    new = torch.from_numpy(patch.values[theirs].astype(np.float64)).to(values_NW)
    return values_NW.index_copy(0, torch.from_numpy(mine).to(values_NW.device), new)


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
        self.turn = turn
        width = config.rotary_width
        exponent_F = torch.arange(0, width, 2, dtype=torch.float32) / width
        self._slower_F = (turn.base or config.rope_theta) ** exponent_F

    def queries(self, q_NHE: Tensor, rows: Rows) -> Tensor:
        """Queries as this rotation gives them."""
        scale = q_NHE.shape[-1] ** self.turn.width_power
        return self._rotated(q_NHE, rows, self.turn.queries) * scale

    def keys(self, key_NUE: Tensor, rows: Rows) -> Tensor:
        """Keys as this rotation gives them."""
        return self._rotated(key_NUE, rows, self.turn.keys)

    def _rotated(self, x_NHE: Tensor, rows: Rows, by: int) -> Tensor:
        position_N1 = (rows.position_N[:, None] + by).float() * self.turn.stretch
        angle_NF = position_N1 / self._slower_F.to(x_NHE.device)
        together = self.turn.pairs == "neighbours"
        angle_NE = angle_NF.repeat_interleave(2, -1) if together else angle_NF.repeat(1, 2)
        angles_2NE = torch.stack([angle_NE.cos(), angle_NE.sin()])
        turned_NHR, kept = x_NHE.tensor_split([angles_2NE.shape[-1]], dim=-1)
        if self.turn.rounded:
            rounded = turned_NHR.bfloat16(), angles_2NE.bfloat16()
            turned_NHR = _turned(*rounded, self.turn.pairs).to(x_NHE)
        else:
            turned_NHR = _turned(turned_NHR, angles_2NE, self.turn.pairs)
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


class _TurnedStore(KVStore):
    """Writes through to a store, with queries and keys rotated otherwise."""

    def __init__(self, inner: KVStore, rotation: _Rotation) -> None:
        self._inner, self._rotation = inner, rotation
        self.keys, self.values = inner.keys, inner.values
        self.visible_BL = inner.visible_BL

    def base(self, slot: int) -> int:
        """As it is."""
        return self._inner.base(slot)

    def write(
        self,
        layer: int,
        rows: Rows,
        qkv_NHE: Tensor,
        angles_2NR: Tensor,
        norms: ops.HeadNorms | None = None,
    ) -> Tensor:
        keys, values = self.keys[layer], self.values[layer]
        shared = keys.shape[-2]
        if norms is not None:
            turned, value_NUE = qkv_NHE.tensor_split([qkv_NHE.shape[1] - shared], dim=1)
            qkv_NHE = torch.cat([ops.normed_heads(turned, shared, norms), value_NUE], dim=1)
        heads = [qkv_NHE.shape[1] - 2 * shared, shared, shared]
        q_NHE, key_NUE, value_NUE = qkv_NHE.split(heads, dim=1)
        ops.write_rows(keys, values, rows, self._rotation.keys(key_NUE, rows), value_NUE)
        return self._rotation.queries(q_NHE, rows).contiguous()


class _PatchedStore(KVStore):
    """Writes through to a store, and puts the patch in whatever is written."""

    def __init__(self, inner: KVStore, key: Patch | None, value: Patch | None) -> None:
        self._inner = inner
        self.keys, self.values = inner.keys, inner.values
        self.visible_BL = inner.visible_BL
        self._parts = ((self.keys, key), (self.values, value))

    def write(
        self,
        layer: int,
        rows: Rows,
        qkv_NHE: Tensor,
        angles_2NR: Tensor,
        norms: ops.HeadNorms | None = None,
    ) -> Tensor:
        q_NHE = self._inner.write(layer, rows, qkv_NHE, angles_2NR, norms)
        self.patch(layer)
        return q_NHE

    def patch(self, layer: int) -> None:
        """Overwrite the patched positions of request 0."""
        for store, patch in self._parts:
            if patch is not None:
                where = torch.from_numpy(patch.positions.astype(np.int64)).to(store.device)
                new = torch.from_numpy(patch.values.astype(np.float64)).to(store)
                store[layer, self._inner.base(0) + where] = new.unflatten(-1, store.shape[-2:])


class PatchedScorer(Scorer):
    """A scorer that may be told the logits of some rows."""

    def __init__(self, inner: Scorer, patches: Sequence[Patch]) -> None:
        """Take the place of a scorer."""
        self.__dict__.update(vars(inner))
        self._patches = {p.forward: p for p in patches if p.tap is Tap.LOGITS}

    def _write(
        self, rows: Rows, logits_NV: Tensor, index_2N: Tensor, done: Pass, context: StepContext
    ) -> None:
        patch = self._patches.get(context.of(0).forward)
        if patch is not None:
            logits_NV.copy_(_replaced(logits_NV, rows, patch))
        super()._write(rows, logits_NV, index_2N, done, context)
