"""A network as Dream, SDAR and their kin have it: Qwen's names, biases or head norms, a 4-D mask.

Keys are cached rotated. A call reads the cache that it is given and returns a longer one, which the
loop keeps or throws away.

Shape letters: B batch, R rows of this call, T keys, U key heads, E head width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipstone.models.base import ModelConfig
from skipstone.models.load import Model
from specimens.parts import RMSNorm, angles, rotate

KeyValue = tuple[Tensor, Tensor]


@dataclass
class Output:
    """What a call returns."""

    logits: Tensor
    """[B, R, V]"""
    past_key_values: tuple[KeyValue, ...]
    """Keys and values [B, U, T, E] of each layer."""


class Attention(nn.Module):
    """Self-attention over the cache and the rows of this call."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, head = config.width, config.head_width
        bias, self.head_width = config.qkv_bias, head
        self.q_proj = nn.Linear(width, config.num_heads * head, bias=bias)
        self.k_proj = nn.Linear(width, config.num_kv_heads * head, bias=bias)
        self.v_proj = nn.Linear(width, config.num_kv_heads * head, bias=bias)
        self.o_proj = nn.Linear(config.num_heads * head, width, bias=False)
        if config.qk_norm:
            self.q_norm = RMSNorm(head, config.norm_eps)
            self.k_norm = RMSNorm(head, config.norm_eps)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], past: KeyValue | None, mask: Tensor | None
    ) -> tuple[Tensor, KeyValue]:
        q, k, v = (self._heads(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        q, k = rotate(q, *turn), rotate(k, *turn)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2)), (k, v)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_width)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down_proj = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """One layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], past: KeyValue | None, mask: Tensor | None
    ) -> tuple[Tensor, KeyValue]:
        out, present = self.self_attn(self.input_layernorm(x), turn, past, mask)
        x = x + out
        return x + self.mlp(self.post_attention_layernorm(x)), present


class Body(nn.Module):
    """Embedding, layers, norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width, config.norm_eps)


class QwenModel(nn.Module):
    """The whole model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.shape = config
        self.model = Body(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: tuple[KeyValue, ...] | None = None,
    ) -> Output:
        """Rows of a canvas; ``attention_mask``, bool [1, 1, R, T], is True for keys in sight."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        cos, sin = angles(position_ids, self.shape.head_width, self.shape.rope_theta)
        turn = cos[:, None], sin[:, None]
        x, present = self.model.embed_tokens(input_ids), list[KeyValue]()
        for i, layer in enumerate(self.model.layers):
            past = None if past_key_values is None else past_key_values[i]
            x, kept = layer(x, turn, past, attention_mask)
            present.append(kept)
        return Output(self.lm_head(self.model.norm(x)), tuple(present))


def from_model(model: Model) -> QwenModel:
    """The same weights, under the names that they are published by."""
    named = {name: t.clone() for name, t in model.network.published().items()}
    named.setdefault("lm_head.weight", named["model.embed_tokens.weight"])
    net = QwenModel(model.config)
    net.to(device=model.network.device, dtype=model.network.dtype)
    net.load_state_dict(named)
    net.requires_grad_(False).eval()
    return net
