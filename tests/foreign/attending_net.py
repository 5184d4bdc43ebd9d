"""A net of attention and nothing else, every part of which may be wrong, in any way of writing it.

Shape letters: B batch, L positions, H query heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Bound before anything is attached, as many modelling files do.
from torch.nn.functional import scaled_dot_product_attention

import skipstone as st
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.foreign.attach.wanted import AttachLevel
from skipstone.record import MemoryTrace
from specimens.decode import one_by_one

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]
"""Of queries, keys and values [B, H, L, W], a mask that is true where a key is seen, a scale."""


def fused(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """Torch's own."""
    return scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)


MASK, LENGTH, START = 50, 20, 6


@dataclass(frozen=True)
class Made:
    """How a net computes attention; every field is one thing that may be wrong."""

    heads: int = 4
    key_heads: int = 2
    shift_queries: int = 0
    shift_keys: int = 0
    stretch: float = 1.0
    base: float = 10000.0
    scale: float | None = None
    window: int | None = None
    hides: tuple[int, ...] = ()
    tiled: bool = False
    rounded: bool = False
    rounded_turn: bool = False
    lost_bias: bool = False
    drops: int | None = None
    attend: Attend = fused


class Layer(nn.Module):
    """Attention and nothing else."""

    def __init__(self, made: Made, width: int) -> None:
        super().__init__()
        self.made = made
        self.each = width // made.heads
        kv = self.each * made.key_heads
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, kv), nn.Linear(width, kv)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        made = self.made
        q, k, v = (
            f(x).unflatten(-1, (-1, self.each)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        if made.lost_bias:
            k = k - self.k.bias.unflatten(0, (-1, self.each))[:, None]
        q, k = self.turned(q, made.shift_queries), self.turned(k, made.shift_keys)
        times = made.heads // made.key_heads
        if made.tiled:
            k, v = k.repeat(1, times, 1, 1), v.repeat(1, times, 1, 1)
        else:
            k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        if made.rounded:
            q, k, v = (t.bfloat16().float() for t in (q, k, v))
        if made.drops is not None:
            left = [j for j in range(k.shape[2]) if j != made.drops]
            k, v = k[:, :, left], v[:, :, left]
        scale = self.each**-0.5 if made.scale is None else made.scale
        mixed = made.attend(q, k, v, self.mask(q, k), scale)
        return x + self.out(mixed.transpose(1, 2).flatten(2))

    def mask(self, q: Tensor, k: Tensor) -> Tensor | None:
        """True where a key is seen."""
        rows, keys = torch.arange(q.shape[2]), torch.arange(k.shape[2])
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
        if self.made.window is not None:
            seen &= (rows[:, None] - keys).abs() <= self.made.window
        seen[:, list(self.made.hides)] = False
        return None if bool(seen.all()) else seen

    def turned(self, x: Tensor, by: int) -> Tensor:
        """Rotated by position."""
        made, half = self.made, self.each // 2
        rates = made.base ** -(torch.arange(half) / half)
        angles = torch.outer((torch.arange(x.shape[2]) + by) * made.stretch, rates)
        cos, sin = angles.cos(), angles.sin()
        a, b = x[..., :half], x[..., half:]
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        return turned.bfloat16().float() if made.rounded_turn else turned


class Net(nn.Module):
    """Logits [B, L, V] from ids."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Embedding(MASK + 1, 32)
        self.layers = nn.ModuleList(Layer(made, 32) for _ in range(3))
        self.head = nn.Linear(32, MASK + 1)
        self.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def recorded(made: Made, level: AttachLevel = "full") -> MemoryTrace:
    """A decode, recorded from outside."""
    net = Net(made)
    with st.attach(net, mask_id=MASK, level=level) as recorder:
        one_by_one(net, torch.arange(START)[None], LENGTH - START, MASK)
    return recorder.trace


def why(wrong: Made, right: Made = Made()) -> Diagnosis:
    """What is said of a net with one thing wrong; no model is at hand."""
    return st.diagnose(recorded(right), recorded(wrong))
