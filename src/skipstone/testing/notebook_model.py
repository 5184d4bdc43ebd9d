"""My own modelling file: LLaDA with a dual cache, and a token skip written by hand.

A token whose hidden states have hardly changed since the step before is meant to leave at layer
``skip_layer_k``. The skip is as its author first wrote it: it takes row j of the step before
whatever position that is, and computes its cosine in the dtype of the model. ``repaired`` is the
same without these two faults.

Shape letters: B batch, N rows of a call, L canvas length, H heads, E head width, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skipstone
from skipstone.models.base import ModelConfig

KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class NotebookConfig:
    """What the model needs to know."""

    width: int
    heads: int
    layers: int
    mlp_width: int
    vocab_size: int
    rope_theta: float
    mask_token_id: int
    eos_token_id: int
    repaired: bool
    """Whether the skip compares the right rows, in float32."""


@dataclass(frozen=True)
class Output:
    """What a call gives back."""

    logits: Tensor
    past_key_values: list[KeyValue]
    """Keys, not yet rotated, and values of each layer: [B, H, L, E]."""
    hidden_states: tuple[Tensor, ...]
    """The embedding and the states after each layer, [B, N, D]."""


class DecoderLayer(nn.Module):
    """One layer."""

    def __init__(self, config: NotebookConfig) -> None:
        """Allocate the weights."""
        super().__init__()
        width, mlp = config.width, config.mlp_width
        self.config = config
        self.attn_norm = nn.RMSNorm(width, eps=1e-5)
        self.ff_norm = nn.RMSNorm(width, eps=1e-5)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_proj = nn.Linear(width, mlp, bias=False)
        self.up_proj = nn.Linear(width, mlp, bias=False)
        self.ff_out = nn.Linear(mlp, width, bias=False)

    def forward(
        self, x: Tensor, past: KeyValue | None, slots: Tensor | None
    ) -> tuple[Tensor, KeyValue]:
        """States of the rows, whose keys and values go into the cache at ``slots``."""
        normed = self.attn_norm(x)
        q, k, v = (self._heads(p(normed)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if past is not None and slots is not None:
            past[0][:, :, slots] = k
            past[1][:, :, slots] = v
            k, v = past
        mixed = F.scaled_dot_product_attention(self._turn(q, slots), self._turn(k, None), v)
        x = x + self.attn_out(mixed.transpose(1, 2).flatten(2))
        normed = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(normed)) * self.up_proj(normed)), (k, v)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.config.heads, -1)).transpose(1, 2)

    def _turn(self, x: Tensor, slots: Tensor | None) -> Tensor:
        """Rotate [B, H, N, E] by the positions of the rows; None if these are all."""
        places = torch.arange(x.shape[2], device=x.device) if slots is None else slots
        half = torch.arange(0, x.shape[-1], 2, device=x.device) / x.shape[-1]
        angle = places[:, None].float() / self.config.rope_theta**half
        angle = torch.cat([angle, angle], dim=-1)
        first, second = x.float().chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
        return (x.float() * angle.cos() + turned * angle.sin()).to(x.dtype)


class Body(nn.Module):
    """Embedding, layers, norm and head, under their published names."""

    def __init__(self, config: NotebookConfig) -> None:
        """Allocate the weights."""
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.ln_f = nn.RMSNorm(config.width, eps=1e-5)
        self.ff_out = nn.Linear(config.width, config.vocab_size, bias=False)


class NotebookModel(nn.Module):
    """The whole model."""

    def __init__(self, config: NotebookConfig) -> None:
        """Allocate the weights."""
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict({"transformer": Body(config)})

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: list[KeyValue] | None = None,
        replace_position: Tensor | None = None,
        prev_hidden: tuple[Tensor, ...] | None = None,
        skip_layer_k: int | None = None,
        skip_threshold: float = 1.0,
        skip_outlier: float = 0.7,
    ) -> Output:
        """Run the rows ``input_ids`` [1, N], which stand where ``replace_position`` [1, L] is."""
        body = self.model["transformer"]
        assert isinstance(body, Body)
        slots = None if replace_position is None else replace_position[0].nonzero().squeeze(-1)
        x, stay = body.wte(input_ids), torch.arange(input_ids.shape[1])
        states, cache, before = [x], list[KeyValue](), tuple[Tensor, ...]()
        for layer, block in enumerate(body.blocks, start=1):
            if layer == skip_layer_k and prev_hidden is not None:
                before = self._rows_before(prev_hidden, input_ids.shape[1], slots)
                stable = self._stable(before, states, skip_threshold, skip_outlier)
                stay = (~stable).nonzero().squeeze(-1)
            # Without a row left there is nothing to compute, and the cache keeps what it has.
            if stay.numel() == 0 and past_key_values is not None:
                states.append(before[layer])
                cache.append(past_key_values[layer - 1])
                continue
            past = None if past_key_values is None else past_key_values[layer - 1]
            row_slots = None if slots is None else slots[stay]
            rows = x if x.shape[1] == stay.numel() else x[:, stay]
            x, present = block(rows, past, row_slots)
            cache.append(present)
            states.append(_with_rows(before[layer] if before else x, stay, x))
        return Output(body.ff_out(body.ln_f(states[-1])), cache, tuple(states))

    def _rows_before(
        self, prev_hidden: tuple[Tensor, ...], rows: int, slots: Tensor | None
    ) -> tuple[Tensor, ...]:
        """The states of the step before, for as many rows as there are now."""
        if self.config.repaired and slots is not None and prev_hidden[0].shape[1] > rows:
            return tuple(h[:, slots] for h in prev_hidden)
        return tuple(h[:, :rows] for h in prev_hidden)

    def _stable(
        self, before: tuple[Tensor, ...], now: list[Tensor], threshold: float, outlier: float
    ) -> Tensor:
        """Rows that have hardly changed in the layers so far."""
        stable = torch.zeros(now[0].shape[1], dtype=torch.bool)
        for j in range(now[0].shape[1]):
            cosines = list[float]()
            for layer in range(1, len(now)):
                h1, h2 = before[layer][0, j], now[layer][0, j]
                if self.config.repaired:
                    h1, h2 = h1.float(), h2.float()
                cosine = F.cosine_similarity(h1.unsqueeze(0), h2.unsqueeze(0), dim=-1)
                cosines.append(min(1.0, cosine.item()))
            stable[j] = min(cosines) >= outlier and sum(cosines) / len(cosines) > threshold
        return stable


def _with_rows(whole: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """A copy of ``whole`` [B, N, D] with some rows replaced."""
    if values.shape == whole.shape:
        return values
    copy = whole.clone()
    copy[:, rows] = values
    return copy


def from_pebble(*, repaired: bool, dtype: torch.dtype = torch.bfloat16) -> NotebookModel:
    """The model with the weights that come with Skipstone."""
    network = skipstone.load("pebble", device="cpu").network
    model = NotebookModel(_config(network.config, repaired=repaired))
    model.load_state_dict(network.published())
    return model.to(dtype).requires_grad_(False).eval()


def _config(config: ModelConfig, *, repaired: bool) -> NotebookConfig:
    return NotebookConfig(
        width=config.width,
        heads=config.num_heads,
        layers=config.num_layers,
        mlp_width=config.mlp_width,
        vocab_size=config.vocab_size,
        rope_theta=config.rope_theta,
        mask_token_id=config.mask_id,
        eos_token_id=config.eos_id,
        repaired=repaired,
    )
