"""The same network as Hugging Face models have it: ``model.layers``, ``lm_head``, position ids.

Keys are cached rotated; a call appends its own to those of the calls before, so it serves a prefix
cache and no dual cache.

Shape letters: B batch, L rows of this call, T positions with keys, U key heads, E head width,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipstone.models.load import Model
from specimens.parts import RMSNorm, angles, frozen, rotate, weights

KeyValue = tuple[Tensor, Tensor]


@dataclass
class HFConfig:
    """The names that Hugging Face configurations use."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    num_hidden_layers: int
    intermediate_size: int
    vocab_size: int
    rope_theta: float
    rms_norm_eps: float
    mask_token_id: int
    eos_token_id: int


@dataclass
class HFOutput:
    """What a call returns."""

    logits: Tensor
    """[B, L, V]"""
    past_key_values: tuple[KeyValue, ...] | None
    """Keys and values [B, U, T, E] of each layer."""
    hidden_states: tuple[Tensor, ...] | None
    """Embedding, then [B, L, D] after each layer; the last one after the final norm."""


class Attention(nn.Module):
    """Self-attention over the cache and the rows of this call."""

    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.head_width = width // config.num_attention_heads
        kv = config.num_key_value_heads * self.head_width
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv, bias=False)
        self.v_proj = nn.Linear(width, kv, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        past: KeyValue | None,
        visible: Tensor | None,
    ) -> tuple[Tensor, KeyValue]:
        shape = (*x.shape[:-1], -1, self.head_width)
        q = rotate(self.q_proj(x).view(shape).transpose(1, 2), *turn)
        k = rotate(self.k_proj(x).view(shape).transpose(1, 2), *turn)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=visible, enable_gqa=q.shape[1] != k.shape[1]
        )
        out = out.transpose(1, 2).reshape(*x.shape[:-1], -1)
        return self.o_proj(out), (k, v)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        width, mlp = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, mlp, bias=False)
        self.up_proj = nn.Linear(width, mlp, bias=False)
        self.down_proj = nn.Linear(mlp, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """One layer."""

    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        turn: tuple[Tensor, Tensor],
        past: KeyValue | None,
        visible: Tensor | None,
    ) -> tuple[Tensor, KeyValue]:
        residual = hidden_states
        out, present = self.self_attn(self.input_layernorm(hidden_states), turn, past, visible)
        hidden_states = residual + out
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)), present


class Body(nn.Module):
    """Embedding, layers, norm."""

    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class HFModelForMaskedLM(nn.Module):
    """The whole model."""

    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.lm_head.weight.device

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: tuple[KeyValue, ...] | None = None,
        use_cache: bool = False,
        output_hidden_states: bool = False,
        cache_position: Tensor | None = None,
    ) -> HFOutput:
        """Run the rows ``input_ids`` [B, L] after those that ``past_key_values`` has.

        Args:
            attention_mask: 1 or 0 [B, T]: keys that may be seen.
            position_ids: [B, L], else ``cache_position`` [L], else counted on from the cache.
        """
        x = self.model.embed_tokens(input_ids)
        past_length = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        if cache_position is None:
            cache_position = torch.arange(
                past_length, past_length + x.shape[1], device=input_ids.device
            )
        if position_ids is None:
            position_ids = cache_position.unsqueeze(0)
        config = self.config
        head_width = config.hidden_size // config.num_attention_heads
        cos, sin = angles(position_ids, head_width, config.rope_theta)
        turn = cos.unsqueeze(1), sin.unsqueeze(1)
        visible = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        states, cache = [x], list[KeyValue]()
        for i, layer in enumerate(self.model.layers):
            past = None if past_key_values is None else past_key_values[i]
            x, present = layer(x, turn, past, visible)
            cache.append(present)
            states.append(x)
        states[-1] = self.model.norm(x)
        return HFOutput(
            logits=self.lm_head(states[-1]),
            past_key_values=tuple(cache) if use_cache else None,
            hidden_states=tuple(states) if output_hidden_states else None,
        )


_NAMES = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


def _renamed(name: str) -> str:
    if name.startswith("blocks."):
        _, index, child, leaf = name.split(".")
        return f"model.layers.{index}.{_NAMES[child]}.{leaf}"
    top = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
    return f"{top[name.removesuffix('.weight')]}.weight"


def from_model(model: Model) -> HFModelForMaskedLM:
    """This style with the weights of ``model``."""
    shape = model.config
    config = HFConfig(
        hidden_size=shape.width,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        num_hidden_layers=shape.num_layers,
        intermediate_size=shape.mlp_width,
        vocab_size=shape.vocab_size,
        rope_theta=shape.rope_theta,
        rms_norm_eps=shape.norm_eps,
        mask_token_id=shape.mask_id,
        eos_token_id=shape.eos_id,
    )
    net = HFModelForMaskedLM(config)
    frozen(net, {_renamed(k): v for k, v in weights(model).items()}, model)
    return net
