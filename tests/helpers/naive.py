"""A whole forward and a whole decode in plain PyTorch: masks, loops and no cache.

It knows nothing of rows, stores or kernels, and reads the weights by their published names.

Shape letters: L positions, D width, H heads, E head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.models.base import ModelConfig, MoEConfig, Network
from skipstone.models.illada import ILLADA
from skipstone.models.load import Model
from skipstone.testing.tiny import tiny_model

# The head's first: the end of an MLP has its name.
_LLADA = {
    "model.transformer.ff_out": "lm_head",
    ".ff_out": ".mlp.down_proj",
    ".ff_proj": ".mlp.gate_proj",
    ".up_proj": ".mlp.up_proj",
    ".q_proj": ".self_attn.q_proj",
    ".k_proj": ".self_attn.k_proj",
    ".v_proj": ".self_attn.v_proj",
    ".attn_out": ".self_attn.o_proj",
    ".attn_norm": ".input_layernorm",
    ".ff_norm": ".post_attention_layernorm",
    "transformer.blocks.": "layers.",
    "transformer.wte": "embed_tokens",
    "transformer.ln_f": "norm",
}


def named_model(seed: int, kv_heads: int = 4) -> Model:
    """A random model of four layers, whose weights have the names that a naive decode reads."""
    shape = tiny_model(num_kv_heads=kv_heads).config
    config = replace(shape, architecture=ILLADA.name, rounds_rotation=True)
    return tiny_model(seed, norm_noise=0.2, config=config)


def logits(network: Network, ids: Sequence[int]) -> Tensor:
    """Logits [L, V] of every position, by the row that scores it."""
    config, weights = network.config, _in_llama_names(network)
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
        moe = config.moe_of(layer)
        x_LD = x_LD + (_mlp(normed, mine, "mlp.") if moe is None else _mixed(normed, mine, moe))
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    raw_LV = _norm(x_LD, weights["model.norm.weight"], config.norm_eps) @ head.T
    if config.reach.score_offset == -1:
        return torch.cat([raw_LV[:1], raw_LV[:-1]])
    return raw_LV


def _in_llama_names(network: Network) -> dict[str, Tensor]:
    """Weights by the names of Llama, which those of LLaDA and LLaDA2 are not in part."""
    named = dict[str, Tensor]()
    heads, kv = network.config.num_heads, network.config.num_kv_heads
    rows = [count * network.config.head_width for count in (heads, kv, kv)]
    others = {
        "word_embeddings": "embed_tokens",
        ".attention.dense": ".self_attn.o_proj",
        ".attention.": ".self_attn.",
        "query_layernorm": "q_norm",
        "key_layernorm": "k_norm",
    }
    for published, weight in network.published().items():
        names = _LLADA if published.startswith("model.transformer.") else others
        name = reduce(lambda found, pair: found.replace(*pair), names.items(), published)
        if "query_key_value" not in name:
            named[name] = weight
            continue
        for part, split in zip("qkv", weight.split(rows), strict=True):
            named[name.replace("query_key_value", f"{part}_proj")] = split
    return named


def _mlp(x: Tensor, mine: dict[str, Tensor], place: str) -> Tensor:
    gate, up, down = (mine[f"{place}{name}_proj.weight"].T for name in ("gate", "up", "down"))
    return F.silu(x @ gate) * (x @ up) @ down


def _mixed(x_LD: Tensor, mine: dict[str, Tensor], moe: MoEConfig) -> Tensor:
    """One row and one of its experts after the other."""
    router = moe.router
    shared = _mlp(x_LD, mine, "mlp.shared_experts.") if moe.shared_width else 0.0
    rows = list[Tensor]()
    for x_D in x_LD:
        logits_X = x_D @ mine["mlp.gate.weight"].T
        score_X = logits_X.softmax(-1) if router.scoring == "softmax" else logits_X.sigmoid()
        judged = (score_X + mine.get("mlp.gate.expert_bias", 0.0)).tolist()
        size = moe.num_experts // router.groups
        groups = [range(first, first + size) for first in range(0, moe.num_experts, size)]
        if router.groups > 1:
            groups.sort(key=lambda group: -sum(sorted(judged[x] for x in group)[-2:]))
        within = [x for group in groups[: router.top_groups] for x in group]
        best = sorted(within, key=lambda x: -judged[x])[: router.top_k]
        total = float(score_X[best].sum()) if router.normalised else 1.0
        outs = [_mlp(x_D, mine, f"mlp.experts.{x}.") * score_X[x] / total for x in best]
        rows.append(torch.stack(outs).sum(0) * router.scale)
    return torch.stack(rows) + shared


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
            found = logits(network, ids)[masked].double().softmax(-1)
            found[:, mask] = 0
            confidence, token = found.max(-1)
            best = int(confidence.argmax())
            for i, position in enumerate(masked):
                if i == best or (threshold is not None and confidence[i] >= threshold):
                    ids[position] = int(token[i])
    return ids[start:]
