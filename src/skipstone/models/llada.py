"""Dense LLaDA (8B Base, Instruct, 1.5) in plain PyTorch, from the published tensors.

Method: Nie et al., "Large Language Diffusion Models" (arXiv 2502.09992). Full bidirectional
attention, RMSNorm in float32, half-split rotary embedding, SwiGLU, no biases.

Shape letters: N packed rows, D width, V vocabulary, M MLP width, H query heads, U key/value heads,
E head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skipstone.memory.store import KVStore
from skipstone.models.base import ModelConfig
from skipstone.ops.model import dispatch as ops
from skipstone.rows import Rows

# The MLP is six times as wide as the states: of more rows at once it would take most of the memory.
_PIECE_ROWS = 4096


def _weight(*shape: int, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, dtype=dtype, device=device), requires_grad=False)


class Layer(nn.Module):
    """One transformer block; query, key, value and gate, up are fused for fewer products."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate uninitialised weights; a checkpoint fills them through ``published``."""
        super().__init__()
        self.config = config
        width, mlp = config.width, config.mlp_width
        heads = config.num_heads + 2 * config.num_kv_heads
        self.attn_norm = _weight(width, dtype=dtype, device=device)
        self.qkv = _weight(heads * config.head_width, width, dtype=dtype, device=device)
        self.attn_out = _weight(width, width, dtype=dtype, device=device)
        self.ff_norm = _weight(width, dtype=dtype, device=device)
        self.gate_up = _weight(2 * mlp, width, dtype=dtype, device=device)
        self.down = _weight(width, mlp, dtype=dtype, device=device)

    def published(self) -> dict[str, Tensor]:
        """Views of the weights under the names of the published checkpoint."""
        kv = self.config.num_kv_heads * self.config.head_width
        q, k, v = self.qkv.data.split([self.config.width, kv, kv])
        gate, up = self.gate_up.data.chunk(2)
        return {
            "attn_norm.weight": self.attn_norm.data,
            "q_proj.weight": q,
            "k_proj.weight": k,
            "v_proj.weight": v,
            "attn_out.weight": self.attn_out.data,
            "ff_norm.weight": self.ff_norm.data,
            "ff_proj.weight": gate,
            "up_proj.weight": up,
            "ff_out.weight": self.down.data,
        }

    def forward(
        self, x_ND: Tensor, angles_2NE: Tensor, index: int, rows: Rows, store: KVStore
    ) -> Tensor:
        """States of ``rows`` after this layer; overwrites their K/V in the store."""
        attended_ND = self._attention(x_ND, angles_2NE, index, rows, store)
        if rows.num_rows <= _PIECE_ROWS:
            return self._after_attention(x_ND, attended_ND)
        out_ND = torch.empty_like(x_ND)
        pieces = (values.split(_PIECE_ROWS) for values in (x_ND, attended_ND, out_ND))
        for x, attended, out in zip(*pieces, strict=True):
            out.copy_(self._after_attention(x, attended))
        return out_ND

    def _after_attention(self, x_ND: Tensor, attended_ND: Tensor) -> Tensor:
        x_ND, normed_ND = ops.linear_add_rms_norm(
            x_ND, attended_ND, self.attn_out, self.ff_norm, self.config.norm_eps
        )
        return ops.linear_add(x_ND, ops.linear_swiglu(normed_ND, self.gate_up), self.down)

    def _attention(
        self, x_ND: Tensor, angles_2NE: Tensor, index: int, rows: Rows, store: KVStore
    ) -> Tensor:
        config = self.config
        normed_ND = ops.rms_norm(x_ND, self.attn_norm, config.norm_eps)
        qkv_NHE = ops.linear(normed_ND, self.qkv).unflatten(-1, (-1, config.head_width))
        q_NHE = store.write(index, rows, qkv_NHE, angles_2NE)
        keys, values = store.keys[index], store.values[index]
        return ops.attend(q_NHE, keys, values, rows, store.visible_BL)


class LLaDA(nn.Module):
    """A LLaDA network for inference: embedding, layers, final norm and head."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate uninitialised weights in their final dtype and place."""
        super().__init__()
        self.config = config
        self.wte = _weight(config.vocab_size, config.width, dtype=dtype, device=device)
        self.layers = nn.ModuleList(Layer(config, dtype, device) for _ in range(config.num_layers))
        self.ln_f = _weight(config.width, dtype=dtype, device=device)
        self.ff_out = (
            self.wte
            if config.tied_head
            else _weight(config.vocab_size, config.width, dtype=dtype, device=device)
        )
        self.rotary_2LE = ops.rotary_tables(
            config.max_length, config.head_width, config.rope_theta, device
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and states."""
        return self.wte.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.wte.device

    def published(self) -> dict[str, Tensor]:
        """Views of all weights under the names of the published checkpoint."""
        root = "model.transformer."
        views = {f"{root}wte.weight": self.wte.data, f"{root}ln_f.weight": self.ln_f.data}
        if not self.config.tied_head:
            views[f"{root}ff_out.weight"] = self.ff_out.data
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            views |= {f"{root}blocks.{i}.{k}": v for k, v in layer.published().items()}
        return views

    def embed(self, ids_N: Tensor) -> Tensor:
        """Embed token ids, giving [N, D]."""
        return self.wte[ids_N]

    def angles(self, rows: Rows) -> Tensor:
        """Rotary cosine and sine [2, N, E] for the positions of ``rows``."""
        return self.rotary_2LE[:, rows.position_N]

    def layer(
        self, index: int, x_ND: Tensor, angles_2NE: Tensor, rows: Rows, store: KVStore
    ) -> Tensor:
        """Run layer ``index`` (from 0) on ``rows``; writes their K/V into the store."""
        return self.layers[index](x_ND, angles_2NE, index, rows, store)

    def final_norm(self, x_ND: Tensor) -> Tensor:
        """Normalise the output of the last layer."""
        return ops.rms_norm(x_ND, self.ln_f, self.config.norm_eps)

    def head(self, normed_ND: Tensor) -> Tensor:
        """Logits [N, V] of normalised states."""
        return ops.linear(normed_ND, self.ff_out)
