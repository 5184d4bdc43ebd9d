"""A whole forward and a whole decode in plain PyTorch: masks, loops and no cache.

It knows nothing of rows, stores or kernels, and reads the weights by their published names.

Shape letters: L positions, D width, H heads, E head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.models.base import ModelConfig, Network


def logits(network: Network, ids: Sequence[int]) -> Tensor:
    """Logits [L, V] of every position, by the row that scores it."""
    config, weights = network.config, network.published()
    x_LD = weights["model.embed_tokens.weight"][torch.tensor(ids)]
    for layer in range(config.num_layers):
        mine = {
            name.removeprefix(f"model.layers.{layer}."): weight
            for name, weight in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        normed = _norm(x_LD, mine["input_layernorm.weight"], config.norm_eps)
        x_LD = x_LD + _attention(normed, mine, config)
        normed = _norm(x_LD, mine["post_attention_layernorm.weight"], config.norm_eps)
        gate, up = normed @ mine["mlp.gate_proj.weight"].T, normed @ mine["mlp.up_proj.weight"].T
        x_LD = x_LD + F.silu(gate) * up @ mine["mlp.down_proj.weight"].T
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    raw_LV = _norm(x_LD, weights["model.norm.weight"], config.norm_eps) @ head.T
    if config.reach.score_offset == -1:
        return torch.cat([raw_LV[:1], raw_LV[:-1]])
    return raw_LV


def _attention(x_LD: Tensor, mine: dict[str, Tensor], config: ModelConfig) -> Tensor:
    heads = dict[str, Tensor]()
    for name in "qkv":
        out = x_LD @ mine[f"self_attn.{name}_proj.weight"].T
        out = out + mine.get(f"self_attn.{name}_proj.bias", 0.0)
        heads[name] = out.unflatten(-1, (-1, config.head_width)).transpose(0, 1)
    for name in "qk":
        if config.qk_norm:
            weight = mine[f"self_attn.{name}_norm.weight"]
            heads[name] = _norm(heads[name], weight, config.norm_eps)
        heads[name] = _rotated(heads[name], config)
    shared = config.num_heads // config.num_kv_heads
    k, v = (heads[name].repeat_interleave(shared, 0) for name in "kv")
    scores = heads["q"] @ k.transpose(1, 2) / config.head_width**0.5
    scores = scores.masked_fill(~_sees(x_LD.shape[0], config), -torch.inf)
    mixed = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
    return mixed @ mine["self_attn.o_proj.weight"].T


def _sees(length: int, config: ModelConfig) -> Tensor:
    """Bool [L, L]: whether a query sees a key."""
    at, block = torch.arange(length), config.reach.block_size
    if block is None:
        return torch.ones(length, length, dtype=torch.bool)
    return at[None] // block <= at[:, None] // block


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt()


def _rotated(x_HLE: Tensor, config: ModelConfig) -> Tensor:
    width = config.rotary_width
    # As the engine has them: float32, and cast to the model's dtype.
    exponent = torch.arange(0, width, 2, dtype=torch.float32) / width
    at, slower = torch.arange(x_HLE.shape[1], dtype=torch.float32), config.rope_theta**exponent
    angle = at[:, None] * (1 / slower) if config.rounds_rotation else at[:, None] / slower
    cos, sin = (f(angle).to(x_HLE.dtype) for f in (torch.cos, torch.sin))
    left, right, rest = x_HLE.split([width // 2, width // 2, x_HLE.shape[-1] - width], -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin, rest], -1)


def decode(
    network: Network,
    prompt: Sequence[int],
    blocks: Sequence[tuple[int, int]],
    *,
    threshold: float | None = None,
) -> list[int]:
    """New tokens: a whole forward a step, which commits the best mask, or all above a threshold.

    Args:
        network: any.
        prompt: ids.
        blocks: first and last offset + 1 of each block of what is decoded.
        threshold: None commits one token a step.
    """
    mask, start = network.config.mask_id, len(prompt)
    ids = [*prompt, *[mask] * blocks[-1][1]]
    for first, stop in blocks:
        while masked := [p for p in range(start + first, start + stop) if ids[p] == mask]:
            found = logits(network, ids)[masked].double()
            found[:, mask] = -torch.inf
            confidence, token = found.softmax(-1).max(-1)
            best = int(confidence.argmax())
            for i, position in enumerate(masked):
                if i == best or (threshold is not None and confidence[i] >= threshold):
                    ids[position] = int(token[i])
    return ids[start:]
