"""Attention that one function computes: torch's own, and kernels that tell torch their arguments.

A kernel is known by the names of its arguments: queries, keys and values, and a scale.

Shape letters: C batch of the call, H query heads, G heads of keys and values, N rows, K keys,
W width of a head.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from skipstone.foreign.attention.call import SeenAttention
from skipstone.foreign.shared.functions import Operation

# Whatever stands under this name in torch.nn.functional now: this is what computes.
FUSED: object = torch._C._nn.scaled_dot_product_attention


_NAMES = {
    "query": ("query", "q", "queries"),
    "key": ("key", "k", "keys"),
    "value": ("value", "v", "values"),
    "mask": ("attn_mask", "attn_bias", "mask", "bias"),
    "scale": ("scale", "softmax_scale", "sm_scale"),
    "causal": ("is_causal", "causal"),
    "drops": ("dropout_p", "dropout"),
}
# What bends scores or hides keys in a way of its own, and the values with which it does nothing.
_OWN: dict[str, tuple[object, ...]] = {
    "softcap": (0, None),
    "logits_soft_cap": (0, None),
    "alibi_slopes": (None,),
    "window_size_left": (-1, None),
    "window_size_right": (-1, None),
    "window_size": (-1, None),
}


class Kernels:
    """Attention in one function."""

    def __init__(self) -> None:
        """No kernel was seen yet."""
        self._rows = 0
        self._arguments = dict[object, tuple[str, ...]]()
        """Of each function that was looked at, names of its arguments; none if it is no kernel."""
        self.lost = ""
        """What a kernel was asked to do that is not followed."""

    def begin(self, rows: int) -> None:
        """A layer begins."""
        self._rows, self.lost = rows, ""

    def heard(self, operation: Operation) -> SeenAttention | None:
        """A function was called."""
        func = operation.func
        if func is FUSED:
            return _fused(operation)
        if not isinstance(func, (OpOverload, OpOverloadPacket)):
            return None
        if func not in self._arguments:
            self._arguments[func] = _arguments(func)
        return self._kernel(operation, self._arguments[func])

    def _kernel(self, operation: Operation, names: tuple[str, ...]) -> SeenAttention | None:
        given = {**dict(zip(names, operation.args, strict=False)), **operation.kwargs}
        found = {
            part: next((given[name] for name in called if name in given), None)
            for part, called in _NAMES.items()
        }
        out = operation.out[0] if isinstance(operation.out, (tuple, list)) else operation.out
        parts = found["query"], found["key"], found["value"], out
        query, key, value, mixed = self._laid(str(operation.func), *parts)
        if query is None or key is None or value is None or mixed is None:
            return None
        asked = ((n, given[n], nothing) for n, nothing in _OWN.items() if n in given)
        own = [
            n for n, value, nothing in asked if isinstance(value, Tensor) or value not in nothing
        ]
        self.lost = own[0] if own else ""
        mask, scale = found["mask"], found["scale"]
        return SeenAttention(
            query_CHNW=query,
            key_CGKW=key,
            value_CGKW=value,
            mask=mask if isinstance(mask, Tensor) else None,
            causal=bool(found["causal"]),
            scale=float(scale) if isinstance(scale, (int, float)) else query.shape[-1] ** -0.5,
            drops=_dropped(found["drops"]),
            mixed_CHNW=mixed,
        )

    def _laid(self, name: str, *parts: object) -> list[Tensor | None]:
        """Tensors with their heads before their rows; kernels of flash attention have rows first.

        Args:
            name: of the kernel.
            parts: queries first, [C, N, H, W] or [C, H, N, W]; or [N, H, W] of one sample.
        """
        tensors = [x if isinstance(x, Tensor) else None for x in parts]
        if all(x is not None and x.dim() == 3 for x in tensors):
            return [None if x is None else x[None].transpose(1, 2) for x in tensors]
        if not all(_with_heads(x) for x in tensors) or tensors[0] is None:
            return [None] * len(tensors)
        second, third = (tensors[0].shape[i] == self._rows for i in (1, 2))
        first = "scaled_dot_product" not in name if second == third else second
        return [x.transpose(1, 2) if first and x is not None else x for x in tensors]


def _arguments(func: OpOverload | OpOverloadPacket) -> tuple[str, ...]:
    """Names of the arguments of a kernel of attention; none if a function is none."""
    one = func if isinstance(func, OpOverload) else getattr(func, func.overloads()[0])
    names = tuple(argument.name for argument in one._schema.arguments)
    parts = all(set(_NAMES[part]) & set(names) for part in ("query", "key", "value", "scale"))
    return names if parts else ()


def _fused(operation: Operation) -> SeenAttention | None:
    """A call of torch's own attention."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, operation.args, strict=False)), **operation.kwargs}
    query, key, value, out = given["query"], given["key"], given["value"], operation.out
    if not (_with_heads(query) and _with_heads(key) and _with_heads(value) and _with_heads(out)):
        return None
    mask, scale = given.get("attn_mask"), given.get("scale")
    return SeenAttention(
        query_CHNW=query,
        key_CGKW=key,
        value_CGKW=value,
        mask=mask if isinstance(mask, Tensor) else None,
        causal=bool(given.get("is_causal", False)),
        scale=float(scale) if isinstance(scale, (int, float)) else query.shape[-1] ** -0.5,
        drops=_dropped(given.get("dropout_p")),
        mixed_CHNW=out,
    )


def _with_heads(x: object) -> TypeGuard[Tensor]:
    return isinstance(x, Tensor) and x.dim() == 4


def _dropped(share: object) -> float:
    return float(share) if isinstance(share, (int, float)) else 0.0
