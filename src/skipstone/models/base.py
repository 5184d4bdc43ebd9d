"""What the engine asks of a model: embed rows, run one layer on rows, read logits from rows.

Shape letters: N packed rows, D width, V vocabulary, B requests, L canvas length,
H query heads, U key/value heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from skipstone.memory.store import KVStore
from skipstone.rows import Rows


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a dense LLaDA model and its special ids."""

    width: int
    """D, ``d_model`` in config.json."""
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_width: int
    vocab_size: int
    """V, rows of the embedding and of the head."""
    max_length: int
    rope_theta: float
    norm_eps: float
    tied_head: bool
    mask_id: int
    eos_id: int

    @property
    def num_parameters(self) -> int:
        """Number of weights."""
        kv = 2 * self.num_kv_heads * self.head_width
        layer = self.width * (2 * self.width + kv + 3 * self.mlp_width + 2)
        tables = 1 if self.tied_head else 2
        return self.num_layers * layer + self.width * (tables * self.vocab_size + 1)

    @property
    def head_width(self) -> int:
        """E, the width of one attention head."""
        return self.width // self.num_heads


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

    def embed(self, ids_N: Tensor) -> Tensor:
        """Embed token ids, giving [N, D]."""
        ...

    def angles(self, rows: Rows) -> Tensor:
        """Rotary cosine and sine [2, N, E] for the positions of ``rows``."""
        ...

    def layer(
        self, index: int, x_ND: Tensor, angles_2NE: Tensor, rows: Rows, store: KVStore
    ) -> Tensor:
        """Run layer ``index`` (from 0) on ``rows``; writes their K/V into the store."""
        ...

    def final_norm(self, x_ND: Tensor) -> Tensor:
        """Normalise the output of the last layer."""
        ...

    def head(self, normed_ND: Tensor) -> Tensor:
        """Logits [N, V] of normalised states."""
        ...
