"""A small network that can be called in any way, and knows which rows it was really given.

Shape letters: B batch, N rows of the call, L canvas length, H heads, E head width, D width,
V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, MASK, EOS = 40, 39, 38
_WIDTH, _HEADS, _LAYERS, _LONGEST = 16, 2, 3, 64

Cache = dict[int, tuple[Tensor, Tensor]]
"""Keys and values [B, H, longest, E] of each layer, by absolute position."""


class Layer(nn.Module):
    """Attention over all positions that are in the cache, or over the rows alone."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.out = nn.Linear(_WIDTH, _WIDTH)
        self.mlp = nn.Sequential(nn.Linear(_WIDTH, 32), nn.GELU(), nn.Linear(32, _WIDTH))

    def forward(self, x: Tensor, at_BN: Tensor, cache: Cache | None, number: int) -> Tensor:
        heads = self.qkv(F.layer_norm(x, (_WIDTH,))).unflatten(-1, (3 * _HEADS, -1)).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=1)
        hidden = None
        if cache is not None:
            k, v, hidden = _stored(k, v, at_BN, cache, number)
        weights = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if hidden is not None:
            weights = weights.masked_fill(hidden[:, None, None], -torch.inf)
        x = x + self.out((weights.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.mlp(F.layer_norm(x, (_WIDTH,)))


def _stored(
    k: Tensor, v: Tensor, at_BN: Tensor, cache: Cache, number: int
) -> tuple[Tensor, Tensor, Tensor]:
    """All keys and values with the fresh rows in them, and bool [B, longest]: what is not there."""
    if number not in cache:
        empty = k.new_full((len(k), _HEADS, _LONGEST, k.shape[-1]), torch.nan)
        cache[number] = (empty, empty.clone())
    index = at_BN[:, None, :, None].expand_as(k)
    for store, fresh in zip(cache[number], (k, v), strict=True):
        store.scatter_(2, index, fresh)
    keys, values = (store.nan_to_num() for store in cache[number])
    return keys, values, cache[number][0][:, 0, :, 0].isnan()


class Body(nn.Module):
    """States of the rows; logs where they really stand."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, _WIDTH)
        self.places = nn.Embedding(_LONGEST, _WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(_LAYERS))
        self.calls = list[Tensor]()
        """True positions [B, N] of the rows of every call."""

    def forward(
        self,
        ids: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
        embeds: Tensor | None = None,
    ) -> Tensor:
        """States [B, N, D]."""
        x = self.table(ids) if embeds is None else embeds
        at = torch.arange(x.shape[1]) if positions is None else positions
        at_BN = at.expand(x.shape[:2])
        self.calls.append(at_BN)
        x = x + self.places(at_BN)
        for number, layer in enumerate(self.layers):
            x = layer(x, at_BN, cache, number)
        return x


class Network(nn.Module):
    """Logits [B, N, V]; subclasses are called in their own ways."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.model = Body()
        self.head = nn.Linear(_WIDTH, VOCABULARY)
        self.requires_grad_(False).eval().double()

    def run(
        self,
        ids: Tensor | None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
        embeds: Tensor | None = None,
    ) -> Tensor:
        """What every way of calling comes to."""
        return self.head(self.model(ids, positions, cache, embeds))


class Plain(Network):
    """Called with ids alone: all rows, no cache."""

    def forward(self, ids: Tensor) -> Tensor:
        """All rows."""
        return self.run(ids)
