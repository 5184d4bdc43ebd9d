"""The same network as a script has it: a list of layers, called as ``net(ids)``, no cache.

Attention is written out with matmul and softmax, and nothing has a familiar name.

Shape letters: B batch, L positions, H heads, E head width, D width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipstone.models.base import ModelConfig
from skipstone.models.load import Model
from specimens.parts import RMSNorm, angles, frozen, rotate, weights


class Slab(nn.Module):
    """One layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, mlp = config.width, config.mlp_width
        kv = config.num_kv_heads * config.head_width
        self.heads, self.kv_heads = config.num_heads, config.num_kv_heads
        self.n1, self.n2 = RMSNorm(width, config.norm_eps), RMSNorm(width, config.norm_eps)
        self.qkv = nn.Linear(width, width + 2 * kv, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.wide = nn.Linear(width, 2 * mlp, bias=False)
        self.narrow = nn.Linear(mlp, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.mix(self.n1(x), cos, sin)
        gate, up = self.wide(self.n2(x)).chunk(2, dim=-1)
        return x + self.narrow(F.silu(gate) * up)

    def mix(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attention of all positions over all."""
        heads = self.qkv(x).unflatten(-1, (self.heads + 2 * self.kv_heads, -1)).permute(0, 2, 1, 3)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        shared = self.heads // self.kv_heads
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.permute(0, 2, 1, 3).flatten(2))


def forward(layers: nn.ModuleList, x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """States [B, L, D] after all layers."""
    slab = layers[0]
    assert isinstance(slab, Slab)
    cos, sin = angles(positions, x.shape[-1] // slab.heads, theta)
    for layer in layers:
        x = layer(x, cos, sin)
    return x


class Net(nn.Module):
    """Logits [B, L, V] from ids [B, L], and nothing else."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.vocab_size, config.width)
        self.pile = nn.ModuleList(Slab(config) for _ in range(config.num_layers))
        self.last = RMSNorm(config.width, config.norm_eps)
        self.words = nn.Linear(config.width, config.vocab_size, bias=False)
        self.theta = config.rope_theta

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self.words(self.last(forward(self.pile, self.table(ids), positions, self.theta)))


def from_model(model: Model) -> Net:
    """This style with the weights of ``model``."""
    given = weights(model)
    named = {
        "table.weight": given["wte.weight"],
        "last.weight": given["ln_f.weight"],
        "words.weight": given["ff_out.weight"],
    }
    for i in range(model.config.num_layers):
        old, new = f"blocks.{i}", f"pile.{i}"
        named[f"{new}.n1.weight"] = given[f"{old}.attn_norm.weight"]
        named[f"{new}.n2.weight"] = given[f"{old}.ff_norm.weight"]
        named[f"{new}.qkv.weight"] = torch.cat([given[f"{old}.{p}_proj.weight"] for p in "qkv"])
        named[f"{new}.out.weight"] = given[f"{old}.attn_out.weight"]
        pair = [given[f"{old}.ff_proj.weight"], given[f"{old}.up_proj.weight"]]
        named[f"{new}.wide.weight"] = torch.cat(pair)
        named[f"{new}.narrow.weight"] = given[f"{old}.ff_out.weight"]
    net = Net(model.config)
    frozen(net, named, model)
    return net
