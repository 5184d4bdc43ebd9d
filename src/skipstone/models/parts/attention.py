"""Attention of packed rows over the K/V store of their requests.

Shape letters: N packed rows, D width, H query heads, U key/value heads, E head width, R rotated
part of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skipstone.memory.store import KeysAndValues
from skipstone.models.base import ModelConfig
from skipstone.models.parts.linear import Linear
from skipstone.ops.model import dispatch as ops
from skipstone.rows import Rows


class Attention:
    """Grouped-query attention; queries, keys and values come from one product."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate uninitialised weights."""
        head, queries = config.head_width, config.num_heads * config.head_width
        self._head_width, self._kv_width = head, config.num_kv_heads * head
        outputs = queries + 2 * self._kv_width
        self.qkv = Linear.empty(outputs, config.width, dtype, device, bias=config.qkv_bias)
        self.out = Linear.empty(config.width, queries, dtype, device)
        self.norms: ops.HeadNorms | None = None
        """Of each head of queries and keys, before it is rotated."""
        if config.qk_norm:
            query_E, key_E = torch.empty(2, head, dtype=dtype, device=device)
            self.norms = ops.HeadNorms(query_E, key_E, config.norm_eps)

    def __call__(
        self, normed_ND: Tensor, angles_2NR: Tensor, layer: int, rows: Rows, store: KeysAndValues
    ) -> Tensor:
        """Attend [N, H*E], before the last product; writes K/V of ``rows`` into the store."""
        qkv_NHE = self.qkv(normed_ND).unflatten(-1, (-1, self._head_width))
        q_NHE = store.write(layer, rows, qkv_NHE, angles_2NR, self.norms)
        return store.attend(layer, q_NHE, rows)

    def values(self, normed_ND: Tensor) -> Tensor:
        """The values [N, U, E] alone: the last part of the product."""
        return self.qkv.last(self._kv_width)(normed_ND).unflatten(-1, (-1, self._head_width))

    def places(self) -> dict[str, Tensor]:
        """Views of the weights by their place; a file may have Q, K, V as one or each by itself."""
        found = {"qkv": self.qkv.weight, "out": self.out.weight}
        found |= zip("qkv", self._split(self.qkv.weight), strict=True)
        if self.qkv.bias is not None:
            biases = self._split(self.qkv.bias)
            found |= {"qkv.bias": self.qkv.bias}
            found |= zip(("q.bias", "k.bias", "v.bias"), biases, strict=True)
        if self.norms is not None:
            found |= {"q_norm": self.norms.query_E, "k_norm": self.norms.key_E}
        return found

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        queries = qkv.shape[0] - 2 * self._kv_width
        return qkv.split([queries, self._kv_width, self._kv_width])
