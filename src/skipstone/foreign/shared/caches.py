"""What a foreign model keeps between its calls: tensors of keys and values, whatever holds them.

Shape letters: B batch, H heads, L positions, W width of a head, D width of all heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeGuard, cast, runtime_checkable

from torch import Size, Tensor, nn


@runtime_checkable
class _Sized(Protocol):
    """A cache that knows how many positions it has."""

    def get_seq_length(self) -> object: ...


# ``k``, ``keys``, ``key_cache``, ``cached_keys``, ``past_k``; and the same of values.
_KEYS, _VALUES = (
    re.compile(rf"((past|cached?)_?)?({short}|{long}s?|{short}s)(_?(cached?|states?|s))?")
    for short, long in (("k", "key"), ("v", "value"))
)
# Of lists in dictionaries in objects: deeper than any cache, and an end to what holds itself.
_DEPTH = 5

HEADS_FIRST, POSITIONS_FIRST = 2, 1
"""The dimension that is the length, of keys [B, H, L, W] and of keys [B, L, H, W]."""


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
    """Keys and values of each layer, however a cache has them.

    A sequence of pairs, a cache with layers, keys and values in turn, or one tensor of all layers.
    """
    layers = _layers(past)
    if isinstance(layers, Tensor):
        layers = _stacked(layers)
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        return []
    if layers and len(layers) % 2 == 0 and all(_of_heads(part) for part in layers):
        layers = list(zip(layers[::2], layers[1::2], strict=True))
    pairs = list[tuple[Tensor, Tensor]]()
    for layer in layers:
        key, value = _pair(layer)
        if not (isinstance(key, Tensor) and isinstance(value, Tensor)):
            return []
        pairs.append((key, value))
    return pairs


def _layers(past: object) -> object:
    """What has the keys and values of all layers."""
    # Names come first: values alone, of an even number of layers, look like pairs.
    keys, values = _named_pair(past)
    if _one_a_layer(keys) and _one_a_layer(values):
        return list(zip(keys, values, strict=False))
    layers = getattr(past, "layers", past)
    if isinstance(layers, Mapping):
        return list(layers.values())
    if layers is past and hasattr(past, "__dict__") and not isinstance(past, (list, tuple, Tensor)):
        # What was made last of what it was given is what it reads.
        parts = (part for name, part in reversed(vars(past).items()) if not _is_half(name, part))
        return next((part for part in parts if key_values(part)), None)
    return layers


def _stacked(every: Tensor) -> list[Tensor] | None:
    """Keys and values of each layer, [2, B, H, L, W], out of one tensor of all layers."""
    if every.ndim == 6 and 2 in every.shape[:2] and every.is_floating_point():
        return list(every.unbind(0) if every.shape[1] == 2 else every.unbind(1))
    return None


def _of_heads(part: object) -> bool:
    return isinstance(part, Tensor) and part.ndim == 4 and part.is_floating_point()


def _is_half(name: str, part: object) -> bool:
    """Whether a part of a cache has no pairs: keys alone, values alone, or no tensors at all."""
    name = name.strip("_").lower()
    if not isinstance(part, (list, tuple, Tensor)):
        return True
    return bool(_KEYS.fullmatch(name) or _VALUES.fullmatch(name))


def _one_a_layer(part: object) -> TypeGuard[Sequence[object] | Tensor]:
    """Whether a part of a cache has something for each layer: a list, or [layers, B, H, L, W]."""
    return part.ndim == 5 if isinstance(part, Tensor) else isinstance(part, (list, tuple))


def _pair(layer: object) -> tuple[object, object]:
    if isinstance(layer, Tensor):
        return (layer[0], layer[1]) if layer.ndim == 5 and len(layer) == 2 else (None, None)
    if isinstance(layer, Sequence):
        return (layer[0], layer[1]) if len(layer) > 1 else (None, None)
    if isinstance(layer, Mapping):
        named, parts = _named_pair(layer), list(layer.values())
        return named if len(parts) != 2 or named[0] is not None else (parts[0], parts[1])
    named = _named_pair(layer)
    if named[0] is not None:
        return named
    return getattr(layer, "keys", None), getattr(layer, "values", None)


def _named_pair(holder: object) -> tuple[object, object]:
    """The only two parts whose names say keys and values: ``k`` and ``v``, ``key_cache``, ..."""
    parts = holder if isinstance(holder, Mapping) else getattr(holder, "__dict__", {})
    named = {str(name).strip("_").lower(): part for name, part in parts.items() if part is not None}
    keys = [part for name, part in named.items() if _KEYS.fullmatch(name)]
    values = [part for name, part in named.items() if _VALUES.fullmatch(name)]
    return (keys[0], values[0]) if len(keys) == len(values) == 1 else (None, None)


def by_heads(store: Tensor, length: int, axis: int | None = None) -> Tensor:
    """Keys or values as [B, H, L, W], with one head if they are not cut into heads.

    What has another shape than these comes back as it is.

    Args:
        store: [B, H, L, W], [B, L, H, W] or [B, L, D].
        length: of the canvas, which tells positions from heads where the axis is not known.
        axis: the dimension of its length, if it is known.
    """
    if store.ndim == 3:
        return store.unsqueeze(1)
    heads_last = store.ndim == 4 and (
        store.shape[1] == length != store.shape[2] if axis is None else axis == POSITIONS_FIRST
    )
    return store.transpose(1, 2) if heads_last else store


def cache_shape(holders: Sequence[object]) -> Size | None:
    """The shape, of four dimensions, of the first keys or values in the caches of a call."""
    for past in holders:
        for leaf in leaves(past):
            if leaf.ndim == 4 and leaf.is_floating_point():
                return leaf.shape
    return None


def said_length(holders: Sequence[object]) -> int | None:
    """Positions that a cache of a call itself says it has; None if none says it."""
    for past in holders:
        if isinstance(past, _Sized):
            length = past.get_seq_length()
            if isinstance(length, int):
                return length
            return int(length) if isinstance(length, Tensor) and length.numel() == 1 else 0
    return None
