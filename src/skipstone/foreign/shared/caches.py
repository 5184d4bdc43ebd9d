"""What a foreign model keeps between its calls: tensors of keys and values, whatever holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class _Sized(Protocol):
    """A cache that knows how many positions it has."""

    def get_seq_length(self) -> object: ...


# Of lists in dictionaries in objects: deeper than any cache, and an end to what holds itself.
_DEPTH = 5


def leaves(cache: object, depth: int = _DEPTH) -> Iterator[Tensor]:
    """The tensors in a cache, whatever holds them: lists, dictionaries, dataclasses, objects."""
    if isinstance(cache, Tensor):
        yield cache
    elif depth and not isinstance(cache, (str, bytes, nn.Module, type)):
        parts: Sequence[object] = ()
        if isinstance(cache, (list, tuple)):
            parts = cache
        elif isinstance(cache, Mapping):
            parts = list(cache.values())
        elif hasattr(cache, "__dict__"):
            parts = list(vars(cache).values())
        for part in parts:
            yield from leaves(part, depth - 1)


def key_values(past: object) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer, out of a sequence of pairs or a cache with layers."""
    layers = getattr(past, "layers", past)
    if isinstance(layers, Mapping):
        layers = list(layers.values())
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        return []
    pairs = list[tuple[Tensor, Tensor]]()
    for layer in layers:
        key, value = _pair(layer)
        if not (isinstance(key, Tensor) and isinstance(value, Tensor)):
            return []
        pairs.append((key, value))
    return pairs


def _pair(layer: object) -> tuple[object, object]:
    if isinstance(layer, Sequence):
        return (layer[0], layer[1]) if len(layer) > 1 else (None, None)
    if isinstance(layer, Mapping):
        layer = list(layer.values())
        return (layer[0], layer[1]) if len(layer) == 2 else (None, None)
    return getattr(layer, "keys", None), getattr(layer, "values", None)


def cached_length(holders: Sequence[object]) -> int:
    """Positions that the caches of a call have; 0 if there are none, or it cannot be known."""
    for past in holders:
        if isinstance(past, _Sized):
            length = past.get_seq_length()
            if isinstance(length, int):
                return length
            return int(length) if isinstance(length, Tensor) and length.numel() == 1 else 0
        for leaf in leaves(past):
            # [batch, heads, positions, width], as almost everybody keeps keys.
            if leaf.ndim == 4 and leaf.is_floating_point():
                return leaf.shape[-2]
    return 0
