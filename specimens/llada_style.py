"""LLaDA as its remote code has it, with a dual cache and a token skip added by hand.

Keys are cached before rotation and rotated anew in each call. The token skip compares row j of the
states of the call before with row j of this one, whatever positions these are; ``aligned`` repairs
that.

Shape letters: B batch, L rows of this call, T cached positions, H query heads, U key heads,
E head width, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipstone.models.base import ModelConfig
from skipstone.models.load import Model
from specimens.parts import RMSNorm, angles, frozen, rotate, weights

KeyValue = tuple[Tensor, Tensor]


@dataclass
class LLaDAConfig:
    """The names that published LLaDA configurations use."""

    d_model: int
    n_heads: int
    n_kv_heads: int
    n_layers: int
    mlp_hidden_size: int
    vocab_size: int
    rope_theta: float
    rms_norm_eps: float
    mask_token_id: int
    eos_token_id: int
    aligned: bool = False
    """Whether the skip takes its reference rows by position."""
    similarity_dtype: torch.dtype | None = None
    """What the skip computes its cosines in; None for the dtype of the states."""


@dataclass
class Output:
    """What a call returns."""

    logits: Tensor
    """[B, L, V]"""
    past_key_values: list[KeyValue] | None
    """Keys and values [B, U, T, E] of each layer."""
    hidden_states: tuple[Tensor, ...] | None
    """Embedding, then [B, L, D] after each layer; the last one after the final norm."""


class LLaDABlock(nn.Module):
    """One layer."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        width, mlp = config.d_model, config.mlp_hidden_size
        self.config = config
        self.head_width = width // config.n_heads
        kv = config.n_kv_heads * self.head_width
        self.attn_norm = RMSNorm(width, config.rms_norm_eps)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv, bias=False)
        self.v_proj = nn.Linear(width, kv, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_norm = RMSNorm(width, config.rms_norm_eps)
        self.ff_proj = nn.Linear(width, mlp, bias=False)
        self.up_proj = nn.Linear(width, mlp, bias=False)
        self.ff_out = nn.Linear(mlp, width, bias=False)

    def forward(
        self, x: Tensor, layer_past: KeyValue | None, replace_position: Tensor | None
    ) -> tuple[Tensor, KeyValue]:
        normed = self.attn_norm(x)
        q, k, v = (self._heads(p(normed)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if layer_past is not None:
            k, v = self._cached(k, v, layer_past, replace_position)
        x = x + self.attn_out(self._attention(q, k, v, replace_position))
        normed = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(normed)) * self.up_proj(normed)), (k, v)

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return x.view(batch, length, -1, self.head_width).transpose(1, 2)

    def _cached(
        self, k: Tensor, v: Tensor, past: KeyValue, replace_position: Tensor | None
    ) -> KeyValue:
        """The whole cache with the fresh rows in it; the dual cache is overwritten in place."""
        past_k, past_v = past
        if replace_position is None:
            return torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2)
        for b in range(k.shape[0]):
            slots = replace_position[b].nonzero().squeeze(-1)
            past_k[b, :, slots] = k[b]
            past_v[b, :, slots] = v[b]
        return past_k, past_v

    def _attention(
        self, q: Tensor, k: Tensor, v: Tensor, replace_position: Tensor | None
    ) -> Tensor:
        total, rows = k.shape[2], q.shape[2]
        cos, sin = angles(
            torch.arange(total, device=q.device), self.head_width, self.config.rope_theta
        )
        k = rotate(k, cos, sin)
        if replace_position is None:
            q = rotate(q, cos[total - rows :], sin[total - rows :])
        else:
            slots = replace_position[0].nonzero().squeeze(-1)
            q = rotate(q, cos[slots], sin[slots])
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])
        return out.transpose(1, 2).flatten(2)


class LLaDAModel(nn.Module):
    """The body; its children hang in a ModuleDict, as in the published code."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.d_model),
                "blocks": nn.ModuleList(LLaDABlock(config) for _ in range(config.n_layers)),
                "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
                "ff_out": nn.Linear(config.d_model, config.vocab_size, bias=False),
            }
        )

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: list[KeyValue] | None,
        replace_position: Tensor | None,
        prev_hidden: tuple[Tensor, ...] | None,
        skip_layer_k: int | None,
        skip_threshold: float,
        skip_outlier: float,
    ) -> tuple[Tensor, list[KeyValue], tuple[Tensor, ...]]:
        """Logits, cache and states; at layer ``skip_layer_k`` stable rows leave."""
        x = self.transformer["wte"](input_ids)
        states, cache, active = [x], list[KeyValue](), None
        blocks = self.transformer["blocks"]
        assert isinstance(blocks, nn.ModuleList)
        for layer, block in enumerate(blocks, start=1):
            if prev_hidden is not None and layer == skip_layer_k:
                prev_hidden = self._reference(prev_hidden, states[0], replace_position)
                stable = self._stable(prev_hidden, states, layer, skip_threshold, skip_outlier)
                active = (~stable).nonzero().squeeze(-1)
                if active.numel() == 0:
                    cache += past_key_values[layer - 1 :] if past_key_values else []
                    states += prev_hidden[layer:]
                    break
                x, replace_position = x[:, active], _only(active, replace_position)
            past = past_key_values[layer - 1] if past_key_values is not None else None
            x, present = block(x, past, replace_position)
            cache.append(present)
            if layer < len(blocks):
                states.append(_filled(x, active, prev_hidden, layer))
        else:
            x = self.transformer["ln_f"](x)
            states.append(_filled(x, active, prev_hidden, len(blocks)))
        return self.transformer["ff_out"](states[-1]), cache, tuple(states)

    def _reference(
        self, prev_hidden: tuple[Tensor, ...], now: Tensor, replace_position: Tensor | None
    ) -> tuple[Tensor, ...]:
        """The states of the call before, as many rows as there are now."""
        rows = now.shape[1]
        if self.config.aligned and prev_hidden[0].shape[1] > rows and replace_position is not None:
            slots = replace_position[0].nonzero().squeeze(-1)
            return tuple(h[:, slots] for h in prev_hidden)
        return tuple(h[:, :rows] for h in prev_hidden)

    def _stable(
        self,
        prev_hidden: tuple[Tensor, ...],
        states: list[Tensor],
        layer_k: int,
        threshold: float,
        outlier: float,
    ) -> Tensor:
        """bool [L]: rows whose states after layers 1..K-1 have hardly changed."""
        dtype = self.config.similarity_dtype or states[0].dtype
        stable = torch.zeros(states[0].shape[1], dtype=torch.bool, device=states[0].device)
        for j in range(states[0].shape[1]):
            cosines = list[float]()
            for layer in range(1, layer_k):
                h1 = prev_hidden[layer][0, j, :].to(dtype)
                h2 = states[layer][0, j, :].to(dtype)
                cosine = F.cosine_similarity(h1.unsqueeze(0), h2.unsqueeze(0), dim=-1)
                cosines.append(min(1.0, cosine.item()))
            mean = sum(cosines) / len(cosines)
            stable[j] = min(cosines) >= outlier and mean > threshold
        return stable


class LLaDAModelLM(nn.Module):
    """The whole model, called as the published one is."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.config = config
        self.model = LLaDAModel(config)

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return next(self.parameters()).device

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: list[KeyValue] | None = None,
        use_cache: bool = False,
        replace_position: Tensor | None = None,
        output_hidden_states: bool = False,
        prev_hidden: tuple[Tensor, ...] | None = None,
        skip_layer_k: int | None = None,
        skip_threshold: float = 1.0,
        skip_outlier: float = 0.7,
    ) -> Output:
        """Run the rows ``input_ids`` [B, L]; with ``replace_position`` [B, T] at these places."""
        logits, cache, states = self.model(
            input_ids,
            past_key_values,
            replace_position,
            prev_hidden,
            skip_layer_k,
            skip_threshold,
            skip_outlier,
        )
        return Output(
            logits, cache if use_cache else None, states if output_hidden_states else None
        )


def _only(active: Tensor, replace_position: Tensor | None) -> Tensor | None:
    """``replace_position`` without the rows that left."""
    if replace_position is None:
        return None
    kept = torch.zeros_like(replace_position)
    kept[:, replace_position[0].nonzero().squeeze(-1)[active]] = True
    return kept


def _filled(
    x: Tensor, active: Tensor | None, prev_hidden: tuple[Tensor, ...] | None, layer: int
) -> Tensor:
    """The states of all rows: those that left keep the ones of the call before."""
    if active is None or prev_hidden is None:
        return x
    full = prev_hidden[layer].clone()
    full[:, active] = x
    return full


def llada_config(config: ModelConfig) -> LLaDAConfig:
    """The same shape under the published names."""
    return LLaDAConfig(
        d_model=config.width,
        n_heads=config.num_heads,
        n_kv_heads=config.num_kv_heads,
        n_layers=config.num_layers,
        mlp_hidden_size=config.mlp_width,
        vocab_size=config.vocab_size,
        rope_theta=config.rope_theta,
        rms_norm_eps=config.norm_eps,
        mask_token_id=config.mask_id,
        eos_token_id=config.eos_id,
    )


def from_model(
    model: Model, *, aligned: bool = False, similarity_dtype: torch.dtype | None = None
) -> LLaDAModelLM:
    """This style with the weights of ``model``; the options are those of its token skip."""
    config = llada_config(model.config)
    config.aligned, config.similarity_dtype = aligned, similarity_dtype
    net = LLaDAModelLM(config)
    named = {f"model.transformer.{k}": v for k, v in weights(model).items()}
    frozen(net, named, model)
    return net
