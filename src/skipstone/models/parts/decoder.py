"""The decoder that all models here are: embedding, layers, final norm and head.

What differs between architectures is in ``ModelConfig`` and in the names of their weights.

Shape letters: N packed rows, D width, V vocabulary, L positions, R rotated part of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skipstone.memory.store import KeysAndValues
from skipstone.models.base import HalfLayer, ModelConfig
from skipstone.models.names import WeightNames
from skipstone.models.parts.attention import Attention
from skipstone.models.parts.linear import Linear
from skipstone.models.parts.mlp import MLP
from skipstone.models.parts.moe import MoE
from skipstone.models.parts.norm import RMSNorm
from skipstone.ops.model import dispatch as ops
from skipstone.rows import Rows

# The MLP is six times as wide as the states: of more rows at once it would take most of the memory.
_PIECE_ROWS = 4096


class Layer:
    """One transformer block."""

    def __init__(
        self, config: ModelConfig, index: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Allocate uninitialised weights; a checkpoint fills them through their places.

        Args:
            config: of the network.
            index: of the layer, from 0.
            dtype: of the weights.
            device: where they live.
        """
        self.attention_norm = RMSNorm.empty(config.width, config.norm_eps, dtype, device)
        self.attention = Attention(config, dtype, device)
        self.mlp_norm = RMSNorm.empty(config.width, config.norm_eps, dtype, device)
        self.mlp = _mlp(config, index, dtype, device)

    def forward(
        self, x_ND: Tensor, angles_2NR: Tensor, index: int, rows: Rows, store: KeysAndValues
    ) -> Tensor:
        """Run the block on packed rows; writes their K/V into layer ``index`` of the store."""
        context_NW = self._context(x_ND, angles_2NR, index, rows, store)
        counts_N = rows.writes_N
        if rows.num_rows <= _PIECE_ROWS:
            return self._after_attention(x_ND, context_NW, counts_N)
        out_ND = torch.empty_like(x_ND)
        for piece in _pieces(rows.num_rows):
            counts = None if counts_N is None else counts_N[piece]
            out_ND[piece] = self._after_attention(x_ND[piece], context_NW[piece], counts)
        return out_ND

    def attended(
        self, x_ND: Tensor, angles_2NR: Tensor, index: int, rows: Rows, store: KeysAndValues
    ) -> HalfLayer:
        """Run the block up to its MLP, in the pieces of ``forward``, so that no bit differs."""
        context_NW = self._context(x_ND, angles_2NR, index, rows, store)
        parts = [self._joined(x_ND[p], context_NW[p]) for p in _pieces(rows.num_rows)]
        stream_ND, normed_ND = map(torch.cat, zip(*parts, strict=True))
        return HalfLayer(context_NW, stream_ND, normed_ND)

    def with_mlp(self, stream_ND: Tensor, normed_ND: Tensor) -> Tensor:
        """Add what the MLP gives."""
        pieces = _pieces(len(stream_ND))
        return torch.cat([self.mlp.added(stream_ND[p], normed_ND[p]) for p in pieces])

    def _context(
        self, x_ND: Tensor, angles_2NR: Tensor, index: int, rows: Rows, store: KeysAndValues
    ) -> Tensor:
        return self.attention(self.attention_norm(x_ND), angles_2NR, index, rows, store)

    def _joined(self, x_ND: Tensor, context_NW: Tensor) -> tuple[Tensor, Tensor]:
        return self.attention.out.added_and_normed(x_ND, context_NW, self.mlp_norm)

    def _after_attention(self, x_ND: Tensor, context_NW: Tensor, counts_N: Tensor | None) -> Tensor:
        stream_ND, normed_ND = self._joined(x_ND, context_NW)
        return self.mlp.added(stream_ND, normed_ND, counts_N)

    def places(self) -> dict[str, Tensor]:
        """Views of the weights by their place."""
        norms = {
            "attention_norm": self.attention_norm.weight,
            "mlp_norm": self.mlp_norm.weight,
        }
        return norms | self.attention.places() | self.mlp.places()


def _pieces(num_rows: int) -> list[slice]:
    """So many rows at a time; one piece, maybe empty, where there are few."""
    return [slice(at, at + _PIECE_ROWS) for at in range(0, max(num_rows, 1), _PIECE_ROWS)]


def _mlp(config: ModelConfig, index: int, dtype: torch.dtype, device: torch.device) -> MLP | MoE:
    """What layer ``index`` has behind its attention."""
    moe = config.moe_of(index)
    if moe is None:
        return MLP(config.mlp_width, config.width, dtype, device)
    return MoE(moe, config.width, dtype, device)


class Decoder:
    """A network for inference, as ``Network`` asks for it."""

    def __init__(
        self, config: ModelConfig, names: WeightNames, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Allocate uninitialised weights in their final dtype and place.

        Args:
            config: shape and special ids.
            names: what the published checkpoint calls the weights.
            dtype: of weights and states.
            device: where they live.
        """
        self.config, self._names = config, names
        outer = _outer(config, dtype, device)
        self.embedding = outer["embedding"]
        self.layers = [Layer(config, i, dtype, device) for i in range(config.num_layers)]
        self.norm = RMSNorm(outer["norm"], config.norm_eps)
        self.lm_head = Linear(outer.get("head", self.embedding))
        rounds = config.rounds_rotation
        table_2LR = ops.rotary_tables(
            config.max_length, config.rotary_width, config.rope_theta, device, inverted=rounds
        )
        self.rotary_2LR = table_2LR.to(dtype) if rounds else table_2LR

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and states."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.embedding.device

    def published(self) -> dict[str, Tensor]:
        """Views of all weights under the names of the published checkpoint."""
        outer = {"embedding": self.embedding, "norm": self.norm.weight}
        if not self.config.tied_head:
            outer["head"] = self.lm_head.weight
        return self._names.of(outer, [layer.places() for layer in self.layers])

    def copy(self, dtype: torch.dtype) -> Decoder:
        """The same network with weights of its own, in another dtype.

        Raises:
            RuntimeError: there is no memory for it.
        """
        twin = Decoder(self.config, self._names, dtype, self.device)
        for name, weight in twin.published().items():
            weight.copy_(self.published()[name])
        return twin

    def embed(self, ids_N: Tensor) -> Tensor:
        """Embed token ids, giving [N, D]."""
        return self.embedding[ids_N]

    def angles(self, rows: Rows) -> Tensor:
        """Rotary cosine and sine [2, N, R] for the positions of ``rows``."""
        return self.rotary_2LR[:, rows.position_N]

    def layer(
        self, index: int, x_ND: Tensor, angles_2NR: Tensor, rows: Rows, store: KeysAndValues
    ) -> Tensor:
        """Run layer ``index`` (from 0) on ``rows``; writes their K/V into the store."""
        return self.layers[index].forward(x_ND, angles_2NR, index, rows, store)

    def attended(
        self, index: int, x_ND: Tensor, angles_2NR: Tensor, rows: Rows, store: KeysAndValues
    ) -> HalfLayer:
        """The first half of layer ``index`` (from 0), which writes K/V: its attention."""
        return self.layers[index].attended(x_ND, angles_2NR, index, rows, store)

    def with_mlp(self, index: int, stream_ND: Tensor, normed_ND: Tensor) -> Tensor:
        """The other half, for any of the rows: what the MLP gives is added to the stream."""
        return self.layers[index].with_mlp(stream_ND, normed_ND)

    def values(self, index: int, x_ND: Tensor) -> Tensor:
        """The values [N, U, E] of layer ``index`` (from 0) alone; writes nothing."""
        layer = self.layers[index]
        return layer.attention.values(layer.attention_norm(x_ND))

    def final_norm(self, x_ND: Tensor) -> Tensor:
        """Normalise the output of the last layer."""
        return self.norm(x_ND)

    def head(self, normed_ND: Tensor) -> Tensor:
        """Logits [N, V] of normalised states."""
        return self.lm_head(normed_ND)


def shapes(config: ModelConfig, names: WeightNames) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a checkpoint must have; allocates nothing."""
    # Layers, and not the whole network: its rotary tables would make torch load its compiler to
    # compute on the meta device, which takes a second and 80 MB.
    meta, count = torch.device("meta"), config.num_layers
    first, last = (Layer(config, i, torch.float32, meta).places() for i in (0, count - 1))
    layers = [last if config.moe_of(i) else first for i in range(count)]
    views = names.of(_outer(config, torch.float32, meta), layers)
    return {name: tuple(view.shape) for name, view in views.items()}


def _outer(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Uninitialised weights outside the layers, by their place."""
    table = (config.vocab_size, config.width)
    found = {
        "embedding": torch.empty(table, dtype=dtype, device=device),
        "norm": torch.empty(config.width, dtype=dtype, device=device),
    }
    if not config.tied_head:
        found["head"] = torch.empty(table, dtype=dtype, device=device)
    return found
