"""What the engine asks of a model: embed rows, run one layer on rows, read logits from rows.

Shape letters: N packed rows, D width, V vocabulary, B requests, L canvas length,
H query heads, U key/value heads, E head width, R rotated part of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from skipstone.memory.store import KeysAndValues
from skipstone.ops.model.reference_experts import Router
from skipstone.reach import FULL, Reach
from skipstone.rows import Rows


@dataclass(frozen=True)
class MoEConfig:
    """A mixture of experts in place of the MLP, from some layer on."""

    num_experts: int
    expert_width: int
    """Of one expert, between its products."""
    router: Router
    choice_bias: bool = False
    """Whether each expert has a bias that counts for choosing only."""
    shared_width: int = 0
    """Of an MLP beside the experts that every row goes through; 0 for none."""
    first_layer: int = 0
    """Layers before it have an MLP of their own."""

    def hit(self, rows: int) -> float:
        """How many experts so many rows need, if each of them chooses at random."""
        return self.num_experts * (1.0 - (1.0 - self.router.top_k / self.num_experts) ** rows)


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
    """Of an MLP, between its products; experts have their own."""
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
    moe: MoEConfig | None = None
    """None: every layer has an MLP."""

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
    def num_parameters(self) -> int:
        """Number of weights."""
        vectors = 2 * self.width + 2 * self.head_width * self.qk_norm
        vectors += (self.query_width + self.kv_width) * self.qkv_bias
        biases = sum(moe.num_experts * moe.choice_bias for moe in self._mixtures())
        products = sum(self.weights_of(layer) for layer in range(self.num_layers))
        tables = 1 if self.tied_head else 2
        outer = self.width * (tables * self.vocab_size + 1)
        return round(products) + biases + self.num_layers * vectors + outer

    def moe_of(self, layer: int) -> MoEConfig | None:
        """The mixture of experts of a layer, counted from 0; None if it has an MLP."""
        return self.moe if self.moe is not None and layer >= self.moe.first_layer else None

    def weights_of(self, layer: int, experts: float | None = None) -> float:
        """Weights of the products of a layer, counted from 0.

        Args:
            layer: which.
            experts: how many of them count; None: all.
        """
        moe, weights = self.moe_of(layer), self.width * (2 * self.query_width + self.kv_width)
        if moe is None:
            return weights + 3 * self.width * self.mlp_width
        count = moe.num_experts if experts is None else experts
        beside = moe.num_experts + 3 * moe.shared_width
        return weights + self.width * (3 * count * moe.expert_width + beside)

    def weights_used(self, layer: int) -> float:
        """Weights of the products of a layer that one row is multiplied by."""
        return self.weights_of(layer, None if self.moe is None else self.moe.router.top_k)

    def mlp_weights_used(self, layer: int) -> float:
        """Those of them behind its attention: of the MLP, or of a router and its experts."""
        return self.weights_used(layer) - self.width * (2 * self.query_width + self.kv_width)

    def weights_read(self, layer: int, rows: int) -> float:
        """Weights of the products of a layer that so many rows read: of experts, those hit."""
        return self.weights_of(layer, None if self.moe is None else self.moe.hit(rows))

    def _mixtures(self) -> list[MoEConfig]:
        found = (self.moe_of(layer) for layer in range(self.num_layers))
        return [moe for moe in found if moe is not None]


class HalfLayer(NamedTuple):
    """Rows in the midst of a layer: attention is done, the MLP is not."""

    context_NW: Tensor
    """What the heads give, before the last product of attention: [N, H*E]."""
    stream_ND: Tensor
    """What entered the layer, with what attention adds."""
    normed_ND: Tensor
    """Its norm, which the MLP reads."""


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
        self, index: int, x_ND: Tensor, angles_2NR: Tensor, rows: Rows, store: KeysAndValues
    ) -> Tensor:
        """Run layer ``index`` (from 0) on ``rows``; writes their K/V into the store."""
        ...

    def attended(
        self, index: int, x_ND: Tensor, angles_2NR: Tensor, rows: Rows, store: KeysAndValues
    ) -> HalfLayer:
        """The first half of layer ``index`` (from 0), which writes K/V: its attention."""
        ...

    def with_mlp(self, index: int, stream_ND: Tensor, normed_ND: Tensor) -> Tensor:
        """The other half, for any of the rows: what the MLP gives is added to the stream."""
        ...

    def values(self, index: int, x_ND: Tensor) -> Tensor:
        """The values [N, U, E] of layer ``index`` (from 0) alone; writes nothing."""
        ...

    def final_norm(self, x_ND: Tensor) -> Tensor:
        """Normalise the output of the last layer."""
        ...

    def head(self, normed_ND: Tensor) -> Tensor:
        """Logits [N, V] of normalised states."""
        ...
