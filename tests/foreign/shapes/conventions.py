"""Ways in which a network is told where its rows stand, and given its cache.

Shape letters: B batch, N rows of the call, L canvas length, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.foreign.shapes.network import Cache, Network


class ByPositionIds(Network):
    """``position_ids``, and one cache or several of any name."""

    def forward(
        self,
        tokens: Tensor,
        position_ids: Tensor | None = None,
        data_caches: list[Cache] | None = None,
    ) -> Tensor:
        """Rows at ``position_ids``."""
        return self.run(tokens, position_ids, data_caches[0] if data_caches else None)


class ByCachePosition(Network):
    """``cache_position`` [N], and a dictionary."""

    def forward(self, x: Tensor, kv: Cache | None = None, *, cache_position: Tensor) -> Tensor:
        """Rows at ``cache_position``."""
        return self.run(x, cache_position, kv)


@dataclass
class Store:
    """A cache in a dataclass."""

    layers: Cache = field(default_factory=dict)


class ByStart(Network):
    """The first position as a number."""

    def forward(self, ids: Tensor, start_pos: int = 0, past: Store | None = None) -> Tensor:
        """Rows from ``start_pos`` on."""
        positions = torch.arange(start_pos, start_pos + ids.shape[1])
        return self.run(ids, positions, None if past is None else past.layers)


class BySlice(Network):
    """The rows as a slice; the cache is made by the model at its first call."""

    def forward(
        self, ids: Tensor, rows: slice | None = None, cache: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        """Rows at a slice."""
        cache = {} if cache is None else cache
        positions = None if rows is None else torch.arange(rows.start, rows.stop)
        return self.run(ids, positions, cache), cache


class ByMask(Network):
    """A bool mask over the canvas, or its two ends."""

    def forward(
        self,
        ids: Tensor,
        past_key_values: Cache | None = None,
        replace_position: Tensor | tuple[int, int] | None = None,
    ) -> Tensor:
        """Rows where ``replace_position`` is True."""
        if isinstance(replace_position, tuple):
            positions = torch.arange(*replace_position)
        elif replace_position is None:
            positions = None
        else:
            positions = replace_position.nonzero()[:, 1].view(len(ids), -1)
        return self.run(ids, positions, past_key_values)


class Static:
    """A cache with room for more than it has, as static caches are."""

    def __init__(self) -> None:
        self.layers = dict[int, tuple[Tensor, Tensor]]()
        self.length = 0

    def get_seq_length(self) -> int:
        """Positions that it has."""
        return self.length


class ByLength(Network):
    """Nothing but a cache that grows: rows come after those that it has."""

    def forward(self, input_ids: Tensor, past_key_values: Static | None = None) -> Tensor:
        """Rows after the cache."""
        begin = 0 if past_key_values is None else past_key_values.length
        rows = torch.arange(begin, begin + input_ids.shape[1])
        logits = self.run(input_ids, rows, past_key_values.layers if past_key_values else None)
        if past_key_values is not None:
            past_key_values.length += input_ids.shape[1]
        return logits


class ByItself(Network):
    """A cache and positions that nobody passes: the loop sets them beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: Cache | None = None
        self.rows: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """Rows where the loop has said."""
        return self.run(ids, self.rows, self.cache)


class ByEmbeddings(Network):
    """Embeddings instead of ids."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        past: Cache | None = None,
    ) -> Tensor:
        """Rows at ``position_ids``."""
        return self.run(input_ids, position_ids, past, inputs_embeds)


class Wrapped(Network):
    """A wrapper that passes on whatever it is given."""

    def __init__(self, inner: Network) -> None:
        super().__init__()
        self.model = inner  # pyrefly: ignore[bad-assignment]

    def forward(self, *args: object, **kwargs: object) -> object:  # pyrefly: ignore
        """Whatever the inner one gives."""
        return self.model(*args, **kwargs)
