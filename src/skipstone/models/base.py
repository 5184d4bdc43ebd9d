"""What the engine asks of a model: embed rows, run one layer on rows, read logits from rows.

Shape letters: N packed rows, D width, V vocabulary, B requests, L canvas length,
H query heads, U key/value heads, E head width, R rotated part of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from skipstone.memory.store import KVStore
from skipstone.reach import FULL, Reach
from skipstone.rows import Rows


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model, how its rows depend on each other, and its special ids."""

    architecture: str
    """Name of its entry in the table, as ``architectures`` in config.json has it."""
    width: int
    """D, of a hidden state."""
    num_layers: int
    num_heads: int
    """H."""
    num_kv_heads: int
    """U."""
    head_width: int
    """E."""
    mlp_width: int
    vocab_size: int
    """V, rows of the embedding and of the head."""
    max_length: int
    rope_theta: float
    norm_eps: float
    tied_head: bool
    mask_id: int
    eos_id: int
    rotary_share: float = 1.0
    """Part of a head that is rotated, from its first number on."""
    rounds_rotation: bool = False
    """Rotate as Llama's published code does: by positions times inverse frequencies, with cosine
    and sine in the model's dtype. Else by positions over frequencies, in float32."""
    qkv_bias: bool = False
    qk_norm: bool = False
    """Normalise each head of queries and keys before it is rotated."""
    reach: Reach = FULL
    """How far rows see, and which positions they score."""

    @property
    def rotary_width(self) -> int:
        """R, how many numbers of a head are rotated."""
        return int(self.head_width * self.rotary_share)

    @property
    def query_width(self) -> int:
        """H * E, the width of all queries of a row."""
        return self.num_heads * self.head_width

    @property
    def kv_width(self) -> int:
        """2 * U * E, the width of the keys and values of a row."""
        return 2 * self.num_kv_heads * self.head_width

    @property
    def layer_products(self) -> int:
        """Number of weights in the products of a layer."""
        return self.width * (2 * self.query_width + self.kv_width + 3 * self.mlp_width)

    @property
    def num_parameters(self) -> int:
        """Number of weights."""
        beside = 2 * self.width + 2 * self.head_width * self.qk_norm
        beside += (self.query_width + self.kv_width) * self.qkv_bias
        tables = 1 if self.tied_head else 2
        outer = self.width * (tables * self.vocab_size + 1)
        return self.num_layers * (self.layer_products + beside) + outer


class Network(Protocol):
    """A mask predictor that can be run row by row and layer by layer."""

    @property
    def config(self) -> ModelConfig:
        """Shape and special ids."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and states."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        ...

    def published(self) -> dict[str, Tensor]:
        """Views of all weights under the names of the published checkpoint."""
        ...

    def copy(self, dtype: torch.dtype) -> Network:
        """The same network with weights of its own, in another dtype.

        Raises:
            RuntimeError: there is no memory for it.
        """
        ...

    def embed(self, ids_N: Tensor) -> Tensor:
        """Embed token ids, giving [N, D]."""
        ...

    def angles(self, rows: Rows) -> Tensor:
        """Rotary cosine and sine [2, N, R] for the positions of ``rows``."""
        ...

    def layer(
        self, index: int, x_ND: Tensor, angles_2NR: Tensor, rows: Rows, store: KVStore
    ) -> Tensor:
        """Run layer ``index`` (from 0) on ``rows``; writes their K/V into the store."""
        ...

    def final_norm(self, x_ND: Tensor) -> Tensor:
        """Normalise the output of the last layer."""
        ...

    def head(self, normed_ND: Tensor) -> Tensor:
        """Logits [N, V] of normalised states."""
        ...
