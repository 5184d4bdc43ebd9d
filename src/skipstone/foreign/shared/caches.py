"""What a foreign model keeps between its calls: tensors of keys and values, whatever holds them.

Shape letters: B batch, H heads, L positions, W width of a head, D width of all heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

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


def returned(output: object) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer in what a model returned; empty if it hands no cache on."""
    name = "past_key_values"
    named = output.get(name) if isinstance(output, Mapping) else None
    # A dictionary with attributes may have been given them after it was filled.
    found = key_values(getattr(output, name, None) if named is None else named)
    if found or not isinstance(output, tuple):
        return found
    parts = cast("tuple[object, ...]", output)[1:]
    return next((pairs for part in parts if (pairs := key_values(part))), [])


def key_values(past: object) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer, out of a sequence of pairs or a cache with layers."""
    layers = getattr(past, "layers", past)
    keys, values = getattr(past, "key_cache", None), getattr(past, "value_cache", None)
    if isinstance(keys, list) and isinstance(values, list):
        layers = list(zip(keys, values, strict=False))
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


def by_heads(store: Tensor, length: int) -> Tensor:
    """Keys or values as [B, H, L, W], with one head if they are not cut into heads.

    What has another shape than these comes back as it is.

    Args:
        store: [B, H, L, W], [B, L, H, W] or [B, L, D].
        length: of the canvas, which tells positions from heads.
    """
    if store.ndim == 3:
        return store.unsqueeze(1)
    heads_last = store.ndim == 4 and store.shape[1] == length != store.shape[2]
    return store.transpose(1, 2) if heads_last else store


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
